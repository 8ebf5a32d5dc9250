"""Which images make up a batch: counts, coverage, independence of everything but (seed, step)."""

import hashlib

import numpy as np
import pytest

from score_jax import config_rules
from score_jax.data import permutation, sampling
from score_jax.types import UserError


def sampler(**changes):
    fields = dict(seed=0, train_size=500, validation_size=20, batch_size=32, epoch_steps=16)
    fields |= changes
    names = ("train_size", "validation_size", "subset")
    chosen = {name: fields.pop(name) for name in names if name in fields}
    return sampling.Sampler(labelled=sampling.LabelledImages(**chosen), **fields)


def mixed(**changes):
    return sampler(generated_sizes=(1000,), generated_per_batch=(22,), **changes)


@pytest.mark.parametrize(
    "batch_size, fraction, expected",
    [
        # score_family.md section 6, from SCORE's core/data/semisup.py.
        (512, 0.7, (154, 358)),
        (1024, 0.7, (308, 716)),
        (256, 0.7, (77, 179)),
        (512, 0.0, (512, 0)),
        (512, 1.0, (0, 512)),
    ],
)
def test_counts_are_those_of_score(batch_size, fraction, expected):
    assert sampling.counts(batch_size, fraction) == expected


@pytest.mark.parametrize(
    "batch_size, cutmix, expected", [(512, 0, 512), (512, 1, 512), (512, 4, 128), (96, 3, 32)]
)
def test_with_cutmix_a_step_loads_a_part_of_its_batch(batch_size, cutmix, expected):
    assert config_rules.loaded_batch_size(batch_size, cutmix) == expected


