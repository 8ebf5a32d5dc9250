"""The table of datasets and how prepared folders are found and read."""

import dataclasses
import shutil

import numpy as np
import pytest

from score_jax import prepare
from score_jax.data import builders, download_urls, sources
from score_jax.data.raw_split import in_memory
from score_jax.types import UserError
from tests import official_files as official
from tests.data_builders_test import SHAPE, random_split, write_tfds_cifar10

ALL = sorted(sources.DATASETS)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits")
    prepare.prepare("digits", data_dir=str(folder))
    return folder


@pytest.fixture
def tiny_cifar10(monkeypatch):
    """CIFAR-10's entry for eight by eight images, 20 of them to train on and 5 to test with."""
    spec = dataclasses.replace(
        sources.DATASETS["cifar10"], image_shape=SHAPE, split_sizes={"train": 20, "test": 5}
    )
    monkeypatch.setitem(sources.DATASETS, "cifar10", spec)
    return spec


def write_ours(folder, spec, splits):
    raw = {name: in_memory([(x, y)]) for name, (x, y) in splits.items()}
    return builders.write(folder, "cifar10", spec=spec, splits=raw, report=lambda line: None)


@pytest.mark.parametrize("name", ALL)
def test_every_entry_is_complete(name):
    spec = sources.DATASETS[name]
    assert len(spec.class_names) == spec.num_classes
    assert len(spec.mean) == len(spec.std) == spec.image_shape[2]
    assert "train" in spec.split_sizes
    assert spec.extends in ("", *ALL)
    assert (spec.split_sizes["train"] is None) == (bool(spec.extends) or spec.any_size)


@pytest.mark.parametrize("name", ALL)
def test_a_missing_dataset_names_the_folder_and_the_command(name, tmp_path):
    with pytest.raises(UserError) as caught:
        sources.train_split(name, str(tmp_path))
    message = str(caught.value)
    assert str(tmp_path) in message and "\n" not in message
    assert f"score-jax data prepare {name}" in message
    downloaded = name == "digits" or name in download_urls.URLS
    assert ("--source=" in message) == (not downloaded)


def test_an_unknown_dataset_lists_the_known(tmp_path):
    with pytest.raises(UserError, match="cifar10_ddpm.*did you mean 'cifar10'"):
        sources.train_split("cifar-10", str(tmp_path))


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.data_folder() == tmp_path / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    assert sources.data_folder() == tmp_path / "environment"
    assert sources.data_folder(str(tmp_path / "given")) == tmp_path / "given"
    with pytest.raises(UserError, match="data.dir=gs://bucket/data is not a local folder"):
        sources.data_folder("gs://bucket/data")


def test_digits_are_read_in_both_splits(digits):
    sklearn_digits = pytest.importorskip("sklearn.datasets").load_digits()
    train = sources.train_split("digits", str(digits))
    test = sources.test_split("digits", str(digits))
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
    is_test = np.arange(1797) % 5 == 4
    np.testing.assert_array_equal(train.labels, sklearn_digits.target[~is_test])
    np.testing.assert_array_equal(test.labels, sklearn_digits.target[is_test])
    assert (train.name, train.split, test.split) == ("digits", "train", "test")
    assert train.path == str(digits / "score_jax_digits" / "1.0.0")
    assert train.fingerprint == builders.fingerprint(train.images, train.labels)


def test_the_mean_and_deviation_of_digits_are_those_of_its_training_split(digits):
    images = sources.train_split("digits", str(digits)).images / 255
    spec = sources.DATASETS["digits"]
    np.testing.assert_allclose(spec.mean, [images.mean()], atol=5e-5)
    np.testing.assert_allclose(spec.std, [images.std()], atol=5e-5)


def test_images_cannot_be_written_to_and_are_read_once(digits):
    train = sources.train_split("digits", str(digits))
    with pytest.raises(ValueError, match="read-only"):
        train.images[0] = 0
    assert sources.train_split("digits", str(digits)) is train


def test_a_folder_of_tfds_gives_the_same_images_as_ours(tiny_cifar10, tmp_path):
    splits = {"train": random_split(20), "test": random_split(5, seed=1)}
    write_tfds_cifar10(tmp_path / "tfds", splits)
    write_ours(tmp_path / "ours", tiny_cifar10, splits)
    for read, name in ((sources.train_split, "train"), (sources.test_split, "test")):
        theirs = read("cifar10", str(tmp_path / "tfds"))
        ours = read("cifar10", str(tmp_path / "ours"))
        assert theirs.path.endswith("cifar10/3.0.2") and "score_jax_cifar10" in ours.path
        assert theirs.fingerprint == ours.fingerprint
        np.testing.assert_array_equal(theirs.images, splits[name][0])
        np.testing.assert_array_equal(theirs.labels, splits[name][1])


def test_a_folder_of_tfdss_cifar100_is_found(tmp_path, monkeypatch):
    spec = dataclasses.replace(
        sources.DATASETS["cifar100"], image_shape=SHAPE, split_sizes={"train": 20, "test": 5}
    )
    monkeypatch.setitem(sources.DATASETS, "cifar100", spec)
    splits = {"train": random_split(20), "test": random_split(5, seed=1)}
    written = write_tfds_cifar10(tmp_path / "elsewhere", splits)
    shutil.copytree(written, tmp_path / "cifar100" / "3.0.2")
    found = sources.test_split("cifar100", str(tmp_path))
    np.testing.assert_array_equal(found.images, splits["test"][0])


@pytest.mark.parametrize("name", ["cifar100", "cifar100_edm"])
def test_made_up_images_pass_for_the_dataset(name, tmp_path, monkeypatch):
    if not sources.DATASETS[name].extends:
        official.shrink(monkeypatch, name, train=200, test=100)
    official.prepare_random(tmp_path, name, generated_size=200)
    train = sources.train_split(name, str(tmp_path))
    assert train.images.shape == (200, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(train.labels), np.full(100, 2))
    np.testing.assert_array_equal(train.images[3], train.images[103])
    assert len(np.unique(train.images, axis=0)) == 100


def test_ours_is_preferred_and_then_the_latest_of_tfds(tiny_cifar10, tmp_path):
    splits = {"train": random_split(20), "test": random_split(5, seed=1)}
    folder = write_tfds_cifar10(tmp_path, splits)
    shutil.copytree(folder, tmp_path / "cifar10" / "3.0.10")
    (tmp_path / "cifar10" / "3.9.9.incomplete").mkdir()
    assert sources.find("cifar10", str(tmp_path)).name == "3.0.10"
    ours = write_ours(tmp_path, tiny_cifar10, splits)
    assert str(sources.find("cifar10", str(tmp_path))) == str(ours)


def test_another_size_than_the_tables_is_refused(tiny_cifar10, tmp_path):
    write_ours(tmp_path, tiny_cifar10, {"train": random_split(19)})
    with pytest.raises(UserError, match="holds 19 images in split 'train' where cifar10 has 20"):
        sources.train_split("cifar10", str(tmp_path))


def test_the_real_size_is_required_of_the_real_name(tmp_path):
    data = official.random_cifar10()
    splits = {"train": (data[0], data[1].astype(np.int32))}
    write_ours(tmp_path, sources.DATASETS["cifar10"], splits)
    with pytest.raises(UserError, match="holds 50 images in split 'train' where cifar10 has 50000"):
        sources.train_split("cifar10", str(tmp_path))
