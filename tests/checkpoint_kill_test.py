"""Runs that end at any moment, in several processes, or on a disk that fills up while they save."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec

from score_jax import checkpoint, config, workdir
from score_jax.types import UserError
from tests.checkpoint_damage_test import flip, largest
from tests.checkpoint_states import abstract, assert_is, folders, layout, state_at

ROOT = Path(__file__).resolve().parents[1]
ROWS = 20_000  # A save of 4 MB takes long enough to be met.
# Goes on from the newest checkpoint; every other step is a best one. What is printed is saved.
LOOP = f"""
import sys
from score_jax import checkpoint, workdir
from tests.checkpoint_states import abstract, state_at
saved = checkpoint.Checkpoints(workdir.find_workdir(sys.argv[1]), {{}}, keep=2)
restored = saved.restore(abstract(rows={ROWS}))
step = int(restored.state.step) if restored else 0
best = restored.best if restored else checkpoint.Best()
while True:
    step += 1
    state = state_at(step, rows={ROWS})
    if step % 2 == 0:
        saved.save_best(state, {{}})
        best = checkpoint.Best(step / 1e6, step)
    saved.save(state, best, is_validated=True)
    print(step - 1, flush=True)
"""


@pytest.fixture
def run(tmp_path):
    return workdir.open_workdir(tmp_path / "run", config.default(), ["test"])


def restore(run, target):
    checkpoints = checkpoint.Checkpoints(run, {}, keep=2)
    try:
        return checkpoints.restore(target)
    finally:
        checkpoints.close()


def start(*command):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_at_any_moment_the_last_checkpoint_is_whole(run):
    moments = random.Random(0)
    reached = 0
    for _ in range(10):
        process = start("-c", LOOP, run.path)
        try:
            while int(process.stdout.readline()) <= reached:  # A save or more of its own.
                pass
            time.sleep(moments.uniform(0, 0.4))
        finally:
            process.kill()
        told = process.communicate()[0].split()
        restored = restore(run, abstract(rows=ROWS))
        step = int(restored.state.step)
        assert step >= max(map(int, told), default=reached + 1)
        assert_is(restored.state, step, rows=ROWS)
        # Where the next best was there already, and not the checkpoint that names it: anew.
        assert restored.best.step in (step // 2 * 2, -1)
        assert folders(run.best) == [best for best in (restored.best.step,) if best > 0]
        assert not (run.checkpoints / "damaged").exists()
        reached = step


def processes(folder, *commands, count=2, devices=2):
    """(exit code, what it told, its errors) of each process of a run that does the commands."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    module = ("-m", "tests.checkpoint_worker", folder)
    running = [start(*module, i, count, port, devices, *commands) for i in range(count)]
    try:
        ended = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    return [
        (process.returncode, [json.loads(line) for line in told.splitlines()], errors)
        for process, (told, errors) in zip(running, ended, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_save_restore_and_agree(run):
    commands = "save:1", "best:2", "save:2", "restore:2", "save:3", "restore:3"
    for process, (code, told, errors) in enumerate(processes(run.path, *commands)):
        assert code == 0, errors
        assert told == [{"process": process, "best": 2, "step": step} for step in (2, 3)]
    # In one process, on any number of devices; and back.
    for devices in (1, 2, 4):
        target = abstract(layout(devices, PartitionSpec("fsdp")))
        restored = restore(run, target)
        assert_is(restored.state, 3)
        assert restored.best.step == 2
    exported = checkpoint.load_for_export(run, "best", "live")
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a == b).all(), exported["params"], state_at(2).params)
    )
    saved = checkpoint.Checkpoints(run, {}, keep=3)
    saved.save(state_at(4, layout(4, PartitionSpec("fsdp"))), restored.best, is_validated=True)
    saved.save(state_at(5), restored.best, is_validated=True)
    saved.close()
    # Process 0 finds the newest one damaged; both use the one before, on eight devices.
    flip(largest(run.checkpoints / "5"))
    (run.checkpoints / "6.orbax-checkpoint-tmp").mkdir()
    for process, (code, told, errors) in enumerate(processes(run.path, "restore:4", devices=4)):
        assert code == 0, errors
        assert told == [{"process": process, "best": 2, "step": 4}]
        assert ("5 is damaged" in errors) == (process == 0)
    assert folders(run.checkpoints) == [3, 4] and folders(run.checkpoints / "damaged") == [5]
    assert not list(run.checkpoints.glob("*tmp*"))
    # Nothing whole: both end with the same line.
    for step in "34":
        flip(largest(run.checkpoints / step))
    for code, _, errors in processes(run.path, "restore:4"):
        assert code == 2 and "no checkpoint in" in errors and "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("refused", [0, 1])
def test_a_save_that_fails_in_one_process_ends_both_at_once(run, refused):
    begin = time.monotonic()
    commands = "save:1", "poll:1", f"limit:{refused}", "save:2", "poll:100"
    for code, _, errors in processes(run.path, *commands):
        assert code == 2 and "2 could not be written (File too large)" in errors, errors
        assert "Traceback" not in errors
    assert time.monotonic() - begin < 60
    assert_is(restore(run, abstract()).state, 1)
    assert [path.name for path in run.checkpoints.iterdir()] == ["1"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only who may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def begin_to_save(disk):
    """Checkpoint 1 on the disk, and what is to save the next."""
    run = workdir.open_workdir(disk / "run", config.default(), ["test"])
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    saved.save(state_at(1, rows=ROWS), checkpoint.Best(), is_validated=True)
    saved.wait()
    return run, saved


def threads_at_work():
    """Those that would keep the process from ending, after a moment; not those of idle pools."""
    deadline = time.monotonic() + 10
    while True:
        names = [thread.name for thread in threading.enumerate() if not thread.daemon]
        idle = "MainThread", "ThreadPool", "metadata_store"
        names = [name for name in names if not name.startswith(idle)]
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 4096, 100_000, 1_000_000, 3_000_000])
def test_disk_that_fills_up_during_a_save(small_disk, left, monkeypatch):
    run, saved = begin_to_save(small_disk)
    check_room = saved._last._check_room

    def then_fill(state):
        check_room(state)
        room = shutil.disk_usage(small_disk).free
        (small_disk / "other").write_bytes(bytes(room - left))

    monkeypatch.setattr(saved._last, "_check_room", then_fill)
    saved.save(state_at(2, rows=ROWS), checkpoint.Best(), is_validated=True)
    with pytest.raises(UserError, match=r"\(No space left on device\); .* make room"):
        saved.wait()
    saved.close()
    assert not threads_at_work()
    assert [path.name for path in run.checkpoints.iterdir()] == ["1"]
    (small_disk / "other").unlink()
    assert_is(restore(run, abstract(rows=ROWS)).state, 1, rows=ROWS)


@pytest.mark.slow
def test_disk_that_becomes_read_only(small_disk):
    run, saved = begin_to_save(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"\(Read-only file system\); .* folder writable"):
        saved.save(state_at(2, rows=ROWS), checkpoint.Best(), is_validated=True)
        saved.wait()
    saved.close()
    assert not threads_at_work()
    assert_is(restore(run, abstract(rows=ROWS)).state, 1, rows=ROWS)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    flip(largest(run.checkpoints / "1"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match="damaged: Read-only file system"):
        restore(run, abstract(rows=ROWS))
