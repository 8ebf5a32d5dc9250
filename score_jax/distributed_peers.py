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
from typing import Any

import jax

from score_jax import distributed_native as native
from score_jax.distributed_cluster import Cluster
from score_jax.distributed_connect import probe

LOGGER = logging.getLogger("score_jax.cluster")
RESTART = os.EX_TEMPFAIL  # 75: the same command again goes on from the last checkpoint.
REFUSED, INTERRUPTED = 2, 130
LEFT, HEARD = "score_jax/left", "score_jax/heard"  # Keys of the coordination service.
HOUR = 3600 * 1000
GOES_ON = "the same command goes on from the last checkpoint"
# What JAX's errors say where the reason is another process.
SIGNS = re.compile(
    r"gloo.*(fail|closed|reset|timed out|refused)|connection (closed|reset) by peer|socket closed"
    r"|nccl.*(remote|system) ?error|coordination ?service|unhealthy|\[type.googleapis.com/tensorf"
    r"|barrier (timed out|failed)|heartbeat",
    re.IGNORECASE | re.DOTALL,
)


class PeerFailure(Exception):
    """Another process is gone or does not come; one line. The command ends with RESTART."""


class Peers:
    """The other processes of this run, watched from threads.

    Attributes:
      notice: set in every process soon after one of them got a SIGTERM.
      stop_is_agreed: all processes left their loops for the same stop.
    """

    def __init__(self, cluster: Cluster, heartbeat_timeout: int):
        self.cluster, self._heartbeat = cluster, heartbeat_timeout
        self.notice = threading.Event()
        self.stop_is_agreed = False
        self._alive = set(range(cluster.num_processes))
        self._is_connected = False
        self._ending = threading.Lock()
        self._outcome: int | None = None  # Of a run that is over in all processes.

    def watch(self) -> None:
        """Starts the threads; after `jax.distributed.initialize`."""
        self._is_connected = True
        for task in (self._hear_of_ends, self._hear_of_notices, self._count):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()

    def _wait_for(self, key: str) -> str | None:
        """The value of a key when some process sets it; None when the service is gone."""
        client = native.client()
        while client is not None:
            try:
                return client.blocking_key_value_get(key, HOUR)
            except Exception as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    return None
        return None

    def _hear_of_ends(self) -> None:
        text = self._wait_for(LEFT)
        if text is None or self._outcome is not None:
            return
        left = json.loads(text)
        if left["process"] == self.cluster.process_id:
            return
        with contextlib.suppress(Exception):
            native.client().key_value_increment(HEARD, 1)
        code = left["code"] if left["code"] in (REFUSED, INTERRUPTED) else RESTART
        how = f"ended: {left['message']}" if left["message"] else f"ended (code {left['code']})"
        more = f"; {GOES_ON}" if code == RESTART else ""
        self.end(code, f"process {left['process']} on {left['host']} {how}{more}")

    def _hear_of_notices(self) -> None:
        if self._wait_for(native.NOTICE) is not None:
            self.notice.set()
            LOGGER.info("SIGTERM: saving at the next step")

    def _count(self) -> None:
        """Keeps who is alive: the service answers when all have asked, or the silent are dead."""
        everyone = list(range(self.cluster.num_processes))
        while True:
            try:
                self._alive = set(native.client().get_live_nodes(everyone))
            except Exception:
                return
            time.sleep(min(self._heartbeat / 4, 10.0))

    def lost(self, status: Any = None) -> None:
        """JAX's runtime has lost another process, or the coordinator: ends this one."""
        if self._outcome is not None:
            os._exit(self._outcome)
        time.sleep(0.5)  # What the other said of its end, and who is alive, may be on its way.
        self.end(RESTART, self.describe_loss(f"no heartbeat for {self._heartbeat} s"))

    def describe_loss(self, reason: str) -> str:
        """One line: who is gone."""
        mine, count = self.cluster.process_id, self.cluster.num_processes
        gone = sorted(set(range(count)) - self._alive - {mine})
        if mine and probe(*self.cluster.address):
            gone, reason = [0], "its coordinator is gone"
        elif count == 2:
            gone = [1 - mine]
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
            process=self.cluster.process_id, host=socket.gethostname(), code=code, message=message
        )
        client = native.client() if self._is_connected else None
        with contextlib.suppress(Exception):  # Without a client, or where another was first.
            client.key_value_set(LEFT, json.dumps(left))
            deadline = time.monotonic() + 3.0
            # The service ends with process 0: not before the others have heard.
            while self.cluster.process_id == 0 and time.monotonic() < deadline:
                time.sleep(0.05)
                if int(client.key_value_try_get(HEARD)) >= self.cluster.num_processes - 1:
                    break
        self.end(code)

    def close(self, outcome: int) -> None:
        """The run is over in all processes: ends the runtime together."""
        barrier(self, "end", 600.0)
        self._outcome = outcome
        flush()
        jax.distributed.shutdown()


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
            f"{peers.cluster}: {who} did not come to {name!r} ({reason}); {GOES_ON}"
        ) from error


def is_peer_failure(error: BaseException) -> bool:
    """Does JAX say that the reason is another process?"""
    return isinstance(error, jax.errors.JaxRuntimeError) and bool(SIGNS.search(str(error)))


def flush() -> None:
    """What was told reaches its files before the process is gone."""
    for handler in logging.getLogger().handlers:
        with contextlib.suppress(Exception):
            handler.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
