"""One run in a folder at a time: two would cut each other's metrics and unfinished saves.

The lock is the kernel's (flock): it ends with its process, however that ends. Between hosts it is
what the file system makes of it: NFS knows it, others know it on one host alone, and a host that
crashed may leave it held. So a lock of another host counts only while that run still writes.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from score_jax.types import UserError

LOGGER = logging.getLogger("score_jax")
NAME = ".lock.tmp"  # The folder of a new run may hold temporary files, and nothing else.
HERE_SECONDS = 15.0  # For a process of this host, which may be saving its last state.
THERE_SECONDS = 150.0  # For one of another: longer than NFS keeps the locks of a lost client.
POLL_SECONDS = 0.2
_held: set[Path] = set()  # By this process; it may ask again.


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """While entered, no other process runs in the folder of a run, which exists.

    Waits a while for one that is at its end. Where the file system knows no locks nothing is held.

    Raises:
      UserError: another process runs there, and goes on.
    """
    folder = folder.absolute()
    if folder in _held:
        yield
        return
    file = _take(folder)
    _held.add(folder)
    try:
        yield
    finally:
        _held.discard(folder)
        if file is not None:
            os.close(file)


def _take(folder: Path) -> int | None:
    try:
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # Of another user, say; what is wrong with the folder is told by who writes.
        return None
    begin, seen, is_told = time.monotonic(), _signs_of_life(folder), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(file)  # No locks on this file system.
                return None
        pid, host = _holder(folder)
        is_here = host == platform.node()
        who = f"process {pid} on {host}"
        if not is_told:
            is_told = True
            LOGGER.info("%s is at the run in %s; waiting for its end", who, folder)
        if time.monotonic() - begin > (HERE_SECONDS if is_here else THERE_SECONDS):
            if not is_here and _signs_of_life(folder) == seen:
                LOGGER.warning("%s holds the lock of %s, but writes nothing; going on", who, folder)
                return file
            os.close(file)
            raise UserError(
                f"{who} is at the run in {folder}, and goes on; wait for its end, stop it, or use "
                "another --workdir"
            )
        time.sleep(POLL_SECONDS)
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(dict(pid=os.getpid(), host=platform.node())).encode(), 0)
    return file


def _holder(folder: Path) -> tuple[int, str]:
    try:
        words = json.loads((folder / NAME).read_text())
        return words["pid"], words["host"]
    except (OSError, ValueError, KeyError, TypeError):  # It writes at this moment.
        return 0, "another host"


def _signs_of_life(folder: Path) -> list[tuple[str, int]]:
    """What a run that goes on changes: the sizes of its metrics and logs, its checkpoints."""
    files = [folder / "metrics.jsonl", *sorted((folder / "logs").glob("host-*.log"))]
    signs = [(file.name, file.stat().st_size) for file in files if file.is_file()]
    return signs + [(step.name, 0) for step in sorted((folder / "checkpoints").glob("*"))]
