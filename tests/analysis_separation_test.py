"""r-separation: the numbers of the official code (Yang et al. 2020, float64), and all pairs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import mesh
from score_jax.analysis import separation, separation_blocks
from score_jax.analysis.separation import (
    Examples,
    compare,
    keep_from,
    nearest_other,
)
from score_jax.types import UserError


def points(count, function, step, shift, label_step):
    n, k = np.arange(count)[:, None], np.arange(5)[None, :]
    return 0.5 + 0.5 * function(step * n * (k + 1) + shift * k), label_step * n[:, 0] % 3


TRAIN, TRAIN_LABELS = points(40, np.sin, 0.37, 1, 1)
TEST, TEST_LABELS = points(12, np.cos, 0.53, 2, 2)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks, the last of them filled up, on either side."""
    monkeypatch.setattr(separation_blocks, "CPU_BLOCK", (2, 8))
    monkeypatch.setattr(separation_blocks, "TILE", 4)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def train_train(float64):
    return nearest_other(TRAIN, TRAIN_LABELS, TRAIN, TRAIN_LABELS)


def test_train_train(train_train):
    assert train_train.distances.min() == pytest.approx(0.0027408961, abs=1e-10)
    assert train_train.distances.mean() == pytest.approx(0.0129786471, abs=1e-10)


def test_test_train(float64):
    found = nearest_other(TEST, TEST_LABELS, TRAIN, TRAIN_LABELS)
    assert found.distances.min() == pytest.approx(0.0807296284, abs=1e-10)


def test_the_filter_keeps_from_the_fifth_smallest(train_train):
    kept = keep_from(train_train.distances, 5)
    assert kept.sum() == 36
    assert train_train.distances[kept].min() == pytest.approx(0.0095829135, abs=1e-10)
    assert keep_from(np.array([2.0, 1.0, 1.0]), 2).all()  # Ties stay together.


@pytest.mark.parametrize("place", [0, 4])
def test_a_place_that_is_not_there_is_refused(place):
    with pytest.raises(UserError, match=f"place={place} must lie in 1 to 3"):
        keep_from(np.ones(3), place)


@pytest.mark.parametrize(
    ("kind", "p"),
    [
        *(("uint8", p) for p in (1, 1.5, 2, 30, np.inf)),
        *(("float64", p) for p in (2, np.inf)),
        ("wide uint8", 2),
    ],
)
def test_every_norm_and_type_agrees_with_all_pairs(small_blocks, float64, p, kind):
    random = np.random.default_rng(0)
    # Of uint8 the features are summed in several chunks; wide: the sum of squares leaves int32.
    shape = {"float64": (3, 5, 1), "uint8": (10, 70, 1), "wide uint8": (200, 200, 1)}[kind]
    queries, references = (random.integers(0, 256, (n, *shape)) for n in (9, 37))
    query_labels, reference_labels = random.integers(0, 3, 9), random.integers(0, 3, 37)
    references[0], reference_labels[0] = queries[0], query_labels[0]  # The same image: not counted.
    gaps = np.abs((queries[:, None] - references[None]) / 255).reshape(9, 37, -1)
    pairs = np.linalg.norm(gaps, p, axis=-1)
    pairs[query_labels[:, None] == reference_labels] = np.inf
    if kind == "float64":
        queries, references = queries / 255, references / 255
    else:
        queries, references = queries.astype(np.uint8), references.astype(np.uint8)
    found = nearest_other(queries, query_labels, references, reference_labels, p=p)
    # The nearest is found in float32 there, and its distance computed again.
    np.testing.assert_allclose(found.distances, pairs.min(1), rtol=1e-6)
    own = pairs[np.arange(9), found.indices]
    np.testing.assert_allclose(own, found.distances, rtol=1e-14)


def test_the_largest_distance_counts_and_the_same_label_does_not(small_blocks):
    black, white = (np.full((1, 2, 2, 1), value, np.uint8) for value in (0, 255))
    found = nearest_other(black, np.array([0]), np.concatenate([black, white]), np.array([0, 1]))
    assert (found.distances.tolist(), found.indices.tolist()) == ([1.0], [1])


@pytest.mark.parametrize("p", [1, 2])
def test_the_largest_differences_of_many_features_are_exact(small_blocks, p):
    # Odd products: their sum would be rounded above 2^24.
    dark, white = (np.full((1, 41, 41, 1), value, np.uint8) for value in (1, 255))
    sides = white, np.array([0]), np.concatenate([dark, white]), np.array([1, 0])
    found = nearest_other(*sides, p=p).distances
    np.testing.assert_allclose(found, [254 / 255 * 1681 ** (1 / p)], rtol=1e-15)


def test_queries_are_split_over_the_devices_and_nothing_is_sent_between_them():
    layout = mesh.create()
    assert layout.num_devices == 4
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 6), dtype=np.uint8)
    queries, references = (
        place(images, layout)
        for place in (separation_blocks.place_queries, separation_blocks.place_references)
    )
    assert {shard.data.shape for shard in queries.addressable_shards} == {(6, 2)}
    labels = np.zeros(8, np.int32)
    arguments = (queries, labels, jnp.tile(references, 16), np.zeros(128, np.int32))
    compiled = separation_blocks.least.lower(*arguments, p=np.inf).compile()
    assert not re.search("all-gather|all-reduce|all-to-all|permute", compiled.as_text())
    assert compiled.output_shardings.powers.spec == queries.sharding.spec


def test_one_device_finds_what_four_find(small_blocks, monkeypatch):
    monkeypatch.setattr(separation, "COUNT", 32)  # Two parts of queries.
    random = np.random.default_rng(0)
    points = Examples(random.integers(0, 9, (61, 6), dtype=np.uint8), np.arange(61) % 3)
    done = []
    one, four = (
        compare(points, points, layout=mesh.create(jax.devices()[:count]), tell=done.append)
        for count in (1, 4)
    )
    for name in ("pair_distances", "pair_queries"):
        np.testing.assert_array_equal(getattr(one, name), getattr(four, name))
    np.testing.assert_array_equal(one.nearest.distances, four.nearest.distances)
    first = done.index(61 * 61) + 1
    for part in (done[:first], done[first:]):
        assert part == sorted(part) and part[-1] == 61 * 61 and len(part) > 8


def test_one_class_has_no_separation():
    with pytest.raises(UserError, match="every example compared with has label 4"):
        nearest_other(TRAIN, np.full(40, 4), TRAIN, np.full(40, 4))
    with pytest.raises(UserError, match=r"float64\[5\] cannot be compared with float64\[4\]"):
        nearest_other(TRAIN, TRAIN_LABELS, TRAIN[:, :4], TRAIN_LABELS)
    with pytest.raises(UserError, match="p=0.5 is not a norm"):
        nearest_other(TRAIN, TRAIN_LABELS, TRAIN, TRAIN_LABELS, p=0.5)
