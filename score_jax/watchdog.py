"""Ends a process in which nothing happens any more, so that whoever started it starts it again.

A process that is alive and stuck (a collective that another process never enters, a disk that does
not answer) would otherwise hold its machines for ever. A thread listens for signs of life. Where
none comes for too long it writes what the process was doing and every thread's stack, and ends the
process with the exit code that asks for a restart.

Wiring, in the thread that trains::

    with Watchdog(10, 10, log=place.log(i), latest=..., process=i, num_processes=n) as watchdog:
        with watchdog.doing("compiling"): ...
        while True:
            with watchdog.doing("validation"): ...  # watchdog.alive() after each of its batches.
            state, sums = step_fn(state, batch, key)
            jax.block_until_ready(previous_sums)
            watchdog.beat(step)

JAX returns before a device has worked: only where the loop waits for a step (for the one before,
which costs no time) does a beat mean one. Otherwise the loop's first wait is as long as all the
steps that it ran ahead.
"""

import collections
import contextlib
import faulthandler
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from score_jax import watchdog_guard

EXIT_CODE = os.EX_TEMPFAIL  # 75: start the same command again.
STEP = "training"
FIRST_PATIENCE = 3.0  # Times `minutes`, where nothing tells yet how long it takes.
# The same where what came before tells nothing. Most waits for a save are over at once, but the one
# for the last save, or for the one before, is as long as slow storage takes for all of it; and a
# start reads and verifies one checkpoint after the other until one is whole.
PATIENCE = {"compiling": 12.0, "checkpoint": 6.0, "restoring": 6.0}
GUARD_SECONDS = 3.0  # A busy machine may keep a thread waiting so long.
REPORT_SECONDS = 30.0  # A disk that does not answer must not keep the process from ending.


class Activity(NamedTuple):
    """What the watched thread does since its last sign of life, and how long that may last."""

    what: str
    step: int | None
    since: float
    limit: float


