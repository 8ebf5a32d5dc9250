"""Batches: the same whatever runs ahead, wherever it starts, however many hosts share it."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from score_jax import config as config_module
from score_jax import prepare
from score_jax.data import pipeline, sources
from score_jax.types import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits and a generated set of 40 images, all of them 200 + class everywhere."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("data")
    labels = np.arange(40) % 10
    images = np.broadcast_to(200 + labels[:, None, None, None], (40, 8, 8, 1)).astype(np.uint8)
    np.savez(folder / "g.npz", image=images, label=labels)
    with pytest.MonkeyPatch.context() as patch:
        add_generated_digits(patch)
        prepare.prepare("digits", data_dir=str(folder))
        prepare.prepare("digits_generated", (str(folder / "g.npz"),), str(folder))
    return folder


def add_generated_digits(patch):
    digits = sources.DATASETS["digits"]
    spec = dataclasses.replace(digits, extends="digits", split_sizes={"train": None})
    patch.setitem(sources.DATASETS, "digits_generated", spec)


@pytest.fixture
def config(folder, monkeypatch):
    add_generated_digits(monkeypatch)
    config = config_module.default()
    config.data.update(
        name="digits", dir=str(folder), batch_size=64, validation_size=100, prefetch=3
    )
    return config


@pytest.fixture
def mixed(config):
    config.data.update(generated="digits_generated", generated_fraction=0.7)
    return config


def assert_same(one, two):
    assert one.keys() == two.keys() == {"images", "labels", "generated"}
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name])


def grain_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain")]


def wait_for_threads():
    deadline = time.monotonic() + 5
    while grain_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return grain_threads()


def test_a_batch_holds_what_it_says(mixed):
    digits = sources.train_split("digits", mixed.data.dir)
    known = {digits.images[i].tobytes(): int(digits.labels[i]) for i in range(100, 1438)}
    for batch in pipeline.train_batches(mixed, 0, 30):
        assert batch["images"].shape == (64, 8, 8, 1) and batch["images"].dtype == np.uint8
        assert batch["labels"].shape == (64,) and batch["labels"].dtype == np.int32
        assert batch["generated"].dtype == bool and batch["generated"].sum() == 44
        for image, label, generated in zip(*batch.values(), strict=True):
            if generated:
                assert (image == 200 + label).all()
            else:
                assert known[image.tobytes()] == label


def test_without_a_generated_set_nothing_is_generated(config):
    batch = pipeline.batch_at(config, 0)
    assert not batch["generated"].any() and batch["generated"].shape == (64,)


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_running_ahead_changes_nothing(prefetch, mixed):
    mixed.data.prefetch = prefetch
    batches = list(pipeline.train_batches(mixed, 0, 50))
    assert len(batches) == 50
    for step, batch in enumerate(batches):
        assert_same(batch, pipeline.batch_at(mixed, step))


def test_it_goes_on_where_it_stopped(mixed):
    whole = list(pipeline.train_batches(mixed, 0, 40))
    for batch, expected in zip(pipeline.train_batches(mixed, 27, 13), whole[27:], strict=True):
        assert_same(batch, expected)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_processes_share_the_batch(count, mixed):
    parts = [
        list(pipeline.train_batches(mixed, 3, 4, process_index=i, process_count=count))
        for i in range(count)
    ]
    for position, step in enumerate(range(3, 7)):
        batches = [part[position] for part in parts]
        joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        assert_same(joined, pipeline.batch_at(mixed, step))
        assert all(len(batch["labels"]) == 64 // count for batch in batches)


def test_with_cutmix_a_part_of_the_batch_is_loaded(mixed):
    with mixed.unlocked():
        mixed.data.cutmix = 4
    batch = pipeline.batch_at(mixed, 0)
    assert batch["images"].shape == (16, 8, 8, 1) and batch["labels"].shape == (16,)
    assert batch["generated"].sum() == 11  # int(16 * 0.7).
    halves = [
        next(pipeline.train_batches(mixed, 0, 1, process_index=i, process_count=2))
        for i in range(2)
    ]
    joined = {name: np.concatenate([half[name] for half in halves]) for name in batch}
    assert_same(joined, batch)
    with pytest.raises(UserError, match="data.batch_size=64 loads 16 images .* by 32 processes"):
        pipeline.train_batches(mixed, 0, 1, process_index=0, process_count=32)
    mixed.data.cutmix = 5
    with pytest.raises(UserError, match="data.batch_size=64 does not divide by data.cutmix=5"):
        pipeline.train_batches(mixed, 0, 1)


def test_with_repeats_labelled_images_come_that_often(mixed):
    with mixed.unlocked():
        mixed.data.repeats = 4
    batch = pipeline.batch_at(mixed, 0)
    labelled = [image.tobytes() for image in batch["images"][~batch["generated"]]]
    assert len(labelled) == 20 and {labelled.count(image) for image in labelled} == {4}
    assert batch["generated"].sum() == 44
    mixed.data.repeats = 3
    with pytest.raises(UserError, match="data.repeats=3 does not divide the 20 labelled"):
        pipeline.train_batches(mixed, 0, 1)


def test_validation_images_come_first_and_are_never_trained_on(config):
    data = pipeline.open_training_data(config)
    images, labels = pipeline.validation_images(config, data)
    digits = sources.train_split("digits", config.data.dir)
    np.testing.assert_array_equal(images, digits.images[:100])
    np.testing.assert_array_equal(labels, digits.labels[:100])
    sampler = data.sampler
    drawn = np.unique(np.concatenate([sampler.batch(step).indices for step in range(46)]))
    np.testing.assert_array_equal(drawn, np.arange(100, 1438))


def test_an_epoch_is_of_the_official_size_unless_configured(config):
    assert pipeline.open_training_data(config).sampler.epoch_steps == 23  # ceil(1438 / 64).
    config.steps_per_epoch = 5
    assert pipeline.open_training_data(config).sampler.epoch_steps == 5


def test_the_seed_changes_the_batches(config):
    one = pipeline.batch_at(config, 0)
    config.seed = 1
    assert not np.array_equal(one["labels"], pipeline.batch_at(config, 0)["labels"])


def test_threads_end_with_the_iterator(config):
    assert not wait_for_threads()
    batches = pipeline.train_batches(config, 0, 10**6)
    next(batches)
    assert grain_threads()
    batches.close()
    assert not wait_for_threads()
    assert len(list(pipeline.train_batches(config, 0, 3))) == 3
    assert not wait_for_threads()


@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_steps_give_no_batches(num_steps, config):
    assert list(pipeline.train_batches(config, 5, num_steps)) == []


@pytest.mark.parametrize(
    "changes, part",
    [
        (dict(name="digit"), "unknown dataset 'digit'"),
        (dict(name="digits_generated"), "is a generated set; train on data.name=digits"),
        (dict(generated="cifar10_ddpm"), "known: digits_generated"),
        (dict(generated="ddpm"), "unknown dataset 'ddpm'"),
        (dict(validation_size=1438), "data.validation_size=1438"),
        (dict(dir="/nowhere"), "not prepared in /nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_call(changes, part, config):
    config.data.update(changes)
    with pytest.raises(UserError, match=part):
        pipeline.train_batches(config, 0, 1)


def test_a_batch_that_does_not_divide_is_refused(config):
    with pytest.raises(UserError, match="data.batch_size=64 loads 64 images .* by 3 processes"):
        pipeline.train_batches(config, 0, 1, process_index=0, process_count=3)
