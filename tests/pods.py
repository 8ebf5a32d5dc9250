"""Starts the processes of tests/distributed_process.py, and hears how they end."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
HEARTBEAT = 6  # Seconds.


class Ended(NamedTuple):
    """The end of one process: when counted from the first wait, in seconds."""

    code: int
    out: str
    errors: str
    seconds: float


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Pod:
    """N processes of one task, which are dead when the `with` ends."""

    def __init__(self, task: str, count: int = 2, *flags: str, only=None, **environ: str):
        port, self.processes = free_port(), {}
        for index in range(count) if only is None else only:
            command = [
                sys.executable, "-m", "tests.distributed_process", task, *flags,
                f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}",
                f"--process_id={index}", f"--heartbeat_timeout={HEARTBEAT}",
            ]  # fmt: skip
            self.processes[index] = subprocess.Popen(
                command, cwd=REPOSITORY, env={**os.environ, **environ}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()

    def wait_for(self, word: str) -> None:
        """Returns when each process has printed a line that begins with the word."""
        for process in self.processes.values():
            while not (line := process.stdout.readline()).startswith(word):
                assert line, process.communicate()[1]

    def end(self, timeout: float = 60) -> dict[int, Ended]:
        """How each process ended."""
        begin, ended = time.monotonic(), {}
        for index, process in self.processes.items():
            out, errors = process.communicate(timeout=timeout)
            ended[index] = Ended(process.returncode, out, errors, time.monotonic() - begin)
        return ended
