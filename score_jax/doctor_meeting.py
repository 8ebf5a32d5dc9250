"""A meeting of the doctors of all processes of a run, where the coordinator will be.

Process 0 listens on the coordinator's port and the others visit it, so that what a run needs is
tried before it starts: the name, the route, the firewall, the folder that all share. Each says who
it is in one line of JSON, and is answered by one.
"""

import contextlib
import errno
import json
import os
import platform
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST = 65536  # Bytes of what another side says.
KNOWN = {"doctor": int, "process": int, "processes": int, "host": str, "pid": int, "time": float}
PAUSE = 0.2
CALL = 5.0  # Seconds for one visit.
LOOK = 10.0  # Seconds to find a file: network file systems remember that it was not there.


@dataclass
class Visit:
    """How a visit went: the answer, or the error that the last attempt ended with.

    sees: whether the file of process 0 is here; None where it has none.
    """

    answer: dict[str, Any] | None = None
    sees: bool | None = None
    error: OSError | None = None
    is_connected: bool = False
    seconds: float = 0.0
    skew: float = 0.0


@dataclass
class Meeting:
    """What process 0 heard: one entry a process, what each sees, and who does not belong."""

    heard: dict[int, dict[str, Any]] = field(default_factory=dict)
    sees: dict[int, bool | None] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)


def introduction(process: int, processes: int, **facts: Any) -> dict[str, Any]:
    """What a doctor says of itself."""
    return dict(
        doctor=1, process=process, processes=processes, host=platform.node(), pid=os.getpid(),
        time=time.time(), **facts,
    )  # fmt: skip


def open_port(port: int) -> socket.socket:
    """A socket that listens as JAX's coordinator will: on every address of this machine.

    Raises:
      OSError: the port is taken, or not for this user.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # No IPv6 after all.
                raise
    return socket.create_server(("", port), backlog=1024)


def receive(server: socket.socket, answer: dict[str, Any], others: int, seconds: float) -> Meeting:
    """Answers visitors until `others` different processes came, or `seconds` have passed.

    Args:
      answer: what is said to each; its time is set when it is said.
    """
    meeting, deadline = Meeting(), time.monotonic() + seconds
    with contextlib.ExitStack() as guests:
        waiting = []
        while len(meeting.heard) < others and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, address = server.accept()
            except TimeoutError:
                break
            guests.enter_context(connection)
            connection.settimeout(CALL)
            said = _read(connection)
            if said is None:
                meeting.strangers.append(str(address[0]))
                connection.close()
                continue
            with contextlib.suppress(OSError):  # It went away; what it says last is missing then.
                _say(connection, answer | {"time": time.time()})
            known = meeting.heard.get(said["process"])
            if known and (known["host"], known["pid"]) != (said["host"], said["pid"]):
                meeting.strangers.append(f"{said['host']}, a second process {said['process']}")
            meeting.heard[said["process"]] = said
            waiting.append((said["process"], connection))
        for process, connection in waiting:
            connection.settimeout(LOOK + CALL)
            last = _read(connection)
            meeting.sees[process] = last.get("sees") if last else None
    return meeting


def visit(host: str, port: int, said: dict[str, Any], seconds: float, call: float = CALL) -> Visit:
    """Visits process 0, again and again until it is there or `seconds` have passed.

    Args:
      call: seconds that one attempt has.
    """
    result, deadline = Visit(), time.monotonic() + seconds
    while True:
        begin = time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=call) as own:
                result.is_connected, result.error = True, None
                result.seconds = time.monotonic() - begin
                asked = time.time()
                _say(own, said | {"time": asked})
                result.answer = _read(own)
                now = time.time()
                if result.answer is not None:
                    if file := result.answer.get("file"):
                        result.sees = sees(file, min(LOOK, seconds))
                    with contextlib.suppress(OSError):  # Process 0 waits no longer.
                        _say(own, said | {"sees": result.sees})
            if result.answer is not None:
                # Half of the way there and back is what the answer was under way.
                result.skew = result.answer["time"] - (asked + now) / 2
                return result
        except OSError as error:
            result.error = error
        if time.monotonic() + PAUSE >= deadline or result.is_connected and result.answer is None:
            return result
        time.sleep(PAUSE)


def _say(connection: socket.socket, words: dict[str, Any]) -> None:
    connection.sendall(json.dumps(words).encode() + b"\n")


def _read(connection: socket.socket) -> dict[str, Any] | None:
    """One line of JSON of another doctor; None where something else speaks, or nothing."""
    text, deadline = b"", time.monotonic() + CALL
    try:
        while not text.endswith(b"\n") and len(text) < MOST and time.monotonic() < deadline:
            if not (part := connection.recv(4096)):
                break
            text += part
        words = json.loads(text)
        if all(isinstance(words[name], kind) for name, kind in KNOWN.items()):
            return words
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def sees(file: str, seconds: float) -> bool:
    """Whether a file is here; a network file system may tell so only after some seconds."""
    deadline = time.monotonic() + seconds
    while not Path(file).exists():
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE)
    return True
