"""A preparation that was stopped: what it leaves, and what the next one does with that."""

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from score_jax import prepare
from score_jax.data import builders, npz, shards, sources, unfinished
from score_jax.data.raw_split import RawSplit
from score_jax.types import UserError

COUNT = 3000
PROGRAM = """
import os, signal, sys
from score_jax import prepare
from score_jax.data import lanes, shards, writing
shards.SMALL, shards.SHARD_BYTES = 0, (1 << 20, 1 << 20)
lanes.QUEUED_BYTES, writing.SLICE_BYTES = 1, 200_000  # The reader is not far ahead.
how, number, name, folder, *files = sys.argv[1:]
seen = 0
real = lanes.Lanes.add
def add(self, images, labels):
    global seen
    seen += len(labels)
    if how != "whole" and seen > int(number):
        os.kill(os.getpid(), getattr(signal, how))
    real(self, images, labels)
lanes.Lanes.add = add
print(prepare.prepare(name, files, folder, workers=2))
"""


def start(how, number, name, folder, *files):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how, str(number), name, str(folder), *map(str, files)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two npz parts, of 9 MB together."""
    folder = tmp_path_factory.mktemp("parts")
    generator = np.random.default_rng(0)
    for part in range(2):
        images = generator.integers(0, 256, (COUNT // 2, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{part}.npz", image=images, label=generator.integers(0, 10, COUNT // 2))
    return folder / "0.npz", folder / "1.npz"


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SMALL", 0)
    monkeypatch.setattr(shards, "SHARD_BYTES", (1 << 20, 1 << 20))


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pathlib.Path(folder).iterdir()
    }


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """sha256 of the files of a preparation that nobody stopped, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SMALL", 0)
        patch.setattr(shards, "SHARD_BYTES", (1 << 20, 1 << 20))
        return digests(prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(folder), workers=1))


def left(folder):
    return [path for path in folder.glob(".score_jax_preparing_*") if path.is_dir()]


def numbers(told):
    """How many shards were kept, where that was told."""
    return [int(line.split()[4]) for line in told.splitlines() if "are whole already" in line]


def killed(number, parts, folder):
    """What a preparation told that was killed at some image."""
    process = start("SIGKILL", number, "cifar10_ddpm", folder, *parts)
    _, told = process.communicate()
    assert process.returncode == -signal.SIGKILL, told
    assert sources.find("cifar10_ddpm", str(folder)) is None and len(left(folder)) == 1
    return told


def test_what_was_killed_goes_on_and_ends_the_same(parts, whole, tmp_path, capsys, small_shards):
    assert numbers(killed(1500, parts, tmp_path)) == []
    folder = prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    [kept] = numbers(capsys.readouterr().err)
    assert 1 <= kept <= 5  # It was killed at the first image of the sixth.
    assert digests(folder) == whole and len(whole) == 10 + 4
    assert left(tmp_path) == []
    found = sources.train_split("cifar10_ddpm", str(tmp_path))
    images = np.concatenate([np.load(part)["image"] for part in parts])
    np.testing.assert_array_equal(found.images, images)


@pytest.mark.slow
def test_three_kills_and_an_interruption_end_the_same(parts, whole, tmp_path):
    kept = []
    for number in (0, 1300, 2600):
        kept += numbers(killed(number, parts, tmp_path))
    interrupted = start("SIGINT", 2700, "cifar10_ddpm", tmp_path, *parts)
    kept += numbers(interrupted.communicate()[1])
    assert interrupted.returncode != 0
    ended = start("whole", 0, "cifar10_ddpm", tmp_path, *parts)
    folder, told = ended.communicate()
    assert ended.returncode == 0, told
    kept += numbers(told)
    assert len(kept) == 3 and 1 <= kept[0] <= 3 and kept[0] < kept[1] <= kept[2] <= 8
    assert digests(folder.strip()) == whole and left(tmp_path) == []


def test_what_was_interrupted_says_what_is_kept(parts, tmp_path):
    stopped = start("SIGTERM", 2000, "cifar10_ddpm", tmp_path, *parts)
    _, told = stopped.communicate()
    assert "KeyboardInterrupt" in told and stopped.returncode != 0
    [folder] = left(tmp_path)
    assert f"shards are kept in {folder}; the same command goes on" in told
    log = unfinished.ShardLog(folder / builders.relative_path("cifar10_ddpm"))
    assert {path.name for path in log.folder.iterdir()} == {unfinished.LOG, *log.whole}
    assert len(log.whole) >= 1


class Stop(KeyboardInterrupt):
    """Ctrl-C, at a known place."""


def stopped(name, files, folder, at, monkeypatch, workers=1):
    """Prepares up to an image, in this process, as if Ctrl-C came there."""
    seen = 0
    real = builders.write

    def write(*args, **options):
        splits = {
            split: RawSplit(raw.count, limited(raw), raw.independent)
            for split, raw in options.pop("splits").items()
        }
        return real(*args, splits=splits, **options)

    def limited(raw):
        def blocks(start):
            nonlocal seen
            for images, labels in raw.blocks(start):
                if seen + len(labels) > at:
                    yield images[: at - seen], labels[: at - seen]
                    raise Stop
                seen += len(labels)
                yield images, labels

        return blocks

    with monkeypatch.context() as patch:
        patch.setattr(prepare.builders, "write", write)
        with pytest.raises(Stop):
            prepare.prepare(name, [*map(str, files)], str(folder), workers=workers)


