"""The readers of generated images, of the pseudo-labelled TinyImages, and of the digits."""

import pickle
import tracemalloc

import numpy as np
import pytest

from score_jax.data import formats, raw_split
from score_jax.types import UserError
from tests.helpers import whole

SHAPE = (32, 32, 3)


def write_generated(path, count=30, **changes):
    generator = np.random.default_rng(count)
    arrays = {
        "image": generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        "label": generator.integers(0, 10, count),
    }
    np.savez(path, **{**arrays, **changes})
    return arrays


def test_generated_files_are_joined_in_the_order_given(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_split, "BLOCK", 7)
    first = write_generated(tmp_path / "a.npz", 30)
    second = write_generated(tmp_path / "b.npz", 12)
    paths = (str(tmp_path / "a.npz"), str(tmp_path / "b.npz"))
    split = raw_split.read_generated(paths, SHAPE, {"train": None})["train"]
    for _ in range(2):  # The blocks can be read again.
        images, labels = whole(split)
        np.testing.assert_array_equal(images, np.concatenate([first["image"], second["image"]]))
    np.testing.assert_array_equal(labels, np.concatenate([first["label"], second["label"]]))


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"image": np.zeros((30, 64, 64, 3), np.uint8)}, "(30, 64, 64, 3)"),
        ({"image": np.zeros((30, 32, 32, 3))}, "float64"),
        ({"label": np.zeros((30, 10), np.int64)}, "(30, 10)"),
        ({"image": np.zeros((0, 32, 32, 3), np.uint8), "label": np.zeros(0, int)}, "no images"),
        ({"image": np.uint8(1)}, "shape ()"),
    ],
)
def test_generated_files_of_other_arrays_are_refused(changes, part, tmp_path):
    write_generated(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError) as caught:
        raw_split.read_generated((str(tmp_path / "a.npz"),), SHAPE, {"train": None})
    assert part in str(caught.value)


def tiny_images(count=20):
    generator = np.random.default_rng(count)
    images = generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return {"data": images, "extrapolated_targets": generator.integers(0, 10, count)}


def read_tiny(path):
    return formats.read_tiny_images((str(path),), SHAPE, {"train": None})["train"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("labels", [np.int64, np.int32, np.uint8, list])
def test_tiny_images_are_read_from_their_pickle(labels, protocol, tmp_path):
    content = tiny_images()
    targets = content["extrapolated_targets"]
    written = targets.tolist() if labels is list else targets.astype(labels)
    more = {"extrapolated_targets": written, "prediction_model": "wrn", "prediction_epoch": 200}
    (tmp_path / "t.pickle").write_bytes(pickle.dumps({**content, **more}, protocol))
    split = read_tiny(tmp_path / "t.pickle")
    images, labels = whole(split)
    np.testing.assert_array_equal(images, content["data"])
    np.testing.assert_array_equal(labels, targets)
    assert labels.dtype == np.int32


@pytest.mark.parametrize("count, start", [(3, 1), (20, 0), (20, 9), (20, 20), (5000, 4321)])
def test_tiny_images_come_from_any_index(count, start, tmp_path, monkeypatch):
    monkeypatch.setattr(raw_split, "BLOCK", 700)
    content = tiny_images(count)
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(content, 4))
    split = read_tiny(tmp_path / "t.pickle")
    blocks = list(split.blocks(start))
    assert split.count == count and sum(len(labels) for _, labels in blocks) == count - start
    if blocks:
        found = np.concatenate([images for images, _ in blocks])
        np.testing.assert_array_equal(found, content["data"][start:])
        labels = np.concatenate([labels for _, labels in blocks])
        np.testing.assert_array_equal(labels, content["extrapolated_targets"][start:])


def test_a_large_pickle_stays_in_its_file(tmp_path):
    content = tiny_images(20_000)  # 61 MB.
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(content, 4))
    tracemalloc.start()
    split = read_tiny(tmp_path / "t.pickle")
    assert sum(len(labels) for _, labels in split.blocks(0)) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_a_pickle_that_changes_while_it_is_read_is_told(tmp_path):
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(tiny_images(20), 4))
    split = read_tiny(tmp_path / "t.pickle")
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(tiny_images(30), 4))
    with pytest.raises(UserError, match="replaced while it was read"):
        whole(split)


def test_tiny_images_are_read_from_npz_files_too(tmp_path):
    arrays = write_generated(tmp_path / "a.npz")
    split = read_tiny(tmp_path / "a.npz")
    images, labels = whole(split)
    np.testing.assert_array_equal(images, arrays["image"])
    np.testing.assert_array_equal(labels, arrays["label"])


@pytest.mark.parametrize(
    "changes, part",
    [
        (
            dict(data=np.zeros((20, 3072), np.uint8)),
            "(20, 3072); (n, 32, 32, 3) with n from 1 to 500000 is",
        ),
        (dict(data=np.zeros((0, 32, 32, 3), np.uint8)), "(0, 32, 32, 3)"),
        (dict(data=np.zeros((20, 32, 32, 3))), "'f8'"),
        (dict(data=np.uint8(1)), "scalar"),
        (dict(data=np.array(1, np.uint8)), "shape ()"),
        (dict(extrapolated_targets=np.zeros(19, int)), "shape (19,) for 20 images"),
        (dict(extrapolated_targets=np.zeros(20)), "'f8'"),
        (dict(extrapolated_targets=np.zeros(20, ">i8")), "highest byte first"),
        (dict(extrapolated_targets=["1"] * 20), "not integers"),
        (dict(extrapolated_targets=np.full(20, -1)), "labels from -1"),
        (dict(extrapolated_targets=3), "neither a list nor an array"),
    ],
)
def test_pickles_of_other_arrays_are_refused(changes, part, tmp_path):
    path = tmp_path / "t.pickle"
    path.write_bytes(pickle.dumps({**tiny_images(), **changes}, 4))
    with pytest.raises(UserError) as caught:
        read_tiny(path)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickle_of_too_many_images_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "t.pickle").write_bytes(pickle.dumps(tiny_images(30), 4))
    monkeypatch.setattr(formats, "TINY_IMAGES", 10)
    with pytest.raises(UserError, match="with n from 1 to 10 is expected"):
        read_tiny(tmp_path / "t.pickle")


def test_digits_are_split_by_their_index():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    splits = formats.read_digits((), (8, 8, 1), {"train": 1438, "test": 359})
    test, test_labels = whole(splits["test"])
    train, train_labels = whole(splits["train"])
    assert test.shape == (359, 8, 8, 1) and train.shape == (1438, 8, 8, 1)
    np.testing.assert_array_equal(np.rint(test[3, ..., 0] / 255 * 16), digits.images[19])
    np.testing.assert_array_equal(np.rint(train[4, ..., 0] / 255 * 16), digits.images[5])
    assert test_labels[3] == digits.target[19]
    assert train_labels[4] == digits.target[5]
    assert train.max() == 255 and train.min() == 0
    with pytest.raises(UserError, match="leave out --source=x"):
        formats.read_digits(("x",), (8, 8, 1), {"train": 1438, "test": 359})
