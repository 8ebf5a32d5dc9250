"""The readers of CIFAR's files: every form gives the same images, and nothing bad gets in."""

import gzip
import hashlib
import io
import pickle
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from score_jax.data import cifar, raw_split
from score_jax.types import UserError
from tests import official_files as official
from tests.helpers import whole

SHAPE = (32, 32, 3)
SIZES = {"train": 50, "test": 10}


@pytest.fixture(scope="module")
def data():
    return official.random_cifar10()


def read(source, sizes=SIZES):
    splits = cifar.read_cifar10((str(source),), SHAPE, sizes)
    return tuple(
        array
        for split in ("train", "test")
        for array in whole(splits[split])
    )


def refusal(source, sizes=SIZES) -> str:
    with pytest.raises(UserError) as caught:
        read(source, sizes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def python3_files(data, protocol):
    return {
        name: pickle.dumps(
            {b"labels": y.tolist(), b"data": official.planes(x), b"batch_label": b"x"}, protocol
        )
        for name, x, y in official.batches(data)
    }


FORMS = {
    "python folder": lambda path, data: official.write_folder(
        path / "cifar-10-batches-py", official.python_files(data)
    ),
    "folder around it": lambda path, data: (
        official.write_folder(path / "cifar-10-batches-py", official.python_files(data)).parent
    ),
    "python tar": lambda path, data: official.write_tar(
        path / "p.tar.gz", "cifar-10-batches-py", official.python_files(data)
    ),
    "binary folder": lambda path, data: official.write_folder(
        path / "cifar-10-batches-bin", official.binary_files(data)
    ),
    "binary tar": lambda path, data: official.write_tar(
        path / "b.tar.gz", "cifar-10-batches-bin", official.binary_files(data)
    ),
    "npz": lambda path, data: official.write_npz(path / "c.npz", data),
    "compressed npz, Keras labels": lambda path, data: official.write_npz(
        path / "c.npz", data, column_labels=True, compressed=True
    ),
    "python 3 protocol 2": lambda path, data: official.write_folder(
        path / "py", python3_files(data, 2)
    ),
    "python 3 protocol 4": lambda path, data: official.write_folder(
        path / "py", python3_files(data, 4)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_in_the_official_order(form, data, tmp_path):
    found = read(FORMS[form](tmp_path, data))
    for array, expected, dtype in zip(found, data, (np.uint8, np.int32) * 2, strict=True):
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, expected)


def test_the_small_pickles_are_what_python_reads_as_official_ones(data):
    content = official.python_files(data)["data_batch_1"]
    batch = pickle.loads(content, encoding="bytes")
    assert sorted(batch) == [b"batch_label", b"data", b"filenames", b"labels"]
    np.testing.assert_array_equal(batch[b"data"], official.planes(data[0][:10]))


def test_binary_hashes_are_those_of_the_binary_files(data, tmp_path):
    splits = cifar.read_cifar10((str(official.write_npz(tmp_path / "c.npz", data)),), SHAPE, SIZES)
    expected = [hashlib.sha256(c).hexdigest() for c in official.binary_files(data).values()]
    assert list(cifar.binary_hashes(splits["train"], 5)) == expected[:5]
    assert list(cifar.binary_hashes(splits["test"], 1)) == expected[5:]


def test_binary_hashes_do_not_depend_on_blocks(data):
    images, labels = data[0], data[1].astype(np.int32)
    cuts = [7, 31]
    parts = list(zip(np.split(images, cuts), np.split(labels, cuts), strict=True))
    uneven, even = raw_split.in_memory(parts), raw_split.in_memory([(images, labels)])
    assert cifar.binary_hashes(uneven, 5) == cifar.binary_hashes(even, 5)


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_tar_is_refused(share, data, tmp_path):
    path = FORMS["python tar"](tmp_path, data)
    content = path.read_bytes()
    path.write_bytes(content[: max(300, int(share * len(content)))])
    assert "damaged or cut short" in refusal(path)


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_flipped_byte_in_a_tar_is_refused(share, data, tmp_path):
    path = FORMS["binary tar"](tmp_path, data)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)
    assert "damaged or cut short" in refusal(path)


def test_a_flipped_byte_in_an_npz_is_refused(data, tmp_path):
    path = FORMS["npz"](tmp_path, data)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    assert "damaged or cut short" in refusal(path)


def test_a_truncated_npz_is_refused(data, tmp_path):
    path = FORMS["npz"](tmp_path, data)
    path.write_bytes(path.read_bytes()[:100_000])
    assert "damaged or cut short" in refusal(path)


@pytest.mark.parametrize("form", ["python folder", "binary folder"])
def test_a_missing_file_is_named(form, data, tmp_path):
    folder = FORMS[form](tmp_path, data)
    next(folder.glob("data_batch_3*")).unlink()
    assert "has no data_batch_3" in refusal(folder)


@pytest.mark.parametrize("form", ["python folder", "binary folder", "python tar", "npz"])
def test_another_count_is_refused(form, tmp_path):
    message = refusal(FORMS[form](tmp_path, official.random_cifar10(per_batch=9)))
    assert "expected" in message


@pytest.mark.parametrize("form", ["python folder", "binary folder", "binary tar", "npz"])
def test_the_real_counts_are_not_met_by_small_files(form, data, tmp_path):
    refusal(FORMS[form](tmp_path, data), {"train": 50000, "test": 10000})


def test_an_npz_without_a_key_lists_what_it_holds(data, tmp_path):
    np.savez(tmp_path / "c.npz", x_train=data[0], y_train=data[1], images=data[2])
    message = refusal(tmp_path / "c.npz")
    assert "'x_test'" in message and "images, x_train, y_train" in message


@pytest.mark.parametrize(
    "key, value, part",
    [
        ("x_train", np.zeros((50, 32, 32, 3), np.float32), "float32"),
        ("x_train", np.zeros((50, 3, 32, 32), np.uint8), "(50, 3, 32, 32)"),
        ("x_train", np.zeros((50, 32, 32, 3), np.uint8, order="F"), "x_train"),
        ("y_train", np.zeros(49, np.uint8), "(49,)"),
        ("y_train", np.zeros(50, np.float32), "float32"),
        ("y_train", np.full(50, -1), "-1"),
        ("y_train", np.array([{}] * 50), "object"),
        ("y_train", np.zeros(10**6, np.uint8), "labels of shape (1000000,) for 50 images"),
    ],
)
def test_an_npz_of_other_arrays_is_refused(key, value, part, data, tmp_path):
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), data, strict=True))
    np.savez(tmp_path / "c.npz", **{**arrays, key: value})
    assert part in refusal(tmp_path / "c.npz")


