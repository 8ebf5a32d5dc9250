"""Writes small files in the exact formats that datasets are distributed in."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def random_cifar10(per_batch: int = 10, seed: int = 0):
    """(x_train, y_train, x_test, y_test) like CIFAR-10's, each of the six files of that size."""
    generator = np.random.default_rng(seed)
    sizes = (5 * per_batch, per_batch)
    arrays = []
    for size in sizes:
        arrays.append(generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8))
        arrays.append(generator.permutation(np.arange(size) % 10).astype(np.uint8))
    return tuple(arrays)


def batches(data):
    """(file name, images, labels) of the six files."""
    x_train, y_train, x_test, y_test = data
    count = len(x_train) // 5
    for i in range(5):
        part = slice(i * count, (i + 1) * count)
        yield BATCHES[i], x_train[part], y_train[part]
    yield BATCHES[5], x_test, y_test


def planes(images):
    """uint8[n, h * w * c] with one colour after the other, as both official forms hold them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def _text(value: bytes) -> bytes:
    if len(value) < 256:
        return b"U" + struct.pack("<B", len(value)) + value
    return b"T" + struct.pack("<i", len(value)) + value


def _whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def python2_array(values: np.ndarray, dtype: bytes = b"u1") -> bytes:
    """The pickle instructions with which NumPy 1 under Python 2 wrote an array."""
    shape = b"(" + b"".join(_whole(n) for n in values.shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + (b"K\x00\x85" + _text(b"b") + b"\x87R")
        + (b"(K\x01" + shape)
        + (b"cnumpy\ndtype\n" + _text(dtype) + b"K\x00K\x01\x87R")
        + (b"(K\x03" + _text(b"|") + b"NNN" + _whole(-1) + _whole(-1) + b"K\x00tb")
        + (b"\x89" + _text(values.tobytes()) + b"tb")
    )


def python2_batch(label: str, images: np.ndarray, labels, array: bytes | None = None) -> bytes:
    """One file of cifar-10-batches-py: a pickle of protocol 2 with Python 2's strings."""
    names = b"".join(_text(f"image_{i:06d}.png".encode()) for i in range(len(images)))
    return (
        (b"\x80\x02}q\x01(" + _text(b"batch_label") + _text(label.encode()))
        + (_text(b"labels") + b"](" + b"".join(_whole(int(n)) for n in labels) + b"e")
        + (_text(b"data") + (array if array is not None else python2_array(planes(images))))
        + (_text(b"filenames") + b"](" + names + b"e")
        + b"u."
    )


def python_files(data) -> dict[str, bytes]:
    """Name to content of cifar-10-batches-py."""
    return {name: python2_batch(name, x, y) for name, x, y in batches(data)}


def binary_files(data) -> dict[str, bytes]:
    """Name to content of cifar-10-batches-bin."""
    return {
        f"{name}.bin": np.concatenate([y[:, None], planes(x)], axis=1).tobytes()
        for name, x, y in batches(data)
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder of these files."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    """A tar.gz with one folder of these files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo(folder)
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue(), 1))
    return path


def write_npz(path: Path, data, *, column_labels: bool = False, compressed: bool = False) -> Path:
    """An npz with x_train, y_train, x_test, y_test; labels [n, 1] where `column_labels`."""
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), data, strict=True))
    if column_labels:
        for key in ("y_train", "y_test"):
            arrays[key] = arrays[key].astype(np.int64)[:, None]
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path
