"""The real CIFAR-10 and MNIST: every form in which they are distributed gives the same bytes.

Of $SCORE_JAX_REAL_IMAGES, a folder with cifar-10-batches-py, cifar-10-batches-bin, cifar10.npz
and MNIST/raw, each as far as it is there.
"""

import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from score_jax import prepare
from score_jax.data import builders, mnist
from score_jax.data.datasets import DATASETS
from tests.helpers import whole

VARIABLE = "SCORE_JAX_REAL_IMAGES"
ROOT = Path(os.environ.get(VARIABLE, ""))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no real images"),
]


def given(name: str) -> Path:
    if not (ROOT / name).exists():
        pytest.skip(f"{VARIABLE}={ROOT} has no {name}")
    return ROOT / name


def packed(name: str, folder: Path) -> Path:
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(given(name), name)
    return path


def unpacked(folder: Path) -> Path:
    for path in given("MNIST/raw").glob("*-ubyte.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return folder


def keras_npz(folder: Path) -> Path:
    spec = DATASETS["mnist"]
    found = mnist.read_mnist((str(given("MNIST/raw")),), spec.image_shape, spec.split_sizes)
    arrays = {}
    for split, raw in found.items():
        images, labels = whole(raw)
        arrays |= {f"x_{split}": images[..., 0], f"y_{split}": labels.astype(np.uint8)}
    np.savez_compressed(folder / "mnist.npz", **arrays)
    return folder / "mnist.npz"


# sha256 of the images' bytes and the labels as int32, of files whose checksums are the published.
OFFICIAL_MNIST = {
    "train": "6a364e333ea1f8ab86e4d641d64a8cf8d8644433f54b0a78e32c2b9e143672d0",
    "test": "45a60edfded3b2bb860a7fd195c83431011e7f04318268b4f2de30030af9444e",
}
CIFAR10 = {
    "python folder": lambda folder: given("cifar-10-batches-py"),
    "binary folder": lambda folder: given("cifar-10-batches-bin"),
    "npz": lambda folder: given("cifar10.npz"),
    "python tar": lambda folder: packed("cifar-10-batches-py", folder),
    "binary tar": lambda folder: packed("cifar-10-batches-bin", folder),
}
MNIST = {
    "idx.gz": lambda folder: given("MNIST/raw"),
    "idx": unpacked,
    "npz": keras_npz,
}


@pytest.mark.parametrize("name, forms", [("cifar10", CIFAR10), ("mnist", MNIST)])
def test_every_form_is_prepared_to_the_same_bytes(name, forms, tmp_path):
    found = {}
    for form, source in forms.items():
        folder = tmp_path / form
        folder.mkdir()
        path = prepare.prepare(name, (str(source(folder)),), str(folder / "data"))
        facts = json.loads((Path(path) / "metadata.json").read_text())["fingerprints"]
        spec = DATASETS[name]
        for split in spec.split_sizes:
            _, _, fingerprint = builders.read(Path(path), split, spec.image_shape)
            assert fingerprint == facts[split]
        found[form] = facts
        shutil.rmtree(folder)
    assert len({json.dumps(facts, sort_keys=True) for facts in found.values()}) == 1, found
    if name == "mnist":
        assert found["idx"] == OFFICIAL_MNIST


def test_the_mnist_of_the_official_files_is_known_by_its_content(tmp_path):
    """The means that everyone normalises by, and the counts of digits that LeCun tells."""
    given("MNIST/raw")
    folder = prepare.prepare("mnist", (str(ROOT / "MNIST" / "raw"),), str(tmp_path))
    images, labels, _ = builders.read(Path(folder), "train", DATASETS["mnist"].image_shape)
    assert round(float(images.mean()) / 255, 4) == 0.1307
    assert round(float(images.std()) / 255, 4) == 0.3081
    assert np.bincount(labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
