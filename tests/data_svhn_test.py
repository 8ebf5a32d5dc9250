"""SVHN's MATLAB files, written by SciPy, are read in pieces and refused where they are damaged."""

import numpy as np
import pytest
from scipy.io import savemat

from score_jax.data import raw_split, svhn
from score_jax.types import UserError
from tests.helpers import whole

SHAPE = (32, 32, 3)
SIZES = {"train": 50, "test": 20}


def write(folder, compressed=True, label_type=np.uint8, sizes=SIZES, **changes):
    """Writes both files; gives what they hold: (images, labels) by split."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    data = {}
    for split, count in sizes.items():
        images = generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        labels = generator.integers(1, 11, count)
        arrays = {"X": images.transpose(1, 2, 3, 0), "y": labels.astype(label_type)[:, None]}
        arrays |= {k: v for k, v in changes.items() if split == "train"}
        savemat(folder / f"{split}_32x32.mat", arrays, do_compression=compressed)
        data[split] = images, labels % 10
    return data


def read(*sources):
    return svhn.read_svhn([str(source) for source in sources], SHAPE, SIZES)


def refusal(*sources):
    with pytest.raises(UserError) as caught:
        for raw in read(*sources).values():
            whole(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("label_type", [np.uint8, np.float64])
def test_what_scipy_wrote_is_read(compressed, label_type, tmp_path):
    data = write(tmp_path / "s", compressed, label_type)
    found = read(tmp_path / "s")
    assert list(found) == ["train", "test"]
    for split, (images, labels) in data.items():
        assert found[split].count == SIZES[split]
        read_images, read_labels = whole(found[split])
        np.testing.assert_array_equal(read_images, images)
        np.testing.assert_array_equal(read_labels, labels)
    assert set(data["train"][1]) == set(range(10))  # The label 10 is the digit 0.


@pytest.mark.parametrize("start", [1, 7, 13, 49])
def test_it_is_read_from_any_index(start, tmp_path, monkeypatch):
    monkeypatch.setattr(svhn, "BLOCK", 6)
    monkeypatch.setattr(svhn, "CHUNK", 1000)
    images, labels = write(tmp_path / "s")["train"]
    raw = read(tmp_path / "s")["train"]
    parts = list(raw.blocks(start))
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), images[start:])
    np.testing.assert_array_equal(np.concatenate([y for _, y in parts]), labels[start:])


def test_files_are_told_apart_by_their_counts_and_npz_is_taken(tmp_path):
    data = write(tmp_path / "s")
    files = [tmp_path / "s" / f"{split}_32x32.mat" for split in ("test", "train")]
    np.testing.assert_array_equal(whole(read(*files)["train"])[1], data["train"][1])
    arrays = {f"x_{k}": x for k, (x, _) in data.items()}
    arrays |= {f"y_{k}": y for k, (_, y) in data.items()}
    np.savez(tmp_path / "s.npz", **arrays)
    np.testing.assert_array_equal(whole(read(tmp_path / "s.npz")["test"])[0], data["test"][0])


def test_the_extra_images_are_left_alone(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "s" / "extra_32x32.mat").write_bytes(b"not read")
    assert read(tmp_path / "s")["train"].count == 50


def test_what_is_missing_or_other_is_told(tmp_path):
    data = write(tmp_path / "s")
    folder = tmp_path / "s"
    assert "--source=FILE is needed" in refusal()
    assert "has no test images" in refusal(folder / "train_32x32.mat")
    (tmp_path / "empty").mkdir()
    assert "has no file *_32x32.mat" in refusal(tmp_path / "empty")
    train = folder / "train_32x32.mat"
    assert "holds 50 images; 50 train and 20 test images are expected, each once" in refusal(
        train, train
    )
    labels = data["train"][1][:, None]
    for changes, message in (
        (dict(X=np.zeros((32, 32, 1, 50), np.uint8)), "X has shape (32, 32, 1, 50)"),
        (dict(X=np.zeros((32, 32, 3, 50))), "X has shape (32, 32, 3, 50), type 6"),
        (dict(y=labels + 5), "labels other than 1 to 10"),
        (dict(y=labels + 0.5), "labels other than 1 to 10"),
        (dict(y=np.where(labels, np.nan, 1)), "labels other than 1 to 10"),
        (dict(y=labels[:-1] + 1), "y has shape (49, 1) for 50 images"),
    ):
        write(folder, **changes)
        assert message in refusal(folder)


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_is_told(compressed, tmp_path):
    write(tmp_path / "s", compressed)
    path = tmp_path / "s" / "train_32x32.mat"
    content = path.read_bytes()
    for damaged in (content[:100], content[:3000], content[:-100], b"x" * 200, b""):
        path.write_bytes(damaged)
        assert "is damaged or no MATLAB file" in refusal(tmp_path / "s")
    if compressed:
        for at in range(200, len(content) - 8, len(content) // 7):
            path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
            assert "is damaged or no MATLAB file" in refusal(tmp_path / "s")


def test_no_more_is_unpacked_than_the_dataset_holds(tmp_path, monkeypatch):
    """Compressed values longer than their header says: refused after the images, not unpacked."""
    import struct
    import zlib

    write(tmp_path / "s", compressed=False)
    path = tmp_path / "s" / "train_32x32.mat"
    content = path.read_bytes()
    number, length = struct.unpack("<II", content[128:136])
    matrix = content[128 : 136 + length] + bytes(8 << 20)
    packed = zlib.compress(matrix)
    after = content[136 + length :]
    path.write_bytes(content[:128] + struct.pack("<II", 15, len(packed)) + packed + after)
    largest = 0
    unpacker = zlib.decompressobj

    class Watched:
        def __init__(self):
            self._inner = unpacker()

        def decompress(self, packed, limit):
            nonlocal largest
            largest = max(largest, limit)
            return self._inner.decompress(packed, limit)

        def __getattr__(self, name):
            return getattr(self._inner, name)

    monkeypatch.setattr(svhn.zlib, "decompressobj", Watched)
    assert "longer than its header says" in refusal(tmp_path / "s")
    assert largest <= raw_split.BLOCK * 32 * 32 * 3
