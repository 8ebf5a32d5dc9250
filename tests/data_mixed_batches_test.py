"""Batches of several prepared sets: the images they say, whatever the hosts and the storage."""

import dataclasses
import hashlib
import tracemalloc

import numpy as np
import pytest

from score_jax import config as config_module
from score_jax import prepare
from score_jax.data import mixing, pipeline, relabelling, sources

# How batches may be made of digits and two generated sets.
FORMS = {
    "weights": dict(generated="made_a:1,made_b:3"),
    "permutation": dict(generated="made_a,made_b", generated_sampling="permutation"),
    "pool": dict(generated="made_a,made_b", mixing="pool"),
    "workers": dict(generated="made_a,made_b", emulated_workers=4),
    "noise": dict(generated="made_b", label_noise=0.5, take=200, generated_take=30),
}


@pytest.fixture(scope="module")
def folder(data_dir, tmp_path_factory):
    """Digits, and two generated sets whose pixels tell the set, the image and its class."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "score_jax_digits").symlink_to(sources.find("digits", data_dir).parent)
    for name, first, count in (("made_a", 100, 60), ("made_b", 200, 90)):
        labels = np.arange(count) % 10
        images = np.full((count, 8, 8, 1), first, np.uint8)
        images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count), labels
        np.savez(folder / f"{name}.npz", image=images, label=labels)
        files = (str(folder / f"{name}.npz"),)
        prepare.prepare(name, files, str(folder), extends="digits", workers=1)
    return str(folder)


@pytest.fixture
def config(folder):
    config = config_module.default()
    config.data.update(
        name="digits", dir=folder, batch_size=80, validation_size=100, prefetch=2,
        generated_fraction=0.5,
    )  # fmt: skip
    return config


@pytest.fixture(params=FORMS)
def mixed(config, request):
    config.data.update(FORMS[request.param])
    config_module.validate(config)
    return config


def assert_same(one, two):
    assert one.keys() == two.keys() == {"images", "labels", "generated"}
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_a_batch_holds_the_images_and_labels_that_its_selection_names(mixed):
    data = pipeline.open_training_data(mixed)
    digits = sources.train_split("digits", mixed.data.dir)
    for step in (0, 7, 40):
        batch, selection = data.batch_at(step), data.sampler.batch(step)
        np.testing.assert_array_equal(batch["generated"], selection.source > 0)
        for place, (number, index) in enumerate(
            zip(selection.source, selection.indices, strict=True)
        ):
            image, label = batch["images"][place], batch["labels"][place]
            name = data.names[number]
            if name == "digits":
                np.testing.assert_array_equal(image, digits.images[index])
                assert mixed.data.label_noise or label == digits.labels[index]
            else:
                assert image[4, 4, 0] == {"made_a": 100, "made_b": 200}[name]
                assert image[0, 0, 0] == index and image[0, 1, 0] == label == index % 10


def test_processes_share_the_batch_and_any_may_begin_anywhere(mixed):
    expected = [pipeline.batch_at(mixed, step) for step in range(5, 8)]
    for count in (1, 2, 4):
        parts = [
            pipeline.train_batches(mixed, 5, 3, process_index=i, process_count=count)
            for i in range(count)
        ]
        for whole, *shares in zip(expected, *parts, strict=True):
            joined = {name: np.concatenate([s[name] for s in shares]) for name in whole}
            assert_same(joined, whole)


@pytest.mark.parametrize("storage", ["memory", "memmap", "records"])
def test_batches_do_not_depend_on_the_storage(storage, mixed):
    expected = [pipeline.batch_at(mixed, step) for step in (0, 31)]
    mixed.data.storage = storage
    for step, batch in zip((0, 31), expected, strict=True):
        assert_same(pipeline.batch_at(mixed, step), batch)


def test_half_of_the_labels_are_wrong_and_those_of_validation_right(config):
    config.data.update(FORMS["noise"])
    data = pipeline.open_training_data(config)
    digits = sources.train_split("digits", config.data.dir)
    subset = data.sampler.labelled.subset
    wrong = data.sources[0].labels != digits.labels
    assert len(subset) == 200 and wrong.sum() == wrong[subset].sum() == 100
    np.testing.assert_array_equal(pipeline.validation_images(config, data)[1], digits.labels[:100])


def test_a_run_trains_on_pseudo_labels(config, tmp_path):
    config.data.update(FORMS["weights"], pseudo_labels=str(tmp_path / "f.npz"))
    made = sources.train_split("made_b", config.data.dir)
    labels = (made.labels + 1) % 10
    np.savez(
        tmp_path / "f.npz", label=labels, confidence=np.ones(90, np.float32), dataset="made_b",
        format=relabelling.FORMAT, fingerprint=made.fingerprint,
    )  # fmt: skip
    data = pipeline.open_training_data(config)
    prints = {source.name: source.fingerprint for source in data.sources}
    digest = hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()
    assert data.contents == prints | {"pseudo-labels of made_b": digest}
    batch = data.batch_at(3)
    is_made = batch["images"][:, 4, 4, 0] == 200
    own = batch["images"][:, 0, 1, 0].astype(int)
    relabelled = is_made & batch["generated"]
    assert relabelled.sum() == 30
    np.testing.assert_array_equal(batch["labels"][relabelled], (own[relabelled] + 1) % 10)
    others = batch["generated"] & ~is_made
    np.testing.assert_array_equal(batch["labels"][others], own[others])


@pytest.mark.parametrize(
    "take, is_sorted, few",
    [(0, True, 0), (30, False, 0), (30, True, 9), (10**6, False, 0), (10**6, True, 9)],
)
def test_a_part_of_a_generated_set_that_lacks_classes_is_told(take, is_sorted, few, config):
    config.data.generated_take = take
    period = Simulated(of_class=10**7 if is_sorted else 1)
    data = pipeline.TrainingData((Simulated(), period), sampler=None)
    lines = list(pipeline.unequal_classes(config, data))
    assert len(lines) == bool(few)
    if few:
        assert f"images of simulated, where {few} of 10 classes have" in lines[0]


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A source of a hundred million images, each of which tells its index."""

    name: str = "simulated"
    of_class: int = 1  # So many of a class come one after the other.

    def __len__(self):
        return 100_000_000

    def take(self, indices):
        pixels = indices.astype("<u4").view(np.uint8).reshape(-1, 2, 2, 1)
        return pixels, (indices // self.of_class % 10).astype(np.int32)


@pytest.mark.parametrize(
    "ways", [dict(generated_sampling="permutation"), dict(mixing="pool"), dict()]
)
def test_a_hundred_million_images_take_no_memory(ways, config):
    few, many = dataclasses.replace(Simulated(), name="labelled"), Simulated()
    config.data.update(generated="simulated", validation_size=1024, batch_size=1024, **ways)
    sampler = mixing.create_sampler(config, 50_000, (50_000, len(many)), lambda: None)
    data = pipeline.TrainingData((few, many), sampler)
    assert data.names == ("labelled", "simulated")
    data.batch_at(0)
    tracemalloc.start()
    for step in (1, 97, 10**6):
        batch, selection = data.batch_at(step), sampler.batch(step)
        found = batch["images"].reshape(1024, 4).view("<u4").ravel()
        np.testing.assert_array_equal(found, selection.indices)
        np.testing.assert_array_equal(batch["labels"], selection.indices % 10)
        assert batch["generated"].sum() == 512 or config.data.mixing == "pool"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20  # Of which the permutation of the labelled images takes 2.
