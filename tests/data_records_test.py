"""Records are read at random, decoded as protobuf does, and their damage is told."""

import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from score_jax.data import memory_maps, records, sources
from score_jax.types import UserError
from tests import tiny_sets
from tests.tiny_sets import SHAPE


def test_records_come_in_any_order_and_more_than_once(tiny_data, monkeypatch):
    tiny_sets.add_sets(monkeypatch)
    whole = sources.train_source("tiny", str(tiny_data), "memory")
    some = sources.train_source("tiny", str(tiny_data), "records")
    assert len(some) == 600 and some.fingerprint == whole.fingerprint
    assert (some.name, some.split, some.path) == (whole.name, whole.split, whole.path)
    np.testing.assert_array_equal(some.labels, whole.labels)
    assert some.labels.dtype == np.int32 and whole.labels.max() > 127
    for indices in ([599, 0, 99, 100, 100, 0, 599], [], np.arange(600)[::-1]):
        indices = np.array(indices, np.int64)
        for one, other in zip(some.take(indices), whole.take(indices), strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape
            np.testing.assert_array_equal(one, other)
    for wrong in (-1, 600):
        with pytest.raises(IndexError):
            some.take(np.array([0, wrong]))


class SlowReader:
    """Lets other threads in between the seek and the read."""

    def __init__(self, path, options, **fields):
        self._reader = array_record_module.ArrayRecordReader(path, options, **fields)
        self.num_records = self._reader.num_records

    def seek(self, place):
        self._reader.seek(place)
        time.sleep(0.001)

    def read(self):
        return self._reader.read()


def test_threads_may_take_records_at_once(tiny_data, monkeypatch):
    tiny_sets.add_sets(monkeypatch)
    whole = sources.train_source("tiny", str(tiny_data), "memory")
    slow = types.SimpleNamespace(ArrayRecordReader=SlowReader)
    monkeypatch.setattr(records, "array_record_module", slow)
    some = records.Records("tiny", "train", Path(whole.path), SHAPE)
    wrong = []

    def take(seed):
        indices = np.random.default_rng(seed).integers(0, 100, 20)  # All of one shard.
        if not np.array_equal(some.take(indices)[0], whole.take(indices)[0]):
            wrong.append(seed)

    threads = [threading.Thread(target=take, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_records_are_what_protobuf_reads(tiny_folder):
    labels, images = [], []
    for path in sorted(tiny_folder.glob("*train.array_record*")):
        for record in array_record_module.ArrayRecordReader(str(path)).read_all():
            feature = tf_example_pb2.Example.FromString(record).features.feature
            images.append(np.frombuffer(feature["image"].bytes_list.value[0], np.uint8))
            labels.append(feature["label"].int64_list.value[0])
    found = records.Records("tiny", "train", tiny_folder, SHAPE).take(np.arange(600))
    np.testing.assert_array_equal(found[0].reshape(600, -1), images)
    np.testing.assert_array_equal(found[1], labels)


def test_a_shard_of_something_else_is_told(tiny_folder):
    first = sorted(tiny_folder.glob("*train.array_record*"))[0]
    writer = array_record_module.ArrayRecordWriter(str(first), "group_size:1")
    for _ in range(100):
        writer.write(b"\x00" * 70)
    writer.close()
    with pytest.raises(UserError, match="is damaged .*prepare it again"):
        records.Records("tiny", "train", tiny_folder, SHAPE).take(np.arange(5))


def test_a_damaged_shard_is_told_in_a_line(tiny_folder):
    damaged = sorted(tiny_folder.glob("*train.array_record*"))[2]
    held = records.Records("tiny", "train", tiny_folder, SHAPE)
    content = bytearray(damaged.read_bytes())
    content[content.find(held.take(np.array([250]))[0].tobytes()) + 20] ^= 1
    damaged.write_bytes(content)
    held = records.Records("tiny", "train", tiny_folder, SHAPE)
    held.take(np.arange(200))
    with pytest.raises(UserError, match="is damaged .*prepare it again") as error:
        held.take(np.arange(600))
    assert damaged.name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="is damaged"):
        memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    assert not list((tiny_folder / memory_maps.FOLDER).glob("train*"))


def test_what_lies_beside_a_damaged_record_is_read_on(tiny_folder):
    damaged = sorted(tiny_folder.glob("*train.array_record*"))[2]
    held = records.Records("tiny", "train", tiny_folder, SHAPE)
    expected, _ = held.take(np.arange(600))
    content = bytearray(damaged.read_bytes())
    content[content.find(expected[250].tobytes()) + 20] ^= 1
    damaged.write_bytes(content)
    held = records.Records("tiny", "train", tiny_folder, SHAPE)
    for _ in range(records.READERS + 1):  # However many readers have met it.
        with pytest.raises(UserError, match="is damaged"):
            held.take(np.array([249, 250, 251]))
    beside = np.array([200, 249, 251, 299])
    np.testing.assert_array_equal(held.take(beside)[0], expected[beside])


class FailingReader:
    """Fails once, at one of its methods, and for good from then on, as ArrayRecord's does."""

    failing: set[str] = set()

    def __init__(self, path, options, **fields):
        self._reader = array_record_module.ArrayRecordReader(path, options, **fields)
        self._is_well = True
        self._do("open")

    def _do(self, what):
        if what in self.failing:
            self.failing.remove(what)
            self._is_well = False
        if not self._is_well:
            raise RuntimeError("INTERNAL: Input/output error")

    def num_records(self):
        return self._reader.num_records()

    def seek(self, place):
        self._do("seek")
        self._reader.seek(place)

    def read(self):
        self._do("read")
        return self._reader.read()


@pytest.mark.parametrize("what", ["open", "seek", "read"])
def test_an_error_that_passes_is_no_damage(what, tiny_folder, monkeypatch):
    expected = records.Records("tiny", "train", tiny_folder, SHAPE).take(np.arange(5))[0]
    failing = types.SimpleNamespace(ArrayRecordReader=FailingReader)
    monkeypatch.setattr(records, "array_record_module", failing)
    monkeypatch.setattr(FailingReader, "failing", {what})
    held = records.Records("tiny", "train", tiny_folder, SHAPE)
    np.testing.assert_array_equal(held.take(np.arange(5))[0], expected)
    assert not FailingReader.failing


def test_a_shard_with_other_records_than_it_should_is_told(tiny_folder):
    first, second = sorted(tiny_folder.glob("*train.array_record*"))[:2]
    writer = array_record_module.ArrayRecordWriter(str(second), "group_size:1")
    writer.write(b"alone")
    writer.close()
    held = records.Records("tiny", "train", tiny_folder, SHAPE)
    with pytest.raises(UserError, match="1 records, 100 were written"):
        held.take(np.arange(600))
    first.unlink()
    with pytest.raises(UserError, match="is damaged"):
        held.take(np.arange(600))


def test_a_folder_of_another_writer_has_no_records_to_read(tiny_folder):
    (tiny_folder / "metadata.json").unlink()
    with pytest.raises(UserError, match="config.data.storage=memory or memmap"):
        records.Records("tiny", "train", tiny_folder, SHAPE)
    with pytest.raises(UserError, match="has no split 'valid'; it has: "):
        records.Records("tiny", "valid", tiny_folder, SHAPE)


def test_the_limit_of_open_files_is_raised_or_told(monkeypatch):
    asked = []
    monkeypatch.setattr(records.resource, "getrlimit", lambda kind: (1024, 4096))
    monkeypatch.setattr(records.resource, "setrlimit", lambda kind, limits: asked.append(limits))
    records._allow_open_files(700)
    assert not asked
    records._allow_open_files(2000)
    assert asked == [(2000 + records.OTHER_FILES, 4096)]
    with pytest.raises(UserError, match="ulimit -n 4096.*storage=memmap"):
        records._allow_open_files(4000)
