"""Ends a process in which no thread of Python can run; a program of its own, started by `watchdog`.

Where a library keeps Python's interpreter lock for ever, the thread of the watchdog stands still as
well. So it sends this small process a sign on a pipe, again and again. Where none comes for too
long, this process has the stacks written (by `faulthandler`, whose signal handler needs no lock)
and kills its parent. A parent that is stopped (Ctrl-Z, SIGSTOP, a debugger) is waited for.

It imports nothing but the standard library: it must start at once.
"""

import contextlib
import os
import select
import signal
import sys
import time

STACKS_SIGNAL = signal.SIGRTMAX  # Nobody else's: schedulers and users send SIGUSR1 and SIGUSR2.
STACKS_SECONDS = 2.0


def guard(parent: int, seconds: float, tick: float, line: str, log: str) -> None:
    """Returns when the parent ends, or no longer wants to be watched (the pipe's end).

    Args:
      parent: its process id.
      seconds: how long no sign may come.
      tick: seconds between two looks; time in which this process could not run does not count.
      line: what to tell at the end.
      log: the file that gets the line, too.
    """
    silent = 0.0
    while os.getppid() == parent:
        if select.select([0], [], [], tick)[0]:
            if not os.read(0, 4096):
                return
            silent = 0.0
        elif _is_stopped(parent):
            silent = 0.0
        else:
            silent += tick
        if silent > seconds:
            _end(parent, line, log)
            return


def _is_stopped(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return True  # It ended: the next look finds another parent.


def _end(parent: int, line: str, log: str) -> None:
    os.write(2, f"\ncritical: {line}\n".encode())
    os.kill(parent, STACKS_SIGNAL)
    time.sleep(STACKS_SECONDS)
    os.kill(parent, signal.SIGKILL)
    # Last: the disk may not answer.
    with contextlib.suppress(OSError), open(log, "a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} CRITICAL {line}\n")


if __name__ == "__main__":
    guard(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:6])
