"""Several processes as one run: they start together, agree, and end together.

`start` wraps a job. The rest is for the job: in one process each function answers at once.
"""

import collections
import contextlib
import json
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from score_jax import distributed_native as native
from score_jax import distributed_peers as peers_lib
from score_jax.distributed_cluster import find
from score_jax.distributed_connect import Unreachable, connect
from score_jax.distributed_peers import RESTART, PeerFailure, Peers

__all__ = ["RESTART", "PeerFailure"]  # For those who start and end a job.

_BLOCK = 1024  # Text goes round in arrays of few sizes, so that few programs are compiled.
_STOP_SECONDS = 300.0  # Two slow steps.
_peers: Peers | None = None
_visits: collections.Counter[str] = collections.Counter()


@contextlib.contextmanager
def start(
    *,
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    cluster: str = "auto",
    init_timeout: float = 900,
    heartbeat_timeout: int = 100,
) -> Iterator[None]:
    """Joins the other processes of a run, before anything asks for a device; leaves with them.

    Where this process is alone nothing is started. Otherwise the processes end together: after the
    job, or after a stop that all agreed on, all shut down; whatever else ends one of them (see
    `leave`) ends the others within the heartbeat time.

    Args:
      coordinator, num_processes, process_id, cluster: as `distributed_cluster.find`.
      init_timeout: seconds until all have to be there.
      heartbeat_timeout: seconds after which a silent process counts as dead.

    Raises:
      UserError: what the user can mend.
      Unreachable: the others did not come.
    """
    global _peers
    place = find(
        os.environ, coordinator=coordinator, num_processes=num_processes, process_id=process_id,
        kind=cluster,
    )  # fmt: skip
    if place is None:
        yield
        return
    _peers = Peers(place, heartbeat_timeout)
    with native.telling_of_losses(_peers.lost):
        connect(place, init_timeout, heartbeat_timeout)
    _peers.watch()
    if jax.default_backend() == "cpu":
        native.without_chatter()
    try:
        yield
    except KeyboardInterrupt:
        if _peers.stop_is_agreed:
            _close()
        raise
    _close()


def _close() -> None:
    global _peers
    _peers.close()
    _peers = None


def leave(code: int, message: str = "") -> int:
    """The exit code of a process that ends by an error; in a run of several it ends right here.

    The others are told, and end too: with the same code where the user has to mend something or
    interrupted, else with RESTART.
    """
    if _peers is not None:
        _peers.leave(code, message)
    return code


def peer_failure(error: BaseException) -> str | None:
    """One line where an error of JAX means that another process is gone; else None."""
    if _peers is None:
        return None
    if isinstance(error, PeerFailure | Unreachable):
        return str(error)
    if not peers_lib.is_peer_failure(error):
        return None
    _peers.wait_for_word()
    closed = re.search(r"connection \w+ by peer", str(error), re.IGNORECASE)
    reason = closed[0].lower() if closed else textwrap.shorten(str(error), 150)
    return f"{_peers.cluster}: {_peers.describe_loss(reason)}"


def is_primary() -> bool:
    """Is this the process that writes?"""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; called by all, and the same answer in all."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(bool(flag)))))


def from_primary(value: Any) -> Any:
    """The value of process 0, in every process; called by all.

    Args:
      value: what JSON can say, or an array (then of the same shape and type everywhere).
    """
    if jax.process_count() == 1:
        return value
    if isinstance(value, np.ndarray):
        return np.asarray(multihost_utils.broadcast_one_to_all(value))
    return json.loads(_blocks(json.dumps(value) if is_primary() else "")[0])


def from_all(value: Any) -> list[Any]:
    """The values of all processes, in their order; called by all.

    Args:
      value: what JSON can say.
    """
    if jax.process_count() == 1:
        return [value]
    return [json.loads(text) for text in _blocks(json.dumps(value))]


def _blocks(text: str) -> list[str]:
    """The texts of all processes."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    block = np.zeros(-(-int(sizes.max()) // _BLOCK) * _BLOCK, np.uint8)
    block[: len(data)] = data
    blocks = multihost_utils.process_allgather(block)
    return [part[:size].tobytes().decode() for part, size in zip(blocks, sizes, strict=True)]


def barrier(name: str, timeout_seconds: float = 600.0) -> None:
    """Waits for all processes; each comes by the same names in the same order.

    Raises:
      PeerFailure: one did not come in time; the line says which.
    """
    if _peers is not None:
        _visits[name] += 1
        peers_lib.barrier(_peers, f"{name} {_visits[name]}", timeout_seconds)
    elif jax.process_count() > 1:  # Somebody else started them.
        multihost_utils.sync_global_devices(name)


def stop_notice() -> float | None:
    """When this process heard that one of several got a SIGTERM (`time.monotonic`); else None."""
    return _peers.notice if _peers else None


def agree_to_stop() -> None:
    """All processes stop here: the interrupt that follows is everybody's.

    Raises:
      PeerFailure: one did not come; nothing that takes all of them, as a save does, would end.
    """
    if _peers is not None:
        _peers.hear_of_stop()
        barrier("the stop", _STOP_SECONDS)
        _peers.stop_is_agreed = True


def is_several() -> bool:
    """Did `start` join this process with others?"""
    return _peers is not None


def process_index() -> int:
    """This process's number, for messages; does not ask for a device."""
    return _peers.cluster.process_id if _peers else 0
