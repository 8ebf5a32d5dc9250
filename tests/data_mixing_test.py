"""Batches of several sets: exact numbers, weights, pools, emulated workers, subsets, epochs."""

import hashlib

import numpy as np
import pytest

from score_jax import config as config_module
from score_jax.data import mixing
from score_jax.data.sampling import LabelledImages, PooledSampler, Sampler
from score_jax.types import UserError

HUNDRED_MILLION = 100_000_000


def labelled(**changes):
    return LabelledImages(**{**dict(train_size=500, validation_size=20), **changes})


def sampler(**changes):
    fields = dict(seed=0, labelled=labelled(), batch_size=64, epoch_steps=10)
    fields |= dict(generated_sizes=(1000, 90), generated_per_batch=(33, 11))
    return Sampler(**{**fields, **changes})


def pool(**changes):
    fields = dict(seed=0, labelled=labelled(), batch_size=64, epoch_steps=40)
    return PooledSampler(**{**fields, "generated_sizes": (1000, 90), **changes})


def create(train_size=50000, sizes=(50000,), labels=None, **data):
    config = config_module.default()
    config.data.update(data)
    config_module.validate(config)
    return mixing.create_sampler(config, train_size, list(sizes), lambda: labels)


def drawn(sampler, steps, source):
    batches = [sampler.batch(step) for step in steps]
    return np.concatenate([batch.indices[batch.source == source] for batch in batches])


@pytest.mark.parametrize(
    "total, weights, expected",
    [
        (358, [1, 3], (90, 268)),  # 89.5 and 268.5: the first is served first.
        (358, [1, 1, 1], (120, 119, 119)),
        (10, [0.5], (10,)),
        (5, [1, 2, 4], (1, 1, 3)),  # 0.71, 1.43, 2.86.
        (7, [1e-3, 1e3], (0, 7)),
        (0, [1, 2], (0, 0)),
    ],
)
def test_shares_go_to_the_largest_remainders(total, weights, expected):
    shares = mixing.apportion(total, weights)
    assert shares == expected and sum(shares) == total


@pytest.mark.parametrize(
    "generated, fraction, batch_size, expected",
    [
        ("cifar10_ddpm", 0.7, 512, (154, 358)),  # SCORE's counts, score_family.md section 6.
        ("cifar10_ddpm", 0.7, 1024, (308, 716)),
        ("cifar10_ddpm:1,cifar10_edm:3", 0.7, 512, (154, 90, 268)),
        ("cifar10_ddpm, cifar10_edm", 0.5, 512, (256, 128, 128)),
    ],
)
def test_every_batch_has_exactly_the_numbers_of_the_config(
    generated, fraction, batch_size, expected
):
    sizes = (50000, 1_000_000, HUNDRED_MILLION)[: len(expected)]
    fields = dict(generated=generated, generated_fraction=fraction, batch_size=batch_size)
    for sampling in ("replacement", "permutation"):
        found = create(sizes=sizes, generated_sampling=sampling, **fields)
        assert found.per_batch == expected
        for step in (0, 1, 97, 98, 10**6):
            counts = np.bincount(found.batch(step).source, minlength=len(expected))
            assert tuple(counts) == expected


