"""Mapped files: made once, never half, and again for another dataset."""

import errno
import json
import os
import platform
import shutil
import subprocess
import threading

import numpy as np
import pytest

from score_jax.data import memory_maps
from score_jax.types import UserError
from tests import tiny_sets
from tests.tiny_sets import SHAPE


def maps(folder):
    return sorted(path.name for path in (folder / memory_maps.FOLDER).glob("train*"))


def test_mapped_files_are_made_once_and_again_for_another_dataset(tiny_folder, monkeypatch):
    images, labels, fingerprint = memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    assert maps(tiny_folder) == ["train.images.npy", "train.json", "train.labels.npy"]
    assert (
        fingerprint
        == json.loads((tiny_folder / "metadata.json").read_text())["fingerprints"]["train"]
    )
    with monkeypatch.context() as patch:
        patch.setattr(memory_maps, "_make", None)
        again, *_ = memory_maps.open_split(tiny_folder, "train", SHAPE, None)
        np.testing.assert_array_equal(again, images)

    for path in tiny_folder.iterdir():
        if path.is_file():
            path.unlink()
    other = tiny_sets.write(tiny_folder.parents[1] / "other", "tiny", 600, 3)
    for path in (tiny_folder.parents[1] / "other/score_jax_tiny/1.0.0").iterdir():
        shutil.copy(path, tiny_folder)
    for one, two in zip(
        memory_maps.open_split(tiny_folder, "train", SHAPE, None), other, strict=False
    ):
        np.testing.assert_array_equal(one, two)
    # What was mapped before is still there for those who have it.
    assert not np.array_equal(images, other[0])


def test_mapped_files_cut_short_are_made_again(tiny_folder):
    images, _, _ = memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    expected = images.copy()
    place = tiny_folder / memory_maps.FOLDER
    os.truncate(place / "train.labels.npy", 500)
    found, labels, _ = memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    np.testing.assert_array_equal(found, expected)
    assert len(labels) == 600
    # As a process leaves them that was killed between the files.
    (place / "train.json").unlink()
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, check=True)
    writer = f"{platform.node()}.{int(ended.stdout)}.1"
    (place / f"train.images.npy.{writer}.tmp").write_bytes(b"half")
    found, _, _ = memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    np.testing.assert_array_equal(found, expected)
    assert len(maps(tiny_folder)) == 3


@pytest.mark.parametrize("kind", ["images.npy", "labels.npy", "json"])
def test_empty_files_are_made_again(kind, tiny_folder):
    expected = memory_maps.open_split(tiny_folder, "train", SHAPE, None)[0].copy()
    (tiny_folder / memory_maps.FOLDER / f"train.{kind}").write_bytes(b"")
    np.testing.assert_array_equal(
        memory_maps.open_split(tiny_folder, "train", SHAPE, None)[0], expected
    )


def test_writers_without_locks_do_not_touch_what_the_other_writes(tiny_folder, monkeypatch):
    """The first ends while the second is half through."""
    expected = memory_maps.open_split(tiny_folder, "train", SHAPE, None)[0].copy()
    shutil.rmtree(tiny_folder / memory_maps.FOLDER)

    def unknown(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    write, found = memory_maps._write, {}
    inside, ended = (threading.Event(), threading.Event()), threading.Event()

    def in_turn(paths, count, shape, blocks):
        number = int(threading.current_thread().name)

        def when_due():
            inside[number].set()
            assert (ended if number else inside[1]).wait(20)
            yield from blocks

        return write(paths, count, shape, when_due())

    def run(number):
        try:
            found[number] = memory_maps.open_split(tiny_folder, "train", SHAPE, None)[0].copy()
        finally:
            if number == 0:
                ended.set()

    monkeypatch.setattr(memory_maps.locks.fcntl, "flock", unknown)
    monkeypatch.setattr(memory_maps, "_write", in_turn)
    threads = [threading.Thread(target=run, args=(i,), name=str(i)) for i in (0, 1)]
    threads[0].start()
    assert inside[0].wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        np.testing.assert_array_equal(found[number], expected)
    assert maps(tiny_folder) == ["train.images.npy", "train.json", "train.labels.npy"]


def test_files_that_another_process_removes_at_once_are_told(tiny_folder, monkeypatch):
    monkeypatch.setattr(memory_maps, "_find", lambda *arguments: None)
    with pytest.raises(UserError, match="changed by another process .*storage=records"):
        memory_maps.open_split(tiny_folder, "train", SHAPE, None)


def test_processes_that_come_at_once_decode_once(tiny_folder, monkeypatch):
    made, original, found = [], memory_maps._make, []

    def counting(*arguments):
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(memory_maps, "_make", counting)
    threads = [
        threading.Thread(
            target=lambda: found.append(memory_maps.open_split(tiny_folder, "train", SHAPE, None))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(found) == 4
    assert all(np.array_equal(found[0][0], images) for images, _, _ in found)


def test_no_room_for_mapped_files_is_told_and_nothing_left(tiny_folder, monkeypatch):
    full = shutil.disk_usage(tiny_folder)._replace(free=100)
    monkeypatch.setattr(memory_maps.shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match="free some space, or set config.data.storage=records"):
        memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    assert not maps(tiny_folder)


def test_mapped_files_of_a_folder_that_cannot_be_written_are_used(tiny_folder, monkeypatch):
    def refuse(*arguments, **fields):
        raise PermissionError(13, "Permission denied")

    expected = memory_maps.open_split(tiny_folder, "train", SHAPE, None)[0].copy()
    monkeypatch.setattr(memory_maps.locks, "held", refuse)
    np.testing.assert_array_equal(
        memory_maps.open_split(tiny_folder, "train", SHAPE, None)[0], expected
    )
    shutil.rmtree(tiny_folder / memory_maps.FOLDER)
    with pytest.raises(UserError, match="make it writable, or set config.data.storage=records"):
        memory_maps.open_split(tiny_folder, "train", SHAPE, None)


def test_other_content_than_was_written_is_not_mapped(tiny_folder):
    path = tiny_folder / "metadata.json"
    facts = json.loads(path.read_text())
    written = facts["fingerprints"]["train"]
    facts["fingerprints"]["train"] = "0" * 64
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=f"has content {written[:12]} where 000000000000 was"):
        memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    assert not maps(tiny_folder)


def test_decoded_files_are_checked(tiny_folder):
    assert memory_maps.check(tiny_folder) == []
    memory_maps.open_split(tiny_folder, "train", SHAPE, None)
    assert memory_maps.check(tiny_folder) == []
    place = tiny_folder / memory_maps.FOLDER
    for kind in ("images", "labels"):
        path = place / f"train.{kind}.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (told,) = memory_maps.check(tiny_folder)
        assert told.startswith("decoded/train: its content is ")
        path.write_bytes(whole[:-1])
        assert memory_maps.check(tiny_folder) == [
            "decoded/train: its files are cut short or missing"
        ]
        path.write_bytes(whole)
    metadata = tiny_folder / "metadata.json"
    metadata.write_text(metadata.read_text() + "\n")  # Of another dataset.
    (place / "train.labels.npy").unlink()
    assert memory_maps.check(tiny_folder) == []
