"""r-separation: the numbers of the official code (Yang et al. 2020, float64), and the theorem."""

import jax
import numpy as np
import pytest

from score_jax.analysis import separation_blocks
from score_jax.analysis.separation import DistanceClassifier, keep_from, nearest_other
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


@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
@pytest.mark.parametrize("kind", ["float64", "uint8", "wide uint8"])
def test_every_norm_and_type_agrees_with_all_pairs(small_blocks, float64, p, kind):
    random = np.random.default_rng(0)
    # Wide: the sum of squares leaves int32.
    shape = {"float64": (3, 5, 1), "uint8": (3, 5, 1), "wide uint8": (200, 200, 1)}[kind]
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
    tolerance = 1e-4 if kind == "wide uint8" else 1e-6
    np.testing.assert_allclose(found.distances, pairs.min(1), rtol=tolerance)
    np.testing.assert_allclose(pairs[np.arange(9), found.indices], pairs.min(1), rtol=tolerance)


def test_the_largest_distance_counts_and_the_same_label_does_not():
    black, white = (np.full((1, 2, 2, 1), value, np.uint8) for value in (0, 255))
    found = nearest_other(black, np.array([0]), np.concatenate([black, white]), np.array([0, 1]))
    assert (found.distances.tolist(), found.indices.tolist()) == ([1.0], [1])


def test_one_class_has_no_separation():
    with pytest.raises(UserError, match="every example compared with has label 4"):
        nearest_other(TRAIN, np.full(40, 4), TRAIN, np.full(40, 4))
    with pytest.raises(UserError, match=r"float64\[5\] cannot be compared with float64\[4\]"):
        nearest_other(TRAIN, TRAIN_LABELS, TRAIN[:, :4], TRAIN_LABELS)
    with pytest.raises(UserError, match="p=0.5 is not a norm"):
        nearest_other(TRAIN, TRAIN_LABELS, TRAIN, TRAIN_LABELS, p=0.5)


def test_the_classifier_of_the_theorem_is_right_on_every_ball(train_train):
    radius = train_train.distances.min() / 2
    classifier = DistanceClassifier(points=TRAIN, labels=TRAIN_LABELS, radius=radius)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (200, 40, 5))
    probes = (TRAIN + 0.999 * radius * signs).reshape(-1, 5)
    assert (classifier(probes) == np.tile(TRAIN_LABELS, 200)).all()
    # The radius is as large as it can be: just beyond it the nearer point is another's.
    pair = int(train_train.distances.argmin())
    gap = TRAIN[train_train.indices[pair]] - TRAIN[pair]
    beyond = TRAIN[pair] + np.clip(gap, -1.001 * radius, 1.001 * radius)
    assert classifier(beyond[None])[0] != TRAIN_LABELS[pair]


def test_its_values_are_lipschitz_and_attain_the_bound(train_train):
    radius = train_train.distances.min() / 2
    classifier = DistanceClassifier(points=TRAIN, labels=TRAIN_LABELS, radius=radius)
    corners = TRAIN + 0.5 * radius * np.random.default_rng(1).choice([-1.0, 1.0], TRAIN.shape)
    change = np.abs(classifier.values(corners) - classifier.values(TRAIN))
    slopes = change / (0.5 * radius)
    assert slopes.max() == pytest.approx(1 / radius, rel=1e-9)
    assert 1 / radius == pytest.approx(729.688, abs=1e-3)