def test_images_of_each_set_come_with_replacement_or_once_before_any_again():
    steps = range(90)  # 2,970 and 990 draws: 2.97 passes of the first set, 11 of the second.
    for source, size, count in ((1, 1000, 33), (2, 90, 11)):
        once = drawn(sampler(generated_sampling="permutation"), steps, source)
        anew = drawn(sampler(), steps, source)
        assert len(once) == len(anew) == 90 * count
        times = np.bincount(once, minlength=size)
        assert set(times) <= {90 * count // size, -(-90 * count // size)}
        # Drawn with replacement, times vary as a Poisson variable does.
        assert np.bincount(anew, minlength=size).var() > 0.7 * 90 * count / size
    first = drawn(sampler(generated_sampling="permutation"), range(30), 1)
    assert len(np.unique(first)) == 990


def test_sets_of_the_same_size_are_drawn_independently():
    for how in ("replacement", "permutation"):
        same = sampler(
            generated_sizes=(1000, 1000), generated_per_batch=(22, 22), generated_sampling=how
        )
        one, two = (np.sort(drawn(same, range(3), source)) for source in (1, 2))
        assert not np.array_equal(one, two)


def test_a_hundred_million_images_are_drawn_evenly():
    large = sampler(
        batch_size=1024, generated_sizes=(HUNDRED_MILLION,), generated_per_batch=(716,),
        generated_sampling="permutation",
    )  # fmt: skip
    for first in (0, 139_620, 10**9):  # In the first pass, over its end, and far on.
        found = drawn(large, range(first, first + 100), 1)
        cells = np.bincount(found * 100 // HUNDRED_MILLION, minlength=100)
        # Chi squared has mean 99 and deviation 14.
        assert 50 < ((cells - 716) ** 2 / 716).sum() < 160
    early = drawn(large, range(300), 1)
    assert len(np.unique(early)) == 300 * 716


def test_a_pool_gives_each_image_once_a_pass_and_kinds_by_their_numbers():
    # 480 + 1000 + 90 images: 24.5 batches a pass.
    found = [pool().batch(step) for step in range(40)]
    row = [
        (int(source), int(index))
        for batch in found
        for source, index in zip(batch.source, batch.indices, strict=True)
    ]
    expected = {(0, i) for i in range(20, 500)}
    expected |= {(1, i) for i in range(1000)} | {(2, i) for i in range(90)}
    assert len(set(row[:1570])) == 1570 and set(row[:1570]) == expected
    assert len(set(row[1570:])) == 40 * 64 - 1570
    assert pool().per_batch == pytest.approx((64 * 480 / 1570, 64 * 1000 / 1570, 64 * 90 / 1570))
    kinds = [np.bincount(pool().batch(step).source, minlength=3) for step in range(200)]
    np.testing.assert_allclose(np.mean(kinds, axis=0), pool().per_batch, atol=1)
    assert np.std(kinds, axis=0).min() > 1  # Nobody counts them.
    later = [pool().batch(step) for step in range(40, 65)]
    assert not np.array_equal(later[0].indices, found[0].indices)


def test_a_pool_of_a_hundred_million_holds_a_few_labelled_images():
    large = pool(generated_sizes=(HUNDRED_MILLION,), batch_size=1024)
    source = np.concatenate([large.batch(step).source for step in range(100)])
    assert source.mean() > 0.999


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_worker_has_the_same_labelled_images_and_its_own_generated_ones(workers):
    emulated = sampler(
        emulated_workers=workers, generated_sizes=(1000, 1000), generated_per_batch=(33, 11)
    )
    for step in (0, 3, 11):
        batch = emulated.batch(step)
        indices, source = (each.reshape(workers, -1) for each in (batch.indices, batch.source))
        distinct = np.sort(indices[0][source[0] == 0])
        assert len(distinct) == len(np.unique(distinct)) == 20 // workers
        for own, kind in zip(indices, source, strict=True):
            np.testing.assert_array_equal(np.sort(own[kind == 0]), distinct)
            counts = np.bincount(kind, minlength=3)
            assert counts[1:].sum() == 44 // workers
            assert abs(counts[1] - 33 / workers) < 1 and abs(counts[2] - 11 / workers) < 1
        # Each worker's images lie in an order of their own.
        orders = {tuple(own[kind == 0]) for own, kind in zip(indices, source, strict=True)}
        assert len(orders) == workers
    same = sampler(labelled_repeats=workers, generated_sizes=(1000, 1000))
    for number in (0, 1, 2):
        one, two = (np.sort(drawn(each, [5], number)) for each in (emulated, same))
        np.testing.assert_array_equal(one, two)


def test_any_step_can_be_asked_for_at_once():
    makes = (
        lambda: sampler(generated_sampling="permutation"),
        lambda: sampler(emulated_workers=4),
        pool,
    )
    for make in makes:
        forward = {step: make().batch(step) for step in range(60)}
        for step in reversed(range(60)):
            batch = make().batch(step)
            np.testing.assert_array_equal(batch.indices, forward[step].indices)
            np.testing.assert_array_equal(batch.source, forward[step].source)
        make().batch(10**12)
        with pytest.raises(ValueError, match="step -1"):
            make().batch(-1)


def test_the_images_of_a_run_never_change():
    content = hashlib.sha256()
    for make in (sampler, lambda: sampler(generated_sampling="permutation"), pool):
        for step in (0, 9, 10, 12345):
            batch = make().batch(step)
            content.update(batch.indices.astype("<i8").tobytes() + batch.source.tobytes())
    batch = sampler(emulated_workers=4).batch(3)
    content.update(batch.indices.astype("<i8").tobytes() + batch.source.tobytes())
    assert content.hexdigest()[:16] == "1ce540d6c5d56f32"


def test_a_subset_has_as_many_images_of_each_class():
    labels = np.random.default_rng(0).integers(0, 10, 2000).astype(np.int32)
    found = create(2000, (2000,), labels, take=104, validation_size=100)
    subset = found.labelled.subset
    counts = np.bincount(labels[subset], minlength=10)
    assert counts.tolist() == [11, 11, 11, 11, 10, 10, 10, 10, 10, 10] and subset.min() >= 100
    for label in range(10):
        first = 100 + np.flatnonzero(labels[100:] == label)[: counts[label]]
        np.testing.assert_array_equal(subset[labels[subset] == label], first)
    assert found.sizes == (104,) and found.epoch_steps == 4  # Epochs stay of the official size.
    seen = np.concatenate([found.batch(step).indices for step in range(4)])
    np.testing.assert_array_equal(np.unique(seen), subset)
    np.testing.assert_array_equal(np.sort(found.labelled.indices(np.arange(104))), subset)


def test_the_first_images_of_a_generated_set_are_taken():
    found = create(sizes=(50000, 1_000_000), generated="cifar10_ddpm", generated_take=1000)
    assert found.sizes == (50000 - 1024, 1000)
    assert drawn(found, range(20), 1).max() == 999


@pytest.mark.parametrize(
    "data, sizes, message",
    [
        (dict(take=2000, validation_size=100), (2000,), "asks for 200 labelled images of class"),
        (dict(take=9), (2000,), "take=9 is less than one labelled image of each of 10 classes"),
        (
            dict(generated="cifar10_ddpm", generated_take=11),
            (2000, 10),
            "data.generated_take=11 is more than the 10 images of cifar10_ddpm",
        ),
        (
            dict(generated="cifar10_ddpm:1,cifar10_edm:1000"),
            (2000, 10, 10),
            "gives cifar10_ddpm none of the 358 generated images in a batch of 512",
        ),
        (
            dict(generated="cifar10_ddpm", emulated_workers=3, batch_size=66),
            (2000, 10),
            "data.emulated_workers=3 does not divide the 20 labelled images",
        ),
        (
            dict(generated="cifar10_ddpm", emulated_workers=4, batch_size=66),
            (2000, 10),
            "data.emulated_workers=4 does not divide the 46 generated images",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(data, sizes, message):
    labels = (np.arange(2000) % 10).astype(np.int32)
    with pytest.raises(UserError, match=message) as caught:
        create(2000, sizes, labels, **data)
    assert "\n" not in str(caught.value)


def test_epochs_count_how_often_an_image_is_seen():
    one = create(sizes=(50000, 1_000_000), generated="cifar10_ddpm")
    found = mixing.epochs(one, ("cifar10", "cifar10_ddpm"), 39200)
    assert found == pytest.approx(
        {
            "data/labelled_epochs": 39200 * 154 / 48976,
            "data/generated_epochs": 39200 * 358 / 1_000_000,
        }
    )
    two = sampler()
    names = ("digits", "a", "b")
    steps = 200
    assert mixing.epochs(two, names, steps) == pytest.approx(
        {
            "data/labelled_epochs": drawn(two, range(steps), 0).size / 480,
            "data/generated_epochs": steps * 44 / 1090,
            "data/a_epochs": drawn(two, range(steps), 1).size / 1000,
            "data/b_epochs": drawn(two, range(steps), 2).size / 90,
        }
    )
    assert mixing.epochs(create(), ("cifar10",), 98) == {
        "data/labelled_epochs": pytest.approx(98 * 512 / 48976)
    }


def test_a_run_tells_what_its_batches_are_made_of():
    one = create(sizes=(50000, 20_000_000), generated="cifar10_ddpm")
    assert list(mixing.describe(one, ("cifar10", "cifar10_ddpm"), 39200)) == [
        "154 labelled + 358 generated images a batch",
        "the run sees each of the 48,976 labelled images 123.3 times",
        "the run sees each of the 20,000,000 generated images 0.7 times",
    ]
    assert mixing.images(one, ("cifar10", "cifar10_ddpm")) == {
        "labelled": {"cifar10": 48976},
        "generated": {"cifar10_ddpm": 20_000_000},
    }
    lines = list(mixing.describe(pool(), ("digits", "a", "b"), 10))
    assert lines[0] == "about 20 labelled + 41 a + 4 b images a batch"