class Watchdog:
    """Ends this process with code 75 where no sign of life comes for too long.

    Too long is `minutes`, or `factor` times the median time of a step (in another phase: or of that
    phase, if that is more), whichever is longer; more for the first of its kind (`FIRST_PATIENCE`),
    and always for compilations and for what reads or writes checkpoints (`PATIENCE`). Only time in
    which this process could run counts: a machine that slept, or a process that was stopped and
    continued (SIGSTOP, `scontrol suspend`), is not stuck.

    Where no thread of Python can run (a library keeps the interpreter's lock), a small second
    process kills this one, with its stacks in the log, after `FIRST_PATIENCE` times `minutes`; its
    exit code is then that of SIGKILL (see `watchdog_guard`; on Linux).

    Args:
      minutes: the shortest silence that counts; 0 turns the watchdog off.
      factor: how many usual steps count.
      log: the log file of this process; it gets the line and the stacks.
      latest: tells the step of the last checkpoint, where a restart goes on.
      process, num_processes: which one this is.
    """

    def __init__(
        self, minutes: float, factor: float, *, log: Path,
        latest: Callable[[], int | None] = lambda: None, process: int = 0, num_processes: int = 1,
    ):  # fmt: skip
        self._seconds, self._factor = minutes * 60, factor
        self._log, self._latest = log, latest
        self._process, self._num_processes = process, num_processes
        self._tick = min(max(self._seconds / 20, 0.01), 15.0)
        self._durations: dict[str, collections.deque[float]] = collections.defaultdict(
            lambda: collections.deque(maxlen=100)
        )
        # Replaced whole, never changed: the thread needs no lock that a stuck one could hold.
        self._activity = self._begun(STEP, None)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._guard: subprocess.Popen | None = None

    def __enter__(self) -> "Watchdog":
        self.alive()
        if self._seconds > 0:
            with contextlib.suppress(OSError):  # A log that cannot be written: no second line.
                self._start_guard()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._guard is not None:
            faulthandler.unregister(watchdog_guard.STACKS_SIGNAL)
            self._stacks.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.communicate(timeout=REPORT_SECONDS)

    def beat(self, step: int) -> None:
        """A training step is done."""
        now = time.monotonic()
        if self._activity.what == STEP and self._activity.step is not None:
            self._durations[STEP].append(now - self._activity.since)
        self._activity = self._begun(STEP, step)

    def alive(self) -> None:
        """A part of the current phase is done, such as one batch of a validation."""
        self._activity = self._activity._replace(since=time.monotonic())

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Something else than a step: "input", "validation", "checkpoint", "compiling"."""
        before, begin = self._activity, time.monotonic()
        self._activity = self._begun(what, before.step)
        try:
            yield
        finally:
            now = time.monotonic()
            self._durations[what].append(now - begin)
            self._activity = before._replace(since=now)

    def _begun(self, what: str, step: int | None) -> Activity:
        own, steps = self._durations[what], self._durations[STEP]
        patience = PATIENCE.get(what, 1.0 if own else FIRST_PATIENCE)
        usual = [statistics.median(each) for each in (own, steps) if each]
        limit = max([self._seconds * patience, *(self._factor * each for each in usual)])
        return Activity(what, step, time.monotonic(), limit)

    def _watch(self) -> None:
        silent, seen, last = 0.0, self._activity, time.monotonic()
        while not self._stop.wait(self._tick):
            now = time.monotonic()
            # Where this thread slept longer than it asked for, the whole process was stopped.
            silent += min(now - last, 2 * self._tick)
            last = now
            self._tell_guard()
            if self._activity is not seen:
                silent, seen = 0.0, self._activity
            if silent > seen.limit:
                self._end(seen, silent)

    def _start_guard(self) -> None:
        if not Path("/proc/self/stat").exists():
            return
        seconds = max(FIRST_PATIENCE * self._seconds, GUARD_SECONDS)
        line = (
            f"process {self._process} of {self._num_processes}: no thread of Python could run for "
            f"{_write_seconds(seconds)}; what each was doing is in {self._log}; killed: the same "
            "command goes on from the last checkpoint"
        )
        self._stacks = self._log.open("a")
        faulthandler.register(watchdog_guard.STACKS_SIGNAL, self._stacks, all_threads=True)
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog_guard.__file__, str(os.getpid()), str(seconds),
             str(self._tick), line, str(self._log)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _tell_guard(self) -> None:
        if self._guard is not None:
            with contextlib.suppress(OSError):  # It is gone: somebody killed it.
                os.write(self._guard.stdin.fileno(), b".")

    def _end(self, activity: Activity, silent: float) -> None:
        if self._guard is not None:
            self._guard.stdin.close()  # This thread runs: the guard is not needed.
        line = self._describe(activity, silent)
        reports = [
            threading.Thread(target=report, args=(line,), daemon=True)
            for report in (_write_to_console, self._write_to_log)
        ]
        for report in reports:
            report.start()
        deadline = time.monotonic() + REPORT_SECONDS
        for report in reports:
            report.join(max(0.0, deadline - time.monotonic()))
        if self._num_processes > 1:
            time.sleep(2 * self._tick)  # The others end with this one: let them write theirs.
        os._exit(EXIT_CODE)  # Not sys.exit: the main thread would never hear of it.

    def _describe(self, activity: Activity, silent: float) -> str:
        where = "before the first step" if activity.step is None else f"after step {activity.step}"
        return (
            f"process {self._process} of {self._num_processes}: nothing happened for "
            f"{_write_seconds(silent)} in {activity.what} {where}; what each thread was doing is "
            f"in {self._log}; ending with exit code {EXIT_CODE}: {self._remedy()}"
        )

    def _remedy(self) -> str:
        found = []

        def look() -> None:
            with contextlib.suppress(OSError):
                found.append(self._latest())

        # In a thread: a disk that does not answer may be what the process is stuck in.
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(REPORT_SECONDS / 6)
        if found == [None]:
            return "the same command begins again: there is no checkpoint yet"
        step = f", step {found[0]}" if found else ""
        return f"the same command goes on from the last checkpoint{step}"

    def _write_to_log(self, line: str) -> None:
        # Not through `logging`: the stuck thread may hold its lock.
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with self._log.open("a") as file:
            file.write(f"{now} CRITICAL {line}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)


def _write_to_console(line: str) -> None:
    os.write(2, f"\ncritical: {line}\n".encode())
    sys.stdout.flush()


def _write_seconds(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} s"
