"""MNIST's IDX files, in each place and form that people have them in."""

import gzip
import struct

import numpy as np
import pytest

from score_jax.data import mnist
from score_jax.types import UserError
from tests.helpers import whole

SHAPE = (28, 28, 1)
SIZES = {"train": 30, "test": 10}


def contents(seed=0):
    """File name to content, and (images, labels) by split."""
    generator = np.random.default_rng(seed)
    files, data = {}, {}
    for split, name in (("train", "train"), ("test", "t10k")):
        count = SIZES[split]
        images = generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        labels = generator.integers(0, 10, count).astype(np.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        files[f"{name}-images-idx3-ubyte"] = header + images.tobytes()
        files[f"{name}-labels-idx1-ubyte"] = struct.pack(">II", 2049, count) + labels.tobytes()
        data[split] = images, labels
    return files, data


@pytest.fixture
def folder(tmp_path):
    for name, content in contents()[0].items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path


def read(*sources):
    return mnist.read_mnist([str(source) for source in sources], SHAPE, SIZES)


def check(found):
    assert list(found) == ["train", "test"]
    for split, (images, labels) in contents()[1].items():
        read_images, read_labels = whole(found[split])
        np.testing.assert_array_equal(read_images, images)
        np.testing.assert_array_equal(read_labels, labels)


def refusal(*sources):
    with pytest.raises(UserError) as caught:
        read(*sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_official_files_in_any_order_or_their_folder(folder):
    check(read(folder))
    check(read(*sorted(folder.iterdir())))
    check(read(*sorted(folder.iterdir(), reverse=True)))


def test_torchvisions_folders_with_both_forms_of_each_file(folder, tmp_path):
    raw = tmp_path / "torch" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in contents()[0].items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(content))
        (raw / name).write_bytes(content)
    for place in (raw, raw.parent, raw.parent.parent):
        check(read(place))
    for name in contents()[0]:
        (raw / f"{name}.gz").unlink()
    check(read(raw))


def test_keras_npz_without_an_axis_of_channels(tmp_path):
    data = contents()[1]
    arrays = {f"x_{split}": images[..., 0] for split, (images, _) in data.items()}
    arrays |= {f"y_{split}": labels for split, (_, labels) in data.items()}
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)
    check(read(tmp_path / "mnist.npz"))


def test_what_is_missing_or_twice_there_is_told(folder, tmp_path):
    assert "--source=FILE is needed" in refusal()
    files = sorted(folder.iterdir())
    assert "has no train labels" in refusal(*files[:3])
    assert "as another file does" in refusal(*files, files[0])
    (tmp_path / "empty").mkdir()
    assert "holds no file *-ubyte" in refusal(tmp_path / "empty")


def test_damage_is_told(folder):
    name = "train-images-idx3-ubyte"
    whole_file, path = contents()[0][name], folder / f"{name}.gz"
    other = struct.pack(">IIII", 2051, 30, 32, 32) + bytes(30 * 32 * 32)
    for content, message in (
        (whole_file[:-1], "its length is not what its header says"),
        (whole_file + b"x", "its length is not what its header says"),
        (whole_file[:6], "unpack requires"),
        (struct.pack(">I", 2050) + whole_file[4:], "not an IDX file"),
        (whole_file[:4] + struct.pack(">I", 1 << 31) + whole_file[8:], "it is of 2147483648"),
        (other, "its images are 32x32"),
    ):
        path.write_bytes(gzip.compress(content))
        assert message in refusal(folder)
        path.write_bytes(content)
        assert message in refusal(folder)
    zipped = bytearray(gzip.compress(whole_file))
    for at in (len(zipped) // 2, len(zipped) - 6):  # In the content, in its checksum.
        damaged = bytearray(zipped)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        assert "is damaged or not of this dataset" in refusal(folder)
    path.write_bytes(zipped[:-9])
    assert "is damaged or not of this dataset" in refusal(folder)


def test_fashion_mnist_is_not_taken_for_mnist(folder, monkeypatch):
    labels = contents()[1]["train"][1]
    counts = np.bincount(labels, minlength=10)
    monkeypatch.setattr(mnist, "MNIST_COUNTS", tuple(counts))
    check(mnist.read_digits_mnist([str(folder)], SHAPE, SIZES))
    other = counts + np.array([1, -1] + [0] * 8)
    monkeypatch.setattr(mnist, "MNIST_COUNTS", tuple(other))
    with pytest.raises(UserError, match=f"{counts[0]} are 0 where {other[0]} are; is it fashion"):
        mnist.read_digits_mnist([str(folder)], SHAPE, SIZES)
