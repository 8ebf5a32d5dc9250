"""One run in a folder at a time."""

import fcntl
import json
import subprocess
import sys
import threading
import time

import pytest

from score_jax import workdir_lock
from score_jax.types import UserError

HOLD = """
import pathlib, sys
from score_jax import workdir_lock
with workdir_lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(workdir_lock, "HERE_SECONDS", 0.3)
    monkeypatch.setattr(workdir_lock, "THERE_SECONDS", 1.0)
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


@pytest.fixture
def far(tmp_path):
    """A lock that a process of another host holds."""
    with (tmp_path / workdir_lock.NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(dict(pid=7, host="far")))
        file.flush()
        (tmp_path / "metrics.jsonl").write_text("1\n")
        yield file


def test_one_of_another_host_that_still_writes_is_left_alone(quick, far, tmp_path):
    writing = threading.Timer(0.1, (tmp_path / "metrics.jsonl").write_text, ["1\n2\n"])
    writing.start()
    with pytest.raises(UserError, match="process 7 on far is at the run in .*, and goes on; wait"):
        with workdir_lock.held(tmp_path):
            pass
    writing.join()


def test_a_lock_that_a_crashed_host_left_stops_no_run(quick, far, tmp_path, caplog):
    with workdir_lock.held(tmp_path):
        pass
    assert "process 7 on far holds the lock" in caplog.text
    assert "writes nothing; going on" in caplog.text


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
