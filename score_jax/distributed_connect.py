"""Waiting for the other processes of a run: says for whom, and gives up in one line."""

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax

from score_jax.distributed_cluster import Cluster
from score_jax.types import UserError

LOGGER = logging.getLogger("score_jax.cluster")
TELL_SECONDS = 20.0
PROBE_SECONDS = 3.0
# An earlier run of the same command may be on its way out.
PORT_SECONDS = 20.0
SHUTDOWN_SECONDS = 30
UNKNOWN = "no host is called"


class Unreachable(Exception):
    """The processes did not come together in time; starting them again may help. One line."""


def connect(cluster: Cluster, init_timeout: float, heartbeat_timeout: int) -> None:
    """Starts JAX's distributed runtime, and returns when all processes are there.

    Raises:
      UserError: no host of that name, or another program holds the port.
      Unreachable: not all processes came within `init_timeout` seconds.
    """
    LOGGER.info(
        "%s on %s (pid %d, %s), waiting for the coordinator at %s",
        cluster, socket.gethostname(), os.getpid(), cluster.source, cluster.coordinator,
    )  # fmt: skip
    begin = time.monotonic()
    wait = _Wait(cluster, begin, init_timeout)
    _go_past_proxies(cluster.address[0])
    if cluster.process_id == 0:
        _check_port(cluster)
    else:
        wait.until(lambda: probe(*cluster.address) is None, lambda: probe(*cluster.address))
    failure = _initialize(cluster, init_timeout, heartbeat_timeout, wait)
    if failure:
        raise failure
    LOGGER.info(
        "%s: connected after %.0f s; %d of %d devices here",
        cluster, time.monotonic() - begin, jax.local_device_count(), jax.device_count(),
    )  # fmt: skip


def _initialize(
    cluster: Cluster, init_timeout: float, heartbeat_timeout: int, wait: "_Wait"
) -> Exception | None:
    """On a thread: C++ hears neither Ctrl-C nor a time-out of ours, and its own one aborts."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.num_processes,
                cluster.process_id,
                local_device_ids=cluster.local_devices,
                coordinator_bind_address=_bind_address(cluster),
                cluster_detection_method="deactivate",
                initialization_timeout=int(init_timeout) + 60,
                heartbeat_timeout_seconds=heartbeat_timeout,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            )
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="initialize", daemon=True)
    thread.start()
    wait.until(lambda: not thread.is_alive(), lambda: _who_is_here(cluster))
    if outcome[0] is None:
        return None
    # Its reasons get lost on the way to Python (std::bad_cast); this is the usual one.
    return Unreachable(
        f"{cluster}: the coordinator at {cluster.coordinator} refuses this process; is another one "
        f"started with --process_id={cluster.process_id}, or is an earlier run still ending?"
    )


def _bind_address(cluster: Cluster) -> str | None:
    """Where the coordinator listens: JAX's default is of IPv6, which not every container has."""
    given = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    return given or (None if socket.has_dualstack_ipv6() else f"0.0.0.0:{cluster.address[1]}")


class _Wait:
    """One deadline for the whole start, and a line every now and then."""

    def __init__(self, cluster: Cluster, begin: float, seconds: float):
        self._cluster, self._begin, self._seconds = cluster, begin, seconds
        self._told = begin

    def until(self, is_done: Callable[[], bool], reason: Callable[[], str | None]) -> None:
        """Returns when `is_done`; tells the `reason` of the wait meanwhile.

        Raises:
          UserError, Unreachable: as `connect`.
        """
        pause = 0.05
        while not is_done():
            now = time.monotonic()
            if now - self._begin > self._seconds:
                self._give_up(reason())
            if now - self._told > TELL_SECONDS:
                self._told = now
                LOGGER.info(
                    "%s: still waiting (%.0f of %.0f s): %s; are all %d processes started?",
                    self._cluster, now - self._begin, self._seconds, reason() or "nearly there",
                    self._cluster.num_processes,
                )  # fmt: skip
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _give_up(self, reason: str | None) -> None:
        line = f"{self._cluster}: gave up after {self._seconds:.0f} s (--init_timeout): "
        if reason and reason.startswith(UNKNOWN):
            raise UserError(f"{line}{reason}; mend the name in --coordinator, or in the DNS")
        raise Unreachable(f"{line}{reason or 'too late'}; {_remedy(self._cluster)}")


def _remedy(cluster: Cluster) -> str:
    host, port = cluster.address
    every = "; on a TPU VM: gcloud ... ssh --worker=all" if "TPU" in cluster.source else ""
    return (
        f"start all {cluster.num_processes} processes with the same --coordinator{every}, and let "
        f"TCP port {port} of {host} through between the hosts"
    )


def probe(host: str, port: int) -> str | None:
    """Why TCP does not reach a port; None where it does."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS):
            return None
    except socket.gaierror:
        return f"{UNKNOWN} {host}"
    except ConnectionRefusedError:
        return f"nothing listens at {host}:{port} yet; process 0 is not started, or runs elsewhere"
    except TimeoutError:
        return f"{host}:{port} does not answer; a firewall in between, or a wrong address"
    except OSError as error:
        return f"{host} cannot be reached ({error.strerror or error}); a wrong address, or no route"


def _check_port(cluster: Cluster) -> None:
    """gRPC would share the port with whoever has it: refused here instead.

    Raises:
      UserError: another program listens there.
    """
    port, deadline = cluster.address[1], time.monotonic() + PORT_SECONDS
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    return  # JAX will tell.
        if time.monotonic() > deadline:
            raise UserError(
                f"--coordinator={cluster.coordinator}: port {port} of this host is taken by "
                "another program, or by an earlier run; end it, or use another port"
            )
        time.sleep(0.5)


def _go_past_proxies(host: str) -> None:
    """gRPC would ask the proxy of http_proxy for hosts of the cluster, and wait for ever."""
    if any(name.lower().endswith("_proxy") for name in os.environ):
        before = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy", "")
        os.environ["no_grpc_proxy"] = ",".join(filter(None, (before, host)))
        jax.config.update("jax_check_proxy_envs", False)


def _who_is_here(cluster: Cluster) -> str:
    if cluster.process_id:
        return "the coordinator answers, but not all processes are there"
    count = cluster.num_processes
    addresses = connected_to(cluster.address[1])
    hosts = ", ".join(sorted(set(addresses))[:8]) or "nowhere"
    return f"{min(len(addresses), count)} of {count} have come, from {hosts}"


def connected_to(port: int, tables: Path = Path("/proc/net")) -> list[str]:
    """The addresses of the clients of a port of this machine, one an open connection (Linux)."""
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = (tables / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            local, remote, state = fields[1], fields[2], fields[3]
            if state == "01" and int(local.rpartition(":")[2], 16) == port:
                words = bytes.fromhex(remote.rpartition(":")[0])
                # Each word of four bytes is in the order of this machine.
                packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                address = socket.inet_ntop(family, packed)
                found.append(address.removeprefix("::ffff:"))
    return found
