"""Wherever images lie, a batch has the same bytes."""

import gc
import json
import tracemalloc
import weakref

import jax
import numpy as np
import pytest

from score_jax import config as config_module
from score_jax import control_groups, mesh
from score_jax.data import memory_maps, pipeline, records, resident, sources
from score_jax.types import UserError
from tests import tiny_sets

STORAGES = ("memory", "memmap", "records", "device")


@pytest.fixture
def config(tiny_data, monkeypatch):
    tiny_sets.add_sets(monkeypatch)
    config = config_module.default()
    config.data.update(
        name="tiny", generated="tiny_generated", dir=str(tiny_data), batch_size=64, prefetch=3,
        validation_size=100, label_noise=0.3,
    )  # fmt: skip
    return config


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


def validation_images(config):
    return pipeline.validation_images(config, pipeline.open_training_data(config))


def delivered(config, steps, **processes):
    """The batches of some steps from where `config.data.storage` has them, as NumPy arrays."""
    batches = [next(iter(pipeline.train_batches(config, step, 1, **processes))) for step in steps]
    if config.data.storage == "device":
        layout = mesh.create(jax.devices()[:2])
        held = pipeline.place_resident(pipeline.open_training_data(config), layout)
        batches = [jax.device_get(held.batch(layout.put_batch(batch))) for batch in batches]
    return batches


@pytest.mark.parametrize("mixing", ["batch", "pool"])
def test_every_storage_gives_the_same_bytes(mixing, config, tiny_data):
    config.data.mixing = mixing
    steps = (0, 5, 23, 1000)
    config.data.storage = "memory"
    expected = delivered(config, steps)
    images, labels = validation_images(config)
    assert len(list((tiny_data / "score_jax_tiny/1.0.0").glob("*train.array_record*"))) == 6
    for storage in STORAGES[1:]:
        config.data.storage = storage
        for one, other in zip(delivered(config, steps), expected, strict=True):
            assert_same(one, other)
        for one, other in zip(validation_images(config), (images, labels), strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize("storage", STORAGES)
def test_processes_share_a_batch_in_every_storage(storage, config):
    config.data.storage = storage
    whole = pipeline.batch_at(config, 3)
    for count in (2, 4):
        parts = [
            delivered(config, [3], process_index=index, process_count=count)[0]
            for index in range(count)
        ]
        assert_same({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


def test_a_process_reads_its_own_part_alone(config, monkeypatch):
    config.data.storage = "records"
    read, original = [], records.Records._read

    def counting(self, shard, places):
        read.extend(places)
        return original(self, shard, places)

    monkeypatch.setattr(records.Records, "_read", counting)
    list(pipeline.train_batches(config, 0, 1, process_index=1, process_count=4))
    assert len(read) == 16


@pytest.mark.parametrize(
    "free, is_ours, kind",
    [(10**12, True, np.ndarray), (100_000, True, type(None)), (100_000, False, np.ndarray)],
)
def test_auto_keeps_in_memory_what_fits(free, is_ours, kind, tiny_folder, monkeypatch):
    monkeypatch.setattr(control_groups, "free_memory", lambda: free)
    if not is_ours:
        (tiny_folder / "metadata.json").unlink()
    found = sources.train_source("tiny", str(tiny_folder.parents[1]), "auto")
    assert isinstance(getattr(found, "images", None), kind)
    assert found.storage == ("memory" if free > 10**6 else "records" if is_ours else "memmap")
    made = list((tiny_folder / memory_maps.FOLDER).glob("train*"))
    assert bool(made) == (not is_ours)
    assert not hasattr(found, "images") or not found.images.flags.writeable


@pytest.mark.parametrize(
    "room, expected", [((0, 3 * 2**30), 2**30), ((0, 10**6), 10**6), (None, 2**30)]
)
def test_the_free_memory_is_the_least_that_is_told(room, expected, monkeypatch):
    monkeypatch.setattr(control_groups, "memory_room", lambda read: room)
    text = "MemTotal: 99999999 kB\nMemAvailable:    1048576 kB\n"
    assert control_groups.free_memory(lambda path: text) == expected
    assert control_groups.free_memory(lambda path: "") == (room[1] if room else None)


@pytest.mark.parametrize("version", [1, 2])
def test_files_kept_in_memory_are_not_taken_memory(version):
    gib, old = 2**30, version == 1
    group = "/sys/fs/cgroup" + ("/memory/memory." if old else "/job/memory.")
    names = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
    files = {
        "/proc/self/cgroup": "5:memory:/job\n4:cpu:/\n" if old else "0::/job\n",
        **{group + name: f"{value * gib}\n" for name, value in zip(names, (16, 15), strict=True)},
    }
    assert control_groups.memory_room(lambda path: files.get(path, "")) == (16 * gib, gib)
    files[group + "stat"] = (
        f"anon {2 * gib}\ninactive_file {12 * gib if not old else 5}\n"
        f"active_file {gib}\ntotal_inactive_file {12 * gib}\n"
    )
    assert control_groups.memory_room(lambda path: files.get(path, "")) == (16 * gib, 13 * gib)


def test_devices_gather_a_batch_without_each_other(config):
    config.data.storage = "device"
    layout = mesh.create()
    held = pipeline.place_resident(pipeline.open_training_data(config), layout)
    placed = layout.put_batch(next(iter(pipeline.train_batches(config, 0, 1))))
    text = held._gather.lower(held._images, held._labels, placed["rows"]).compile().as_text()
    assert "gather" in text
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f"{collective}(" not in text
    batch = held.batch(placed)
    assert {value.sharding for value in batch.values()} == {layout.batch}


def test_the_host_lets_go_of_what_is_on_the_devices(config):
    config.data.storage = "device"
    data = pipeline.open_training_data(config)
    held = [weakref.ref(source) for source in (data.sources[0].source, data.sources[1])]
    expected = data.rows_at(7)
    data = data.without_images()
    sources.release()
    gc.collect()
    assert [source() for source in held] == [None, None]
    assert_same(data.rows_at(7), expected)


def test_placing_takes_one_copy_more(config):
    images = np.zeros((20_000, 16, 16, 1), np.uint8)
    source = sources.Images(
        images=images, labels=np.zeros(20_000, np.int32), fingerprint="", name="zeros",
        split="train", path="",
    )  # fmt: skip
    layout = mesh.create(jax.devices()[:1])
    tracemalloc.start()
    resident.Resident([source], layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.nbytes < peak < 1.6 * images.nbytes


def test_a_set_that_is_too_large_for_the_devices_is_refused(config, monkeypatch):
    config.data.storage = "device"
    monkeypatch.setattr(resident, "LIMIT", 1600 * 48)
    with pytest.raises(UserError, match="data.storage=device is for sets below.*storage=auto"):
        pipeline.open_training_data(config)


@pytest.mark.slow
def test_the_benchmark_measures_every_storage_and_pytorch(tmp_path, capfd):
    pytest.importorskip("torch")
    from benchmarks import input_pipeline

    out = tmp_path / "found.json"
    input_pipeline.main(["--seconds=0.2", "--turns=1", "--generated=2000", f"--out={out}"])
    found = json.loads(out.read_text())
    assert set(found) == {*input_pipeline.OURS, input_pipeline.PYTORCH}
    assert all(value > 0 for row in found.values() for value in row.values())
    assert found[input_pipeline.PYTORCH]["times_pytorch"] == 1
    assert "images/s" in capfd.readouterr().out