def test_a_header_that_promises_too_much_allocates_nothing(data, tmp_path):
    path = FORMS["npz"](tmp_path, data)
    header = io.BytesIO()
    promise = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 32, 32, 3)}
    np.lib.format.write_array_header_1_0(header, promise)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "x_train.npy": header.getvalue()}.items():
            archive.writestr(name, content)
    assert "1000000000" in refusal(path)


def test_content_beyond_what_the_header_says_is_refused(data, tmp_path):
    path = FORMS["npz"](tmp_path, data)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["x_train.npy"] += b"more"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "holds 153732 bytes where its header says 153728" in refusal(path)


def test_sources_that_are_none_of_the_forms(data, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "neither a tar nor an npz" in refusal(tmp_path / "notes.txt")
    assert "does not exist" in refusal(tmp_path / "absent.tar.gz")
    assert "is an address" in refusal("https://example.org/cifar-10-python.tar.gz")
    assert "has no data_batch_1" in refusal(tmp_path)
    for sources in ((), ("a", "b")):
        with pytest.raises(UserError, match=f"exactly one --source, got {len(sources)}"):
            cifar.read_cifar10(sources, SHAPE, SIZES)


def test_a_link_in_a_tar_is_not_followed(data, tmp_path):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(entry)
    path = tmp_path / "link.tar.gz"
    path.write_bytes(gzip.compress(raw.getvalue()))
    assert "not a plain file" in refusal(path)


def test_members_with_other_paths_are_passed_over(data, tmp_path):
    files = {f"../../{name}": content for name, content in official.binary_files(data).items()}
    path = official.write_tar(tmp_path / "b.tar.gz", "cifar-10-batches-bin", files)
    assert "has no" in refusal(path)
    assert [p.name for p in tmp_path.iterdir()] == ["b.tar.gz"]


def test_a_small_tar_that_unpacks_to_much_is_refused(data, tmp_path):
    files = {"readme.html": bytes(80 << 20), **official.binary_files(data)}
    path = official.write_tar(tmp_path / "b.tar.gz", "cifar-10-batches-bin", files)
    assert path.stat().st_size < 2 << 20
    assert "unpacks to more" in refusal(path)


def test_an_oversized_member_is_refused_before_it_is_read(data, tmp_path):
    files = official.binary_files(data)
    files["data_batch_1.bin"] += bytes(1)
    path = official.write_tar(tmp_path / "b.tar.gz", "cifar-10-batches-bin", files)
    assert "expected size" in refusal(path)
    folder = official.write_folder(tmp_path / "folder", files)
    assert "at most 30730 are" in refusal(folder)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S"])
def test_what_is_no_plain_file_in_a_tar_is_refused(kind, tmp_path):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        entry.type, entry.linkname = kind, "/etc/hostname"
        tar.addfile(entry)
    (tmp_path / "a.tar").write_bytes(raw.getvalue())
    assert "not a plain file" in refusal(tmp_path / "a.tar")


def test_a_file_that_is_twice_in_a_tar_is_refused(data, tmp_path):
    files = official.binary_files(data)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in (*files, "data_batch_1.bin"):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    (tmp_path / "a.tar").write_bytes(raw.getvalue())
    assert "holds cifar-10-batches-bin/data_batch_1.bin twice" in refusal(tmp_path / "a.tar")


def test_a_header_of_a_tar_that_asks_for_memory_is_refused(tmp_path):
    """A PAX header of a gigabyte packs into one megabyte."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as packed:
        packed.write(entry.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(64):
            packed.write(bytes(1 << 20))
    tracemalloc.start()
    assert "unpacks to more" in refusal(tmp_path / "a.tar.gz")
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