def test_other_sources_start_anew(parts, whole, tmp_path, monkeypatch, capsys, small_shards):
    stopped("cifar10_ddpm", parts, tmp_path, 1500, monkeypatch)
    [before] = left(tmp_path)
    stopped("cifar10_ddpm", parts[::-1], tmp_path, 1500, monkeypatch)
    assert f"removing {before.name}" in capsys.readouterr().err
    [after] = left(tmp_path)
    assert after != before
    prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    told = capsys.readouterr().err
    assert f"removing {after.name}" in told and "are whole already" not in told
    assert digests(tmp_path / builders.relative_path("cifar10_ddpm")) == whole


def test_a_source_that_was_changed_starts_anew(parts, tmp_path, monkeypatch, capsys, small_shards):
    copies = [shutil.copy(part, tmp_path) for part in parts]
    stopped("cifar10_ddpm", copies, tmp_path / "data", 2000, monkeypatch)
    status = os.stat(copies[0])
    os.utime(copies[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    stopped("cifar10_ddpm", copies, tmp_path / "data", 2000, monkeypatch)
    told = capsys.readouterr().err
    assert "left by a preparation of other files" in told and "are whole already" not in told


def test_a_change_that_does_not_show_is_noticed(parts, tmp_path, monkeypatch, small_shards):
    copies = [shutil.copy(part, tmp_path) for part in parts]
    stopped("cifar10_ddpm", copies, tmp_path / "data", 2000, monkeypatch)
    status = os.stat(copies[0])
    with np.load(copies[0]) as archive:
        images, labels = archive["image"], archive["label"]
    images[5] ^= 1
    np.savez(copies[0], image=images, label=labels)
    os.utime(copies[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match="holds other images than the source now does"):
        prepare.prepare("cifar10_ddpm", copies, str(tmp_path / "data"), workers=1)
    assert left(tmp_path / "data") == []


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "log"])
def test_shards_that_were_damaged_since_are_written_again(
    damage, parts, whole, tmp_path, monkeypatch, capsys, small_shards
):
    stopped("cifar10_ddpm", parts, tmp_path, 2500, monkeypatch)
    folder = left(tmp_path)[0] / builders.relative_path("cifar10_ddpm")
    path = next(folder.glob("*-00003-of-*"))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        log = folder / unfinished.LOG
        log.write_text(log.read_text()[:-20])
    (folder / f"x{unfinished.TEMPORARY}1").write_text("half a shard")
    prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    assert "the rest: 7 of 10 shards are whole already" in capsys.readouterr().err
    assert digests(tmp_path / builders.relative_path("cifar10_ddpm")) == whole


def test_a_full_disk_keeps_what_is_whole(parts, tmp_path, monkeypatch, capsys, small_shards):
    path = unfinished.ShardLog.temporary

    def temporary(log, file):
        if "-00004-" in file:
            (log.folder / "full").symlink_to("/dev/full")
            return log.folder / "full"
        return path(log, file)

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.ShardLog, "temporary", temporary)
        with pytest.raises(UserError) as caught:
            prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    message = str(caught.value)
    assert "(No space left on device); make room and run it again" in message
    assert "\n" not in message
    assert "4 shards are kept in" in capsys.readouterr().err
    prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    assert "the rest: 4 of 10 shards" in capsys.readouterr().err


def test_a_source_that_cannot_be_read_for_now_keeps_what_is_whole(
    parts, tmp_path, monkeypatch, capsys, small_shards
):
    def unread(path, *arguments):
        if path == parts[1]:
            raise OSError(5, "Input/output error")
        return real(path, *arguments)

    real = npz.open_array
    with monkeypatch.context() as patch:
        patch.setattr(npz, "open_array", unread)
        with pytest.raises(UserError, match="Input/output error"):
            prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    assert "5 shards are kept in" in capsys.readouterr().err


def test_without_locks_nothing_is_shared(parts, whole, tmp_path, monkeypatch, small_shards):
    def no_locks(file, kind):
        raise OSError(prepare.errno.ENOTSUP, "no locks")

    monkeypatch.setattr(prepare.fcntl, "flock", no_locks)
    stopped("cifar10_ddpm", parts, tmp_path, 1500, monkeypatch)
    assert left(tmp_path) == []
    prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    assert digests(tmp_path / builders.relative_path("cifar10_ddpm")) == whole


def test_two_at_once_prepare_it_once(parts, tmp_path):
    processes = [start("whole", 0, "cifar10_ddpm", tmp_path, *parts) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] != ""
    errors = outputs[0][1] + outputs[1][1]
    assert errors.count("already prepared") == 1 and errors.count(": prepared in") == 1


def test_what_else_lies_there_is_left_alone(parts, tmp_path, monkeypatch, small_shards):
    mine = tmp_path / ".score_jax_preparing_cifar10_ddpm-by-hand"
    mine.write_text("a file of the user")
    others = tmp_path / ".score_jax_preparing_cifar10_edm-0123456789abcdef"
    others.mkdir()
    prepare.prepare("cifar10_ddpm", [*map(str, parts)], str(tmp_path), workers=1)
    assert mine.read_text() == "a file of the user" and others.is_dir()
