"""Writes small files in the exact formats that datasets are distributed in.

For tests that only need a prepared dataset: `shrink` and `prepare_random`.
"""

import dataclasses
import functools
import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

from score_jax.data import builders, sources
from score_jax.data.raw_split import RawSplit

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def shrink(patch, name: str, **sizes: int) -> None:
    """Gives a dataset's entry other split sizes while pytest's `patch` (monkeypatch) lasts.

    `shrink(monkeypatch, "cifar100", train=500, test=100)`. Of no effect in other processes.
    """
    spec = dataclasses.replace(sources.DATASETS[name], split_sizes=sizes)
    patch.setitem(sources.DATASETS, name, spec)


def _blocks(pictures, labels, start):
    for index in range(start, len(labels), 1000):
        some = labels[index : index + 1000]
        yield pictures[some], some


def prepare_random(folder: Path, name: str, generated_size: int = 2000) -> Path:
    """A prepared folder of made-up images that `sources.read_split` takes for the dataset `name`.

    All splits of the entry's sizes (`generated_size` for a generated set), every class equally
    often; a class is one picture of noise, so that networks learn it at once.
    `prepare_random(tmp_path, "cifar100")` writes all 60,000 in two to three seconds and 180 MB:
    do it once, in a fixture of session or module scope. Runs, in other processes too, find them
    with `--config.data.dir=tmp_path`. Tests that stay in one process are faster with `shrink`
    first, which makes both the folder and the epochs small.
    """
    spec = sources.DATASETS[name]
    seed = sum(name.encode())
    pictures = np.random.default_rng(seed).integers(
        0, 256, (spec.num_classes, *spec.image_shape), dtype=np.uint8
    )
    splits = {}
    for split, size in spec.split_sizes.items():
        labels = np.arange(size or generated_size, dtype=np.int32) % spec.num_classes
        splits[split] = RawSplit(len(labels), functools.partial(_blocks, pictures, labels))
    return builders.write(folder, name, spec=spec, splits=splits, report=lambda line: None)


def random_cifar10(per_batch: int = 10, seed: int = 0):
    """(x_train, y_train, x_test, y_test) like CIFAR-10's, each of the six files of that size."""
    generator = np.random.default_rng(seed)
    sizes = (5 * per_batch, per_batch)
    arrays = []
    for size in sizes:
        arrays.append(generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8))
        arrays.append(generator.permutation(np.arange(size) % 10).astype(np.uint8))
    return tuple(arrays)


def random_cifar100():
    """(x_train, y_train, x_test, y_test) like CIFAR-100's, with 2 and 1 images a class."""
    generator = np.random.default_rng(100)
    arrays = []
    for size in (200, 100):
        arrays.append(generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8))
        arrays.append(generator.permutation(np.arange(size) % 100).astype(np.uint8))
    return tuple(arrays)


def coarse(labels):
    """Some label of 20 for each fine one of 100; not the official assignment."""
    return (labels // 5).astype(np.uint8)


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


def python2_batch(
    label: str, images: np.ndarray, labels, array: bytes | None = None, fine: bool = False
) -> bytes:
    """One file of cifar-10-batches-py: a pickle of protocol 2 with Python 2's strings.

    With `fine`, one of cifar-100-python, which has coarse labels too.
    """
    lists = (
        {b"coarse_labels": coarse(labels), b"fine_labels": labels} if fine else {b"labels": labels}
    )
    names = b"".join(_text(f"image_{i:06d}.png".encode()) for i in range(len(images)))
    return (
        (b"\x80\x02}q\x01(" + _text(b"batch_label") + _text(label.encode()))
        + b"".join(
            _text(name) + b"](" + b"".join(_whole(int(n)) for n in values) + b"e"
            for name, values in lists.items()
        )
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


def python100_files(data) -> dict[str, bytes]:
    """Name to content of cifar-100-python."""
    x_train, y_train, x_test, y_test = data
    return {
        "meta": b"not read",
        "test": python2_batch("testing batch 1 of 1", x_test, y_test, fine=True),
        "train": python2_batch("training batch 1 of 1", x_train, y_train, fine=True),
    }


def binary100_files(data) -> dict[str, bytes]:
    """Name to content of cifar-100-binary."""
    x_train, y_train, x_test, y_test = data
    return {
        f"{name}.bin": np.concatenate([coarse(y)[:, None], y[:, None], planes(x)], 1).tobytes()
        for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test))
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
