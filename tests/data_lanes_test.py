"""Processes that write shards: the same files as one process writes, and none that lingers."""

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from score_jax.data import lanes, shards
from score_jax.data.record_layout import DamagedShard
from tests.data_shards_test import SHAPE, random_images


def write(folder, images, labels, workers, per_shard=500, paths=None):
    """All shards; their facts by path."""
    found = {}
    with lanes.Lanes(workers, found.__setitem__) as several:
        for index, start in enumerate(range(0, len(labels), per_shard)):
            path = paths[index] if paths else folder / str(index)
            several.open(path=path, file=f"shard{index}", image_shape=SHAPE, num_classes=10)
            for at in range(start, start + per_shard, 200):
                stop = min(at + 200, start + per_shard)
                several.add(images[at:stop], labels[at:stop])
            several.close()
    return found


@pytest.fixture(scope="module")
def images():
    return random_images(np.arange(3000) % 10)


def test_several_processes_write_what_one_does(images, tmp_path, monkeypatch):
    used = set()
    send = lanes.ProcessLane._send_open
    monkeypatch.setattr(
        lanes.ProcessLane, "_send_open", lambda lane, shard: (used.add(lane), send(lane, shard))
    )
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    one = write(tmp_path / "one", *images, workers=1)
    two = write(tmp_path / "two", *images, workers=2)
    assert sorted(one.values(), key=str) == sorted(two.values(), key=str) and len(one) == 6
    for index in range(6):
        content = (tmp_path / "one" / str(index)).read_bytes()
        assert (tmp_path / "two" / str(index)).read_bytes() == content
    assert len(used) == 2  # Each shard goes to the lane with the least to do.


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_out_where_the_shards_are_given(workers, images, tmp_path):
    paths = [tmp_path / str(index) for index in range(6)]
    paths[1].symlink_to("/dev/full")  # Only the link is removed after.
    with pytest.raises(OSError) as caught:
        write(tmp_path, *images, workers=workers, paths=paths)
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, "No space left on device")
    assert not paths[1].is_symlink()


def test_a_process_that_is_killed_is_told(images, tmp_path):
    with pytest.raises(OSError, match="ended with exit status -9"):
        with lanes.Lanes(2, lambda path, facts: None) as several:
            for lane in several._lanes:
                os.kill(lane._process.pid, signal.SIGKILL)
            several.open(path=tmp_path / "0", file="0", image_shape=SHAPE, num_classes=10)
            several.add(*images)
            several.close()


def test_giving_up_ends_the_processes_even_with_full_queues(images, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "QUEUED_BYTES", 1)
    several = lanes.Lanes(2, lambda path, facts: None)
    with pytest.raises(KeyboardInterrupt), several:
        several.open(path=tmp_path / "0", file="0", image_shape=SHAPE, num_classes=10)
        for lane in several._lanes:
            os.kill(lane._process.pid, signal.SIGSTOP)
        stop = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
        stop.start()
        while True:  # The queue fills, and the reader waits.
            several.add(*images)
    assert all(lane._process.returncode == -signal.SIGKILL for lane in several._lanes)
    assert not any(lane._thread.is_alive() for lane in several._lanes)


READER = """
import sys
import numpy as np
from pathlib import Path
from score_jax.data import lanes
with lanes.Lanes(2, lambda path, facts: None) as several:
    for index in range(2):
        several.open(path=Path(sys.argv[1], str(index)), file="0", image_shape=(4, 6, 3),
            num_classes=10)
        several.add(np.zeros((1000, 4, 6, 3), np.uint8), np.zeros(1000, np.int32))
    print(*(lane._process.pid for lane in several._lanes), flush=True)
    sys.stdin.read()
"""


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_no_process_outlives_a_reader_that_is_killed(tmp_path):
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = reader.stdout.readline().split()
    assert len(pids) == 2 and not any(map(gone, pids))
    reader.kill()
    reader.communicate()
    end = time.monotonic() + 20
    while not all(map(gone, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert all(map(gone, pids))
    assert list(tmp_path.iterdir()) == []  # What they had begun.


def serve(*parts):
    out = io.BytesIO()
    lanes.serve(io.BytesIO(b"".join(parts)), out)
    return json.loads(out.getvalue() or "null")


def test_a_process_tells_of_damage(images, tmp_path, monkeypatch):
    def close(shard):
        raise DamagedShard("so it is")

    monkeypatch.setattr(shards.Shard, "close", close)
    opened = dict(path=str(tmp_path / "0"), file="0", image_shape=SHAPE, num_classes=10, known=None)
    message = json.dumps({"open": opened}).encode() + b"\n"
    assert serve(message, b'{"close": true}\n') == {"error": "so it is", "errno": 0}
    assert not (tmp_path / "0").exists()


def test_a_shard_that_is_whole_is_never_removed(images, tmp_path):
    facts = write(tmp_path, *images, workers=1)[tmp_path / "0"]
    known = dataclasses.asdict(facts)
    opened = dict(path=str(tmp_path / "0"), file="0", image_shape=SHAPE, num_classes=10)
    message = json.dumps({"open": {**opened, "known": known}}).encode() + b"\n"
    assert "holds other images" in serve(message, b'{"close": true}\n')["error"]
    assert serve(message) is None  # The reader was killed.
    assert (tmp_path / "0").stat().st_size == facts.size


def test_the_processes_need_neither_jax_nor_tfds():
    program = "import sys, score_jax.data.lanes; print({'jax', 'google.protobuf'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
