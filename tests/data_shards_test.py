"""Shards: their records are protobuf's, and what they hold is known and noticed when it changes."""

import errno
import hashlib

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from score_jax.data import record_layout, shards
from score_jax.data.record_layout import DamagedShard

SHAPE = (4, 6, 3)
# At each end of how many bytes a label takes.
LABELS = [0, 9, 127, 128, 999, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**28, 2**30 - 1]


def random_images(labels, shape=SHAPE, seed=0):
    labels = np.array(labels, np.int32)
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (len(labels), *shape), dtype=np.uint8), labels


@pytest.mark.parametrize("shape", [(1, 1, 1), SHAPE, (8, 16, 1), (32, 32, 3), (128, 128, 1)])
def test_records_are_what_protobuf_writes(shape):
    images, labels = random_images(LABELS, shape)
    records = list(record_layout.encode(images, labels))
    for record, image, label in zip(records, images, labels, strict=True):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(image.tobytes())
        example.features.feature["label"].int64_list.value.append(int(label))
        assert record == example.SerializeToString(deterministic=True)
    found_images, found_labels = record_layout.decode(records, shape)
    np.testing.assert_array_equal(found_images, images)
    np.testing.assert_array_equal(found_labels, labels)


@pytest.mark.parametrize("place", [0, 8, 15, -12, -4])
def test_a_record_of_another_layout_is_refused(place):
    records = [bytearray(r) for r in record_layout.encode(*random_images([3, 4, 5]))]
    records[1][place] ^= 1
    with pytest.raises(DamagedShard, match="not an image of"):
        record_layout.decode(records, SHAPE)
    with pytest.raises(DamagedShard, match="bytes where an image has 72"):
        record_layout.decode([records[0], records[2][:-5]], SHAPE)


@pytest.mark.parametrize(
    ("count", "pixels", "shards_of"),
    [(0, 3072, 1), (60_000, 3072, 1), (170_000, 3072, 1), (171_000, 3072, 5), (2_000_000, 3072, 47),
     (50_000_000, 3072, 294), (100_000, 12288, 10)],
)  # fmt: skip
def test_shards_are_neither_small_nor_many(count, pixels, shards_of):
    lengths = shards.shard_lengths(count, pixels)
    assert (sum(lengths), len(lengths)) == (count, shards_of)
    assert max(lengths) - min(lengths) <= 1


def write(path, images, labels, known=None):
    shard = shards.Shard(path, "name", images.shape[1:], 10, known)
    for start in range(0, len(labels), 70):
        shard.add(images[start : start + 70], labels[start : start + 70])
    return shard.close()


def test_the_facts_of_a_shard_are_those_of_its_images(tmp_path):
    images, labels = random_images(np.arange(2000) % 7)
    facts = write(tmp_path / "shard", images, labels)
    assert (facts.file, facts.count) == ("name", 2000)
    assert facts.size == (tmp_path / "shard").stat().st_size
    assert facts.sha256 == hashlib.sha256((tmp_path / "shard").read_bytes()).hexdigest()
    assert facts.class_counts == np.bincount(labels, minlength=10).tolist()
    pixels = images.reshape(-1, 3).astype(np.int64)
    assert (facts.sums, facts.squares) == (pixels.sum(0).tolist(), (pixels**2).sum(0).tolist())
    again = write(tmp_path / "again", images, labels)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "shard").read_bytes() and again == facts


def test_sums_of_many_bright_pixels_do_not_overflow():
    tally = shards.Tally(1, 1)
    tally.add(np.full((150_000, 1, 1, 1), 255, np.uint8), np.zeros(150_000, np.int32))
    assert tally.squares.tolist() == [150_000 * 255**2]


def test_a_shard_is_read_from_any_index(tmp_path):
    images, labels = random_images(np.arange(5000) % 10)
    write(tmp_path / "shard", images, labels)
    for start in (0, 1, 3640, 4999, 5000):
        parts = list(shards.read_blocks(tmp_path / "shard", SHAPE, start))
        found = np.concatenate([images[:0], *(x for x, _ in parts)])
        np.testing.assert_array_equal(found, images[start:])


def test_a_whole_shard_is_compared_with_what_comes_again(tmp_path):
    images, labels = random_images(np.arange(100) % 10)
    facts = write(tmp_path / "shard", images, labels)
    before = (tmp_path / "shard").read_bytes()
    assert write(tmp_path / "shard", images, labels, facts) == facts
    for changed in (images.copy(), labels.copy()):
        changed.reshape(-1)[33] ^= 1
        pair = (changed, labels) if changed.ndim == 4 else (images, changed)
        with pytest.raises(DamagedShard, match="other images than the source now does"):
            write(tmp_path / "shard", *pair, facts)
    assert (tmp_path / "shard").read_bytes() == before


@pytest.mark.parametrize("change", ["flip", "cut", "other images"])
def test_what_the_disk_changed_is_noticed(change, tmp_path, monkeypatch):
    images, labels = random_images(np.arange(100) % 10)
    write(tmp_path / "other", images ^ 1, labels)
    fsync = shards.os.fsync

    def damage(descriptor):
        fsync(descriptor)
        content = bytearray((tmp_path / "shard").read_bytes())
        if change == "flip":
            content[content.index(images[50].tobytes())] ^= 1
        elif change == "cut":
            del content[-100:]
        else:
            content = (tmp_path / "other").read_bytes()
        (tmp_path / "shard").write_bytes(content)

    monkeypatch.setattr(shards.os, "fsync", damage)
    with pytest.raises(DamagedShard, match="damaged"):
        write(tmp_path / "shard", images, labels)


@pytest.fixture
def full(tmp_path):
    """A file on a disk that is full; a link, which may be removed."""
    (tmp_path / "full").symlink_to("/dev/full")
    return tmp_path / "full"


def test_a_full_disk_is_an_error_that_says_so(full):
    images, labels = random_images(np.arange(100) % 10)
    with pytest.raises(OSError) as caught:
        write(full, images, labels)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full))


def test_a_full_disk_is_noticed_before_the_end(full):
    images, labels = random_images(np.arange(2000) % 10, (32, 32, 3))
    shard = shards.Shard(full, "name", (32, 32, 3), 10)
    with pytest.raises(OSError, match="No space left"):
        for _ in range(3):
            shard.add(images, labels)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        shards.Shard(tmp_path / "absent" / "shard", "name", SHAPE, 10)
