"""The reader of npz files: pieces from anywhere, and nothing believed that a file claims."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from score_jax.data import npz, raw_split
from score_jax.types import UserError
from tests.helpers import whole

SHAPE = (8, 8, 3)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (50, *SHAPE), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 10, 50)


def npy(array, version=None) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array), version)
    return content.getvalue()


def write(path, members, compression=zipfile.ZIP_STORED):
    """A zip of these contents by name."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members(**changes):
    return {"image.npy": npy(IMAGES), "label.npy": npy(LABELS), **changes}


def read(path, shape=SHAPE, count=None):
    return raw_split.read_npz(path, "image", "label", shape, count)


def refusal(path, **options) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            whole(read(path, **options))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def stored(path, **arrays):
    np.savez(path, **arrays)


def deflated(path, **arrays):
    np.savez_compressed(path, **arrays)


def after_other_bytes(path, **arrays):
    np.savez(path, **arrays)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())


@pytest.mark.parametrize("write_npz", [stored, deflated, after_other_bytes])
@pytest.mark.parametrize("start", [0, 1, 7, 21, 49, 50])
def test_blocks_come_from_any_index(write_npz, start, tmp_path, monkeypatch):
    monkeypatch.setattr(raw_split, "BLOCK", 7)
    write_npz(tmp_path / "a.npz", image=IMAGES, label=LABELS)
    blocks = list(read(tmp_path / "a.npz").blocks(start))
    assert [len(labels) for _, labels in blocks] == [
        min(7, 50 - index) for index in range(start, 50, 7)
    ]
    if blocks:
        np.testing.assert_array_equal(np.concatenate([b[0] for b in blocks]), IMAGES[start:])
        np.testing.assert_array_equal(np.concatenate([b[1] for b in blocks]), LABELS[start:])
        assert blocks[0][1].dtype == np.int32


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i4", ">i4", "<i8", ">i8", "u2", "<u8"])
@pytest.mark.parametrize("column", [False, True])
def test_labels_of_every_integer_type_and_as_a_column(dtype, column, tmp_path):
    labels = LABELS.astype(dtype)
    np.savez(tmp_path / "a.npz", image=IMAGES, label=labels[:, None] if column else labels)
    np.testing.assert_array_equal(whole(read(tmp_path / "a.npz"))[1], LABELS)


def test_one_channel_may_come_without_its_axis(tmp_path):
    np.savez(tmp_path / "a.npz", image=IMAGES[..., 0], label=LABELS)
    images, _ = whole(read(tmp_path / "a.npz", (8, 8, 1)))
    np.testing.assert_array_equal(images, IMAGES[..., :1])
    assert "(50, 8, 8, 3)" in refusal(tmp_path / "a.npz")


def test_sizes_of_64_bits_and_headers_of_version_2(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, array in (("image.npy", IMAGES), ("label.npy", LABELS)):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(npy(array, (2, 0)))
    np.testing.assert_array_equal(whole(read(tmp_path / "a.npz"))[0], IMAGES)


def test_members_with_other_paths_are_passed_over(tmp_path):
    outside = {"../image.npy": npy(IMAGES + 1), "/label.npy": b"", "a/../image.npy": b"x"}
    path = write(tmp_path / "a.npz", {**outside, **members()})
    np.testing.assert_array_equal(whole(read(path))[0], IMAGES)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    path = write(tmp_path / "b.npz", outside)
    assert "has no array 'image'; it holds: ../image" in refusal(path)


@pytest.mark.parametrize("write_npz", [stored, deflated])
def test_one_flipped_bit_is_found_before_the_last_block(write_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(raw_split, "BLOCK", 7)
    images = np.random.default_rng(1).integers(0, 256, (200, *SHAPE), dtype=np.uint8)
    write_npz(tmp_path / "a.npz", image=images, label=np.tile(LABELS, 4))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[20_000] ^= 4
    (tmp_path / "a.npz").write_bytes(content)
    blocks = read(tmp_path / "a.npz").blocks(0)
    next(blocks)
    with pytest.raises(UserError, match=r"damaged or cut short \((Bad CRC-32|Error -3)"):
        for _ in range(28):
            next(blocks)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"image": IMAGES.astype(np.float32)}, "image is float32 of shape (50, 8, 8, 3)"),
        ({"image": np.full((50, *SHAPE), np.nan)}, "image is float64"),
        ({"image": np.asfortranarray(IMAGES)}, "column order"),
        ({"image": IMAGES.transpose(0, 3, 1, 2).copy()}, "(50, 3, 8, 8)"),
        ({"image": IMAGES[:0]}, "labels of shape (50,) for 0 images"),
        ({"image": np.uint8(3)}, "shape ()"),
        ({"label": np.full(50, np.nan)}, "labels of type float64"),
        ({"label": LABELS > 3}, "labels of type bool"),
        ({"label": np.zeros(50, "V99")}, "labels of type void792"),
        ({"label": LABELS[:49]}, "labels of shape (49,)"),
        ({"label": LABELS - 1}, "labels from -1"),
        ({"label": LABELS.astype(np.uint64) + 2**63}, "labels from 9223372036854775808"),
        ({"label": np.array([{}] * 50)}, "labels of type object"),
        ({"image": np.array([{}] * 50)}, "image is object"),
    ],
)
def test_other_arrays_are_refused(changes, part, tmp_path):
    np.savez(tmp_path / "a.npz", **{"image": IMAGES, "label": LABELS, **changes})
    assert part in refusal(tmp_path / "a.npz")


