"""When one process of a run ends, the others end too: soon, in one line, with one exit code."""

import contextlib
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax

from score_jax import distributed_native as native
from score_jax.distributed_cluster import Cluster
from score_jax.distributed_connect import probe

LOGGER = logging.getLogger("score_jax.cluster")
RESTART = os.EX_TEMPFAIL  # 75: the same command again goes on from the last checkpoint.
REFUSED, INTERRUPTED = 2, 130
# Keys of the coordination service.
LEFT, HEARD, ALIVE = "score_jax/left", "score_jax/heard", "score_jax/alive"
END_SECONDS = 600.0  # Of the last saves, which one process may have more of than another.
GOES_ON = "the same command goes on from the last checkpoint"
# What JAX's errors say where the reason is another process.
SIGNS = re.compile(
    r"gloo .*(failed|closed|reset|timed out|refused)|connection (closed|reset) by peer"
    r"|nccl.*(remote|system) ?error|coordination ?service|tasks are unhealthy",
    re.IGNORECASE | re.DOTALL,
)


class PeerFailure(Exception):
    """Another process is gone or does not come; one line. The command ends with RESTART.

    Args:
      line: the message.
      processes: those that are missed.
      reason: how it was noticed, for them to tell should they be alive.
    """

    def __init__(self, line: str, processes: Sequence[int] = (), reason: str = ""):
        super().__init__(line)
        self.processes, self.reason = tuple(processes), reason


