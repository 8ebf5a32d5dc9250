"""One run in a folder at a time."""

import fcntl
import json
import platform
import subprocess
import sys
import threading
import time

import pytest

from score_jax import cli, workdir_lock
from score_jax.command_line import Job
from score_jax.types import UserError

HOLD = """
import pathlib, sys
from score_jax import workdir_lock
workdir_lock.TOUCH_SECONDS = 0.1
with workdir_lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(workdir_lock, "TOUCH_SECONDS", 0.1)
    monkeypatch.setattr(workdir_lock, "HERE_SECONDS", 0.2)
    monkeypatch.setattr(workdir_lock, "THERE_SECONDS", 0.8)
    monkeypatch.setattr(workdir_lock, "SILENT_SECONDS", 0.8)
    monkeypatch.setattr(workdir_lock, "POLL_SECONDS", 0.02)


def test_another_process_is_refused_until_this_one_is_killed(quick, tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(
            UserError, match=f"process {other.pid} on .* is at the run in .*stop it"
        ):
            with workdir_lock.held(tmp_path):
                pass
        other.kill()
    with workdir_lock.held(tmp_path), workdir_lock.held(tmp_path):
        pass


def locked_by(host, folder):
    """Its lock, which nobody touches."""
    file = (folder / workdir_lock.NAME).open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(json.dumps(dict(pid=7, host=host)))
    file.flush()
    return file


@pytest.fixture
def far(tmp_path):
    """A lock that a process of another host holds."""
    with locked_by("far", tmp_path) as file:
        yield file


@pytest.fixture
def alive(tmp_path):
    """What keeps touching the lock of the folder, as its holder does."""
    is_over = threading.Event()
    path = tmp_path / workdir_lock.NAME
    thread = threading.Thread(target=workdir_lock._touch, args=(path, is_over))
    yield thread
    is_over.set()
    thread.join()


def test_one_of_another_host_that_lives_is_left_alone(quick, far, alive, tmp_path):
    """However little it writes."""
    alive.start()
    with pytest.raises(UserError, match="process 7 on far is at the run in .*, and goes on; wait"):
        with workdir_lock.held(tmp_path):
            pass


def test_a_lock_that_a_crashed_host_left_stops_no_run(quick, far, tmp_path, caplog):
    with workdir_lock.held(tmp_path):
        # The one that went on without the lock is safe from the next.
        seen = (tmp_path / workdir_lock.NAME).stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / workdir_lock.NAME).stat().st_mtime_ns > seen
    assert "process 7 on far holds the lock" in caplog.text
    assert "gives no sign of life; going on" in caplog.text


@pytest.mark.parametrize("flags", [cli.CLUSTER, ()])
def test_one_of_this_host_that_neither_lives_nor_ends_asks_for_a_restart(
    quick, tmp_path, capsys, monkeypatch, flags
):
    def hold(call):
        with workdir_lock.held(tmp_path):
            pass

    monkeypatch.setitem(cli.JOBS, "hold", Job("Holds.", "", flags, hold))
    with locked_by(platform.node(), tmp_path):
        assert cli.main(["hold"]) == 75
    told = capsys.readouterr().err
    assert "gives no sign of life; waiting for its end, at most" in told
    assert "score-jax hold: process 7 on" in told and "still holds the lock of" in told
    assert "Traceback" not in told


def test_one_of_this_host_that_is_long_at_its_end_is_waited_for(quick, tmp_path):
    file = locked_by(platform.node(), tmp_path)
    threading.Timer(0.6, file.close).start()  # Three times as long as a live one has.
    with workdir_lock.held(tmp_path):
        pass
    assert json.loads((tmp_path / workdir_lock.NAME).read_text())["pid"] != 7


def test_one_that_is_at_its_end_is_waited_for(far, tmp_path):
    threading.Timer(0.3, far.close).start()
    begin = time.monotonic()
    with workdir_lock.held(tmp_path):
        assert 0.2 < time.monotonic() - begin < 5
    assert json.loads((tmp_path / workdir_lock.NAME).read_text())["host"] != "far"


def test_where_there_are_no_locks_nothing_is_held(monkeypatch, tmp_path):
    def refuse(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with workdir_lock.held(tmp_path), workdir_lock.held(tmp_path / "not there"):
        pass