def test_epochs_with_cutmix_count_loaded_images():
    # SCORE's code: --batch-size 128 with 4 versions has 391 steps an epoch.
    assert -(-50000 // config_rules.loaded_batch_size(512, 4)) == 391


@pytest.mark.parametrize("cutmix, part", [(3, "data.cutmix=3 versions"), (-1, "data.cutmix=-1 is")])
def test_impossible_versions_are_refused(cutmix, part):
    with pytest.raises(UserError, match=part):
        config_rules.loaded_batch_size(512, cutmix)


def test_a_pass_gives_each_image_once():
    whole = sampler(train_size=532, epoch_steps=16)  # 512 to train on: 16 batches of 32.
    for epoch in range(3):
        steps = range(epoch * 16, (epoch + 1) * 16)
        indices = np.concatenate([whole.batch(step).indices for step in steps])
        np.testing.assert_array_equal(np.sort(indices), np.arange(20, 532))


def test_scores_epoch_sees_part_of_the_images_once():
    # score_family.md section 6: 98 batches of 154 take 15,092 of 48,976 real images.
    score = sampler(
        train_size=50000,
        validation_size=1024,
        batch_size=512,
        epoch_steps=98,
        generated_sizes=(1000,),
        generated_per_batch=(358,),
    )
    batches = [score.batch(step) for step in range(98)]
    indices = np.concatenate([batch.indices[~batch.generated] for batch in batches])
    assert len(indices) == len(np.unique(indices)) == 15092
    assert indices.min() >= 1024 and indices.max() < 50000
    later = [score.batch(step) for step in range(98, 196)]
    again = np.concatenate([batch.indices[~batch.generated] for batch in later])
    assert 0.2 < np.isin(again, indices).mean() < 0.42  # 15,092 / 48,976 = 0.308.


def test_repeats_hold_each_labelled_image_that_often():
    # Gowal et al. 2021: 77 real images 4 times and 716 generated ones in a batch of 1024.
    score = sampler(
        train_size=2000,
        batch_size=1024,
        generated_sizes=(10**6,),
        generated_per_batch=(716,),
        labelled_repeats=4,
    )
    assert score.epoch_steps * 77 < 1980  # One permutation lasts for the epoch.
    seen = []
    for step in range(16):
        batch = score.batch(step)
        labelled, times = np.unique(batch.indices[~batch.generated], return_counts=True)
        assert len(labelled) == 77 and (times == 4).all()
        assert batch.generated.sum() == 716
        assert len(np.unique(batch.indices[batch.generated])) > 700
        seen.append(labelled)
    # The permutation is consumed 77 at a time.
    np.testing.assert_array_equal(
        np.sort(np.concatenate(seen)), np.sort(score._labelled(0, 0, 16 * 77))
    )
    assert len(np.unique(np.concatenate(seen))) == 16 * 77


def test_repeats_of_one_change_nothing():
    for step in (0, 17):
        one, two = mixed().batch(step), mixed(labelled_repeats=1).batch(step)
        np.testing.assert_array_equal(one.indices, two.indices)


def test_repeats_lie_anywhere_in_the_batch():
    batch = sampler(labelled_repeats=4).batch(0)
    firsts = [np.flatnonzero(batch.indices == index) for index in np.unique(batch.indices)]
    gaps = np.concatenate([np.diff(places) for places in firsts])
    assert len(set(gaps.tolist())) > 3


def test_every_batch_is_full_and_none_holds_a_validation_image():
    for make in (sampler, mixed):
        for step in range(40):
            batch = make().batch(step)
            assert batch.indices.shape == batch.generated.shape == (32,)
            labelled = batch.indices[~batch.generated]
            assert labelled.min() >= 20 and labelled.max() < 500
            assert batch.generated.sum() == (22 if make is mixed else 0)


def test_permutations_follow_each_other_inside_an_epoch():
    small = sampler(train_size=30, validation_size=20, batch_size=25, epoch_steps=4)
    indices = [small._labelled(0, 25 * step, 25) for step in range(4)]
    row = np.concatenate(indices)
    for start in range(0, 100, 10):
        np.testing.assert_array_equal(np.sort(row[start : start + 10]), np.arange(20, 30))
    assert len({tuple(row[start : start + 10]) for start in range(0, 100, 10)}) > 5


def test_an_epoch_starts_a_fresh_permutation():
    first, second = sampler().batch(0).indices, sampler().batch(16).indices
    assert not np.array_equal(np.sort(first), np.sort(second))


def test_a_step_does_not_depend_on_what_was_asked_before():
    forward = [mixed().batch(step) for step in range(50)]
    permutation.stored.cache_clear()
    one = mixed()
    for step in reversed(range(50)):
        batch = one.batch(step)
        np.testing.assert_array_equal(batch.indices, forward[step].indices)
        np.testing.assert_array_equal(batch.generated, forward[step].generated)


def test_another_seed_gives_other_images():
    for step in range(3):
        one, two = mixed().batch(step), mixed(seed=1).batch(step)
        assert not np.array_equal(one.indices, two.indices)
        assert not np.array_equal(one.generated, two.generated)


def test_generated_images_come_uniformly_and_with_replacement():
    few = mixed(epoch_steps=16, validation_size=0)
    draws = np.concatenate(
        [batch.indices[batch.generated] for batch in (few.batch(step) for step in range(2000))]
    )
    counts = np.bincount(draws, minlength=1000)
    # 44,000 draws over 1,000 images: chi squared has mean 999 and deviation 45.
    chi_squared = ((counts - 44) ** 2 / 44).sum()
    assert 780 < chi_squared < 1220
    assert sampler(generated_sizes=(3,), generated_per_batch=(22,)).batch(0).generated.sum() == 22


def test_each_group_of_positions_holds_the_same_mixture():
    total = sum(mixed().batch(step).generated.astype(int) for step in range(2000))
    # Binomial: 2000 draws at 22/32 = 1375 with a deviation of 21.
    assert np.abs(total - 1375).max() < 100


def test_positions_are_independent_of_the_order_of_the_images():
    batch = sampler(train_size=84, batch_size=64, validation_size=20, epoch_steps=1).batch(0)
    row = sampler(train_size=84, batch_size=64, epoch_steps=1)._labelled(0, 0, 64)
    assert not np.array_equal(batch.indices, row)
    np.testing.assert_array_equal(np.sort(batch.indices), np.sort(row))


def test_the_images_of_a_run_never_change():
    content = hashlib.sha256()
    for step in (0, 1, 15, 16, 12345):
        batch = mixed(seed=7).batch(step)
        content.update(batch.indices.astype("<i8").tobytes() + batch.generated.tobytes())
    assert content.hexdigest()[:16] == "66487e7d999b577f"


@pytest.mark.parametrize(
    "changes, part",
    [
        (dict(seed=-1), "seed=-1"),
        (dict(batch_size=0), "data.batch_size=0"),
        (dict(epoch_steps=-2), "steps_per_epoch=-2"),
        (dict(validation_size=500), "data.validation_size=500"),
        (dict(validation_size=-1), "data.validation_size=-1"),
        (dict(generated_per_batch=(33,), generated_sizes=(5,)), "33 generated"),
        (dict(generated_per_batch=(3,)), "data.generated is empty"),
        (dict(labelled_repeats=0), "data.repeats=0"),
        (dict(labelled_repeats=3), "data.repeats=3 does not divide the 32 labelled images"),
        (
            dict(labelled_repeats=4, generated_per_batch=(22,), generated_sizes=(5,)),
            "data.repeats=4 does not divide the 10 labelled images of a batch of 32; change",
        ),
    ],
)
def test_impossible_sizes_are_refused(changes, part):
    with pytest.raises(UserError, match=part):
        sampler(**changes)
    with pytest.raises(ValueError, match="step -1"):
        sampler().batch(-1)
