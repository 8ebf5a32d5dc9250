"""Several processes as one run: they start together, agree, and end together.

`start` wraps a job. The rest is for the job: in one process each function answers at once.
"""

import contextlib
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import jax

from score_jax import distributed_native as native
from score_jax import distributed_peers as peers_lib
from score_jax import distributed_talk
from score_jax.distributed_cluster import find
from score_jax.distributed_connect import Unreachable, connect
from score_jax.distributed_peers import RESTART, PeerFailure, Peers
from score_jax.distributed_talk import Talk

__all__ = ["RESTART", "PeerFailure"]  # For those who start and end a job.

_STOP_SECONDS = 300.0  # Two slow steps.
_peers: Peers | None = None
_talk: Talk | None = None
_patience = 900.0  # Seconds to wait for what another process says.


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
      init_timeout: seconds until all have to be there; later on, until what another one says has
        to come.
      heartbeat_timeout: seconds after which a silent process counts as dead.

    Raises:
      UserError: what the user can mend.
      Unreachable: the others did not come.
    """
    global _peers, _patience
    place = find(
        os.environ, coordinator=coordinator, num_processes=num_processes, process_id=process_id,
        kind=cluster,
    )  # fmt: skip
    if place is None:
        yield
        return
    _patience = init_timeout
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
    global _peers, _talk
    _peers.close()
    _peers = _talk = None


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
    if isinstance(error, PeerFailure):
        _peers.missed = error.processes, error.reason
        return str(error)
    if isinstance(error, Unreachable):
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


def from_primary(value: Any, *, what: str = "go on", timeout_seconds: float | None = None) -> Any:
    """The value of process 0, in every process; called by all, on the main thread.

    Process 0 does not wait for the others. The devices take no part.

    Args:
      value: what JSON can say.
      what: what process 0 is waited for to do, for messages.
      timeout_seconds: how long; the time of the start unless given.

    Raises:
      PeerFailure: process 0 did not come in time.
    """
    if jax.process_count() == 1:
        return value
    talk = _talking()
    if talk is None:
        return distributed_talk.by_devices(value)[0]
    return talk.from_primary(value, what, timeout_seconds or _patience)


def from_all(value: Any, *, what: str = "go on", timeout_seconds: float | None = None) -> list[Any]:
    """The values of all processes, in their order; called by all, on the main thread.

    Returns when all have come, and tells now and then for whom it waits.

    Args:
      value, what, timeout_seconds: as `from_primary`.

    Raises:
      PeerFailure: one did not come in time; the line says which.
    """
    if jax.process_count() == 1:
        return [value]
    talk = _talking()
    if talk is None:
        return distributed_talk.by_devices(value)
    return talk.from_all(value, what, timeout_seconds or _patience)


def meet(what: str, timeout_seconds: float | None = None) -> None:
    """All processes come here before their first collective, and open the links between devices.

    Args:
      what, timeout_seconds: as `from_all`.

    Raises:
      PeerFailure: as `from_all`.
    """
    if jax.process_count() > 1:
        from_all(None, what=what, timeout_seconds=timeout_seconds)
        distributed_talk.open_links()


def _talking() -> Talk | None:
    global _talk
    client = native.client()
    if _talk is None and client is not None:
        _talk = Talk(client, jax.process_index(), jax.process_count())
    return _talk if client is not None else None


def barrier(name: str, timeout_seconds: float = 600.0) -> None:
    """Waits for all processes; each comes by the same names in the same order.

    Raises:
      PeerFailure: one did not come in time; the line says which.
    """
    from_all(None, what=f"come to {name!r}", timeout_seconds=timeout_seconds)


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
