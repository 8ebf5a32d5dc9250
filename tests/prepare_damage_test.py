"""Each way in which a source can be wrong: one line, and nothing of a dataset is there."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from score_jax import cli
from tests import official_files as official
from tests.fuzz_sources import cifar_npz, cifar_tar, generated_npz, mnist_zipped

GENERATED = "cifar10_ddpm"


@pytest.fixture(autouse=True)
def small_datasets(monkeypatch):
    official.shrink(monkeypatch, "cifar10", train=50, test=10)
    official.shrink(monkeypatch, "mnist", train=60, test=10)


def truncated(path):
    source = cifar_tar(path)
    source.write_bytes(source.read_bytes()[:-5000])
    return "cifar10", source


def flipped_byte(path):
    source = generated_npz(path)
    content = bytearray(source.read_bytes())
    content[50_000] ^= 1
    source.write_bytes(content)
    return GENERATED, source


def flipped_byte_of_idx(path):
    source = mnist_zipped(path)
    file = source / "train-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[-6] ^= 1  # Of the checksum.
    file.write_bytes(content)
    return "mnist", source


def _generated(path, **changes):
    images = np.zeros((30, 32, 32, 3), np.uint8)
    arrays = {"image": images, "label": np.arange(30) % 10, **changes}
    np.savez(path / "g.npz", **arrays)
    return GENERATED, path / "g.npz"


def zip_bomb(path):
    """A gigabyte of zeros in a megabyte, behind a header of thirty images."""
    image = io.BytesIO()
    np.lib.format.write_array(image, np.zeros((30, 32, 32, 3), np.uint8))
    name, source = _generated(path)
    with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x_train.npy", "w") as member:
            member.write(image.getvalue())
            for _ in range(64):
                member.write(bytes(1 << 20))
        for key in ("y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", image.getvalue())
    return "cifar10", source


def tar_bomb(path):
    with gzip.open(path / "b.tar.gz", "wb", 1) as packed:
        entry = tarfile.TarInfo("readme.html")
        entry.size = 400 << 20
        packed.write(entry.tobuf())
        for _ in range(64):
            packed.write(bytes(1 << 20))
    return "cifar10", path / "b.tar.gz"


def path_traversal(path):
    files = {f"../../../{name}": b"x" for name in official.BATCHES}
    return "cifar10", official.write_tar(path / "t.tar.gz", "cifar-10-batches-py", files)


class Command:
    """What a pickle runs where it is loaded without care."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (self.made,)


def pickle_that_runs(path):
    files = official.python_files(official.random_cifar10())
    files["data_batch_2"] = pickle.dumps(Command(str(path / "made")))
    return "cifar10", official.write_folder(path / "cifar-10-batches-py", files)


def pickle_bomb(path):
    """Ten lists, each of ten times the one before: billions of laughs."""
    content = b"\x80\x02(]q\x00" + b"(" + b"}" * 20_000 + b"e"
    for index in range(10):
        content += b"]q" + bytes([index + 1]) + b"(" + (b"h" + bytes([index])) * 10 + b"e"
    files = official.python_files(official.random_cifar10())
    files["data_batch_2"] = content + b"l."
    return "cifar10", official.write_folder(path / "cifar-10-batches-py", files)


def wrong_count(path):
    data = official.random_cifar10(per_batch=9)
    return "cifar10", official.write_npz(path / "c.npz", data)


def label_out_of_range(path):
    data = official.random_cifar10()
    data[1][7] = 10
    return "cifar10", official.write_npz(path / "c.npz", data)


def web_page(path):
    (path / "cifar10_ddpm.npz").write_text("<html>Not found</html>")
    return GENERATED, path / "cifar10_ddpm.npz"


def another_dataset(path):
    return GENERATED, cifar_npz(path)


def idx_of_another_count(path):
    source = mnist_zipped(path)
    labels = struct.pack(">II", 0x801, 2**31) + bytes(60)
    (source / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return "mnist", source


DAMAGES = {
    "damaged or cut short": truncated,
    "Bad CRC-32": flipped_byte,
    "CRC check failed": flipped_byte_of_idx,
    "(45, 32, 32, 3)": wrong_count,
    "it is of 2147483648 labels": idx_of_another_count,
    "has label 10 where 9 is the largest": label_out_of_range,
    "labels from -1": lambda path: _generated(path, label=np.full(30, -1)),
    "image is float32": lambda path: _generated(path, image=np.zeros((30, 32, 32, 3), "f4")),
    "image is float64": lambda path: _generated(path, image=np.full((30, 32, 32, 3), np.nan)),
    "labels of type float64": lambda path: _generated(path, label=np.full(30, np.nan)),
    "(30, 3, 32, 32)": lambda path: _generated(path, image=np.zeros((30, 3, 32, 32), "u1")),
    "labels of type object": lambda path: _generated(path, label=np.array([{}] * 30)),
    "67201152 bytes where its header says 92288": zip_bomb,
    "unpacks to more than the dataset holds": tar_bomb,
    "has no data_batch_1": path_traversal,
    "it asks for posix.mkdir": pickle_that_runs,
    "instructions": pickle_bomb,
    "not a zip file": web_page,
    "has no array 'image'": another_dataset,
}


@pytest.mark.parametrize("told", DAMAGES)
def test_it_is_told_in_one_line_and_nothing_is_there(told, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    name, source = DAMAGES[told](tmp_path / "source")
    before = sorted(path for path in tmp_path.rglob("*"))
    data_dir = tmp_path / "data"
    words = ["data", "prepare", name, f"--source={source}", f"--data_dir={data_dir}"]
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith((f"{name}: ", "score-jax data: ")) for line in lines), lines
    assert lines[-1].startswith("score-jax data: ") and told in lines[-1], lines[-1]
    lock = data_dir / f".score_jax_preparing_{name}.lock"
    assert sorted(path for path in tmp_path.rglob("*")) == sorted([*before, data_dir, lock])