class Peers:
    """The other processes of this run, watched from threads.

    Attributes:
      notice: when this process heard that one of them got a SIGTERM.
      stop_is_agreed: all processes left their loops for the same stop.
    """

    def __init__(self, cluster: Cluster, heartbeat_timeout: int):
        self.cluster, self._heartbeat = cluster, heartbeat_timeout
        self.notice: float | None = None
        self.stop_is_agreed = False
        # Of each process what it last said, and when that was.
        self._heard: dict[int, tuple[str, float]] = {}
        self._asleep: float | None = None  # Since when the listener rests between two questions.
        self._stood_still = 0.0, 0.0  # The seconds of the last long rest, and its end.
        # Whom this process takes for lost, and why: they may be alive, and hear of it.
        self.missed: tuple[Sequence[int], str] = (), ""
        self._listener: threading.Thread | None = None
        self._ending = threading.Lock()
        self._is_over = threading.Event()  # In all processes.
        # Between questions; the coordinator of a large run has better things to do.
        self._seconds = min(max(0.5, cluster.num_processes / 100), 5.0)

    def watch(self) -> None:
        """Starts to listen; after `jax.distributed.initialize`."""
        self._listener = threading.Thread(target=self._listen, name="peers", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Asks the coordination service every now and then; nothing that waits, nor outlives it."""
        client, mine = native.client(), f"{ALIVE}/{self.cluster.process_id}"
        turn, beats = 0, max(1, round(self._heartbeat / 8 / self._seconds))
        while client is not None and not self._rest():
            try:
                if turn % beats == 0:
                    client.key_value_set(mine, str(turn), allow_overwrite=True)
                    for key, value in client.key_value_dir_get(ALIVE):
                        self._hear_from(int(key.rpartition("/")[2]), value)
            except jax.errors.JaxRuntimeError:
                pass  # Whoever needs the service will hear of it.
            self._hear_of_end(client)
            if self.notice is None and _value(client, native.NOTICE) is not None:
                self.hear_of_stop()
            turn += 1

    def _hear_from(self, process: int, value: str) -> None:
        if self._heard.get(process, ("", 0.0))[0] != value:
            self._heard[process] = value, time.monotonic()

    def _rest(self) -> bool:
        """Sleeps between two questions; True: the run is over."""
        self._asleep = time.monotonic()
        is_over, now = self._is_over.wait(self._seconds), time.monotonic()
        if now - self._asleep > self._seconds + self._heartbeat / 2:
            self._stood_still = now - self._asleep, now
        self._asleep = None
        return is_over

    def _stillness(self) -> float:
        """For how many seconds this process has just done nothing at all, as when it is stopped."""
        seconds, end = self._stood_still
        now, begin = time.monotonic(), self._asleep
        just = seconds if now - end < self._heartbeat else 0.0
        return max(just, now - begin if begin is not None else 0.0)

    def _hear_of_end(self, client: Any) -> None:
        text = _value(client, LEFT)
        left = json.loads(text) if text else None
        if left is None or left["process"] == self.cluster.process_id or self._is_over.is_set():
            return
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_increment(HEARD, 1)
        code = left["code"] if left["code"] in (REFUSED, INTERRUPTED) else RESTART
        more = f"; {GOES_ON}" if code == RESTART else ""
        self.end(code, f"{_describe_end(left, self.cluster.process_id)}{more}")

    def hear_of_stop(self) -> None:
        """Says once that a stop was asked for."""
        if self.notice is None:
            self.notice = time.monotonic()
            LOGGER.info("%s: SIGTERM: saving at the next step", self.cluster)

    def lost(self, status: Any = None) -> None:
        """JAX's runtime has lost another process, or the coordinator: ends this one."""
        if self._is_over.is_set():
            return  # In all processes: nothing is lost with the runtime.
        time.sleep(0.5)  # What the other said of its end, and who is alive, may be on its way.
        if self.cluster.process_id == 0 and self.cluster.num_processes > 2:
            time.sleep(2.0)  # With the coordinator gone, the others would take this one for lost.
        self.end(RESTART, self.describe_loss(""))

    def wait_for_word(self) -> None:
        """An error came of another process: it may have said why, which then ends this one too."""
        time.sleep(2 * self._seconds)

    def describe_loss(self, reason: str) -> str:
        """One line: who is gone.

        Args:
          reason: what tells it; '': silence.
        """
        mine, count, now = self.cluster.process_id, self.cluster.num_processes, time.monotonic()
        last = max((moment for _, moment in self._heard.values()), default=0.0)
        gone = [
            process
            for process, (_, moment) in sorted(self._heard.items())
            if process != mine and moment < last - self._heartbeat / 2
        ]
        still = self._stillness()
        if still > self._heartbeat:
            return (
                f"the others went on without this process, which stood still for {still:.0f} s; "
                f"{GOES_ON}"
            )
        if mine and probe(*self.cluster.address):
            gone, reason = [0], "its coordinator is gone"
        elif count == 2:
            gone = [1 - mine]
        if not reason:
            heard = [self._heard[process][1] for process in gone if process in self._heard]
            silent = now - min(heard) if heard else self._heartbeat
            reason = f"no sign of life for {silent:.0f} s"
        self.missed = gone, reason
        who = f"process {', '.join(map(str, gone))}" if gone else "another process"
        return f"{who} died or lost contact ({reason}); {GOES_ON}"

    def end(self, code: int, line: str = "") -> None:
        """Ends this process at once: destructors and background saves could wait for the dead."""
        if not self._ending.acquire(blocking=False):
            time.sleep(60)  # Another thread is at it.
        if line:
            # On a thread: a lock of the logging, or a disk that hangs, must not keep us.
            tell = threading.Thread(
                target=LOGGER.error, args=("%s: %s", self.cluster, line), daemon=True
            )
            tell.start()
            tell.join(timeout=5.0)
        flush()
        os._exit(code)

    def leave(self, code: int, message: str) -> None:
        """Ends this process on its own account, and tells the others, which end too."""
        message = " ".join(message.split())[:500]
        left = dict(
            process=self.cluster.process_id, host=socket.gethostname(), code=code,
            message=message.partition(f"; {GOES_ON}")[0], missed=self.missed,
        )  # fmt: skip
        client = native.client() if self._listener else None
        with contextlib.suppress(Exception):  # Without a client, or where another was first.
            client.key_value_set(LEFT, json.dumps(left))
            deadline = time.monotonic() + 3.0
            # The service ends with process 0: not before the others have heard.
            while self.cluster.process_id == 0 and time.monotonic() < deadline:
                time.sleep(0.05)
                if int(_value(client, HEARD) or 0) >= self.cluster.num_processes - 1:
                    break
        self.end(code)

    def close(self) -> None:
        """The run is over in all processes: ends the runtime together."""
        barrier(self, "end", END_SECONDS)
        self._is_over.set()
        self._listener.join()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()


def _describe_end(left: dict[str, Any], mine: int) -> str:
    """What process `mine` says of another that has `left`; not who told that one."""
    who = f"process {left['process']} on {left['host']}"
    missed, reason = left["missed"]
    if mine in missed:
        return f"{who} took this one for lost ({reason})"
    if missed:
        gone = f"process {', '.join(map(str, missed))}"
        return f"{gone} died or lost contact ({reason}, says {who})"
    return f"{who} ended: {left['message']}" if left["message"] else f"{who} ended"


def _value(client: Any, key: str) -> str | None:
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # Not set.
        return None


def barrier(peers: Peers, name: str, timeout_seconds: float) -> None:
    """Waits for all processes.

    Raises:
      PeerFailure: one did not come in time.
    """
    client = native.client()
    if client is None:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
        return
    try:
        client.wait_at_barrier(f"score_jax/{name}", int(timeout_seconds * 1000))
    except Exception as error:
        text = str(error)
        late = re.search(r"timed out task names:\s*((?:\d+\s+)+)", text)
        who = f"process {', '.join(late[1].split())}" if late else "another process"
        reason = f"{timeout_seconds:.0f} s" if late else " ".join(text.split())[:200]
        raise PeerFailure(
            f"{peers.cluster}: {who} did not come to {name!r} ({reason}); {GOES_ON}",
            [int(number) for number in late[1].split()] if late else (),
            f"it did not come to {name!r} for {reason}",
        ) from error


def is_peer_failure(error: BaseException) -> bool:
    """Does JAX say that the reason is another process? (Gloo's errors come as ValueError too.)"""
    kinds = jax.errors.JaxRuntimeError | ValueError
    return isinstance(error, kinds) and bool(SIGNS.search(str(error)))


def flush() -> None:
    """What was told reaches its files before the process is gone."""
    for handler in logging.getLogger().handlers:
        with contextlib.suppress(Exception):
            handler.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