def test_another_count_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", image=IMAGES, label=LABELS)
    assert "uint8 of shape (60, 8, 8, 3)" in refusal(tmp_path / "a.npz", count=60)


def header(text: str, version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


def promise(shape: str, descr: str = "|u1") -> bytes:
    return header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n")


@pytest.mark.parametrize(
    "image, part",
    [
        (promise("(1000000000, 8, 8, 3)"), "bytes where its header says 192000000083"),
        (promise("(-1, 8, 8, 3)"), "has shape (-1, 8, 8, 3)"),
        (promise("(True, 8, 8, 3)"), "has shape (True, 8, 8, 3)"),
        (promise("(2,)", "|V2000000000"), "header says 40000000"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(9 << 20), "more than 10000 bytes"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 70000, "more than 10000 bytes"),
        (header("[" * 5000), "a header that is none"),
        (header("{'descr'"), "a header that is none"),
        (header("{'descr': 'u1', 'shape': __import__('os')}"), "a header that is none"),
        (b"\x93NUMPY\x03\x00\x00\x00\x00\x00", "npy version (3, 0)"),
        (b"PK\x03\x04", "magic string"),
        (b"", "EOF"),
    ],
)
def test_forged_headers_end_in_one_line_and_in_little_memory(image, part, tmp_path):
    path = write(tmp_path / "a.npz", members(**{"image.npy": image}), zipfile.ZIP_DEFLATED)
    assert part in refusal(path)


@pytest.mark.parametrize("extra", [1, 50 << 20])
def test_more_than_the_header_says_is_refused_unread(extra, tmp_path):
    image = npy(IMAGES) + bytes(extra)
    path = write(tmp_path / "a.npz", members(**{"image.npy": image}), zipfile.ZIP_DEFLATED)
    assert "bytes where its header says" in refusal(path)


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path):
    path = write(tmp_path / "a.npz", members(), zipfile.ZIP_DEFLATED)
    longer = npy(IMAGES) + bytes(30 << 20)
    other = write(tmp_path / "b.npz", members(**{"image.npy": longer}), zipfile.ZIP_DEFLATED)
    size = struct.pack("<I", len(longer))
    assert other.read_bytes().count(size) >= 2
    other.write_bytes(other.read_bytes().replace(size, struct.pack("<I", len(npy(IMAGES)))))
    assert path.stat().st_size < other.stat().st_size
    assert "Bad CRC-32" in refusal(other)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression, tmp_path):
    path = write(tmp_path / "a.npz", members(), compression)
    assert "compressed in a way that NumPy does not write" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = write(tmp_path / "a.npz", members())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("label.npy", npy(LABELS + 1))
    assert "two arrays of one name" in refusal(path)


def test_an_encrypted_member_is_refused(tmp_path):
    path = write(tmp_path / "a.npz", members())
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    assert "encrypted" in refusal(path)


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path):
    path = write(tmp_path / "a.npz", members())
    split = read(path)
    write(path, members(**{"image.npy": npy(IMAGES[:40])}))
    with pytest.raises(UserError, match="image was replaced while it was read"):
        whole(split)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_npz_is_refused(share, tmp_path):
    path = write(tmp_path / "a.npz", members())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "damaged or cut short" in refusal(path)


def test_a_large_npz_is_read_in_little_memory(tmp_path):
    images = np.zeros((200_000, *SHAPE), np.uint8)  # 38 MB.
    np.savez(tmp_path / "a.npz", image=images, label=np.arange(200_000) % 10)
    split = read(tmp_path / "a.npz")
    tracemalloc.start()
    assert sum(len(labels) for _, labels in split.blocks(0)) == 200_000
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_stored_array_is_not_read_up_to_where_it_is_wanted(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", image=IMAGES, label=LABELS)
    header = npz.read_header(tmp_path / "a.npz", "image")
    real = zipfile.ZipExtFile.read
    counts = []

    def read(member, count=-1):
        content = real(member, count)
        counts.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    with npz.open_array(tmp_path / "a.npz", "image", header, 49) as rest:
        assert rest(1000) == IMAGES[49].tobytes() and rest(1) == b""
    assert len(counts) == 1  # The header.
