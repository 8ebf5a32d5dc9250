"""One run in a folder at a time: two would cut each other's metrics and unfinished saves.

The lock is the kernel's (flock): it ends with its process, however that ends. Between hosts it is
what the file system makes of it: NFS knows it, others know it on one host alone, and a host that
crashed may leave it held. So the holder touches the lock's file every few seconds, from a thread of
its own: a run is alive as long as that goes on, however long it compiles, validates or saves.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from score_jax.types import TemporaryFailure, UserError

LOGGER = logging.getLogger("score_jax")
NAME = ".lock.tmp"  # The folder of a new run may hold temporary files, and nothing else.
TOUCH_SECONDS = 10.0
HERE_SECONDS = 15.0  # For a process of this host that is alive: it may be saving its last state.
THERE_SECONDS = 150.0  # For one of another: it may have longer to save.
# Longer than NFS keeps the locks of a lost client (90 s), or shows an old time of a file (60 s).
SILENT_SECONDS = 150.0
POLL_SECONDS = 0.2
_held: set[Path] = set()  # By this process; it may ask again.


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """While entered, no other process runs in the folder of a run, which exists.

    Waits a while for one that is at its end. Where the file system knows no locks nothing is held.

    Raises:
      UserError: another process runs there, and goes on.
      TemporaryFailure: one of this host holds the lock, and neither lives nor ends.
    """
    folder = folder.absolute()
    if folder in _held:
        yield
        return
    file = _take(folder)
    _held.add(folder)
    is_over = threading.Event()
    if file is not None:
        threading.Thread(
            target=_touch, args=(folder / NAME, is_over), name="lock", daemon=True
        ).start()
    try:
        yield
    finally:
        is_over.set()
        _held.discard(folder)
        if file is not None:
            os.close(file)


def _touch(path: Path, is_over: threading.Event) -> None:
    while True:
        with contextlib.suppress(OSError):  # A storage that fails; the run is told elsewhere.
            os.utime(path)
        if is_over.wait(TOUCH_SECONDS):
            return


def _take(folder: Path) -> int | None:
    try:
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # Of another user, say; what is wrong with the folder is told by who writes.
        return None
    try:
        if _wait_for(file, folder):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(dict(pid=os.getpid(), host=platform.node())).encode(), 0)
    except OSError:  # No locks on this file system.
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    return file


def _wait_for(file: int, folder: Path) -> bool:
    """Waits for the lock; False where it stays with a host that is gone.

    Raises:
      UserError, TemporaryFailure: as `held`.
      OSError: the file system knows no locks.
    """
    begin = touched = time.monotonic()
    seen, is_told, is_doubted = os.fstat(file).st_mtime_ns, False, False
    while not _is_locked(file):
        pid, host = _holder(folder)
        is_here, who = host == platform.node(), f"process {pid} on {host}"
        if not is_told:
            is_told = True
            LOGGER.info("%s is at the run in %s; waiting for its end", who, folder)
        now, last, seen = time.monotonic(), seen, os.fstat(file).st_mtime_ns
        # Only a change counts: the clocks of hosts and of their storage differ.
        if seen != last:
            touched = now
            if now - begin > (HERE_SECONDS if is_here else THERE_SECONDS):
                raise UserError(
                    f"{who} is at the run in {folder}, and goes on; wait for its end, stop it, or "
                    "use another --workdir"
                )
        silent = now - touched
        if is_here and not is_doubted and silent > 2 * HERE_SECONDS:
            is_doubted = True
            LOGGER.warning(
                "%s holds the lock of %s, and gives no sign of life; waiting for its end, at most "
                "%.0f s", who, folder, SILENT_SECONDS - silent,
            )  # fmt: skip
        if silent > SILENT_SECONDS:
            if is_here:  # It may be stuck in a save that its storage takes up again.
                raise TemporaryFailure(
                    f"{who} still holds the lock of {folder}, and gives no sign of life; when it "
                    "has ended, the same command goes on from the last checkpoint"
                )
            LOGGER.warning(
                "%s holds the lock of %s, and gives no sign of life; going on", who, folder
            )
            return False
        time.sleep(POLL_SECONDS)
    return True


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _holder(folder: Path) -> tuple[int, str]:
    try:
        words = json.loads((folder / NAME).read_text())
        return words["pid"], words["host"]
    except (OSError, ValueError, KeyError, TypeError):  # It writes at this moment.
        return 0, "another host"
