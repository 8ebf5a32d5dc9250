"""The doctor on the coordinator: is process 0 where the others look for it, and do all meet?"""

import contextlib
import errno
import ipaddress
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from score_jax import doctor_meeting, doctor_storage, workdir
from score_jax.doctor_finding import Finding, Machine, fine, remark, wrong
from score_jax.doctor_meeting import Meeting, Visit

SHARE = "give a --workdir on a file system that all hosts mount (NFS, Lustre, gcsfuse)"
FORM = "write --coordinator=HOST:PORT, such as --coordinator=10.0.0.2:8476"
SKEW = 1.0  # Seconds between two clocks that are worth a word,
WRONG_SKEW = 30.0  # and that spoil logs, tokens and the times of files.


def split(coordinator: str) -> tuple[str, int] | None:
    """Host and port of 'HOST:PORT' or '[ADDRESS]:PORT'; None where it is not of that form."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\s/]+)):(\d{1,5})", coordinator)
    if match is None or not 0 < int(match.group(3)) < 65536:
        return None
    return match.group(1) or match.group(2), int(match.group(3))


def addresses(host: str) -> list[str]:
    """The addresses of a name.

    Raises:
      socket.gaierror: nobody knows it.
    """
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine for itself alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def coordinator(machine: Machine) -> Iterator[Finding]:
    """Is process 0 where the others look for it, and do all meet there?"""
    if not machine.coordinator:
        yield remark("coordinator", "none is needed for one process")
        return
    place = split(machine.coordinator)
    if place is None:
        yield wrong("coordinator", f"{machine.coordinator!r} is no HOST:PORT", FORM)
        return
    count, index = machine.num_processes, machine.process_id
    if index >= max(count, 1):
        text = f"--process_id={index} of --num_processes={count}"
        yield wrong("coordinator", text, "the processes are counted from 0")
        return
    try:
        found = addresses(place[0])
    except socket.gaierror as error:
        yield _unknown(place[0], error)
        return
    if all(map(is_loopback, found)) and _hosts(machine) > 1:
        yield wrong(
            "coordinator",
            f"{place[0]} is each machine itself, and the run has {_hosts(machine)} of them",
            "give the name or address by which the others reach the machine of process 0",
        )
        return
    yield from (_as_first if index == 0 else _as_other)(machine, *place)


def _hosts(machine: Machine) -> int:
    """How many machines the environment says the run has; 1 where it says nothing."""
    names = machine.environ.get("TPU_WORKER_HOSTNAMES", "")
    nodes = machine.environ.get("SLURM_STEP_NUM_NODES") or machine.environ.get("SLURM_NNODES", "")
    return max(len(names.split(",")), int(nodes) if nodes.isdigit() else 1)


def _unknown(host: str, error: OSError) -> Finding:
    return wrong(
        "coordinator",
        f"the name {host} is not known here ({error.strerror})",
        "check its spelling, give its address (SLURM: NodeAddr of scontrol show node), or (GKE) "
        "wait for the headless service and pod 0",
    )


def _as_first(machine: Machine, host: str, port: int) -> Iterator[Finding]:
    """What process 0 sees: is the port free, and do the others come?"""
    foreign = [address for address in addresses(host) if not _is_own(address)]
    if len(foreign) == len(addresses(host)):
        yield wrong(
            "coordinator",
            f"{host} ({', '.join(foreign)}) is not this machine, where process 0 runs",
            f"start process 0 there, or give an address of {socket.gethostname()}",
        )
        return
    try:
        server = doctor_meeting.open_port(port)
    except OSError as error:
        yield _cannot_listen(machine, port, error)
        return
    with server:
        others = machine.num_processes - 1
        if others < 1:
            yield fine("coordinator", f"port {port} is free here")
            return
        with _shared_file(machine) as file:
            said = doctor_meeting.introduction(
                0, machine.num_processes, **_facts(machine), file=file
            )
            meeting = doctor_meeting.receive(server, said, others, machine.patience)
    yield from _heard(machine, port, meeting)


def _is_own(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
    return True


def _cannot_listen(machine: Machine, port: int, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        holder = _listener(machine, port)
        text = f"port {port} is taken by {holder or 'another process'}"
        return wrong("coordinator", text, "end it, or take another port in --coordinator")
    if error.errno == errno.EACCES:
        text = f"port {port} is not for this user"
        return wrong("coordinator", text, "take one of 1024 or above in --coordinator")
    return wrong("coordinator", f"port {port}: {error.strerror}", "take another port")


def _listener(machine: Machine, port: int) -> str:
    """Who listens on a port, where that can be seen."""
    inodes = set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for words in map(str.split, machine.read(file).splitlines()[1:]):
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    for link in machine.at("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in inodes:
                pid = link.parts[-3]
                return f"process {pid} ({machine.command_line(pid)[:120]})"
    return ""


def _facts(machine: Machine) -> dict[str, Any]:
    versions = {k: v for k, v in workdir.library_versions().items() if k not in ("torch",)}
    return dict(versions=versions, recipe=machine.recipe, overrides=list(machine.overrides))


@contextlib.contextmanager
def _shared_file(machine: Machine) -> Iterator[str]:
    """A file in the run's folder, to be seen by the others; '' where none can be made."""
    try:
        if not machine.workdir:
            raise FileNotFoundError
        folder = doctor_storage.existing(Path(machine.workdir).expanduser().absolute())
        file = tempfile.NamedTemporaryFile(dir=folder, prefix=doctor_storage.PROBE)
    except OSError:  # What is wrong with the folder is told where the storage is looked at.
        yield ""
        return
    with file:
        yield file.name


def _heard(machine: Machine, port: int, meeting: Meeting) -> Iterator[Finding]:
    count = machine.num_processes
    missing = [i for i in range(1, count) if i not in meeting.heard]
    hosts = sorted({said["host"] for said in meeting.heard.values()})
    if missing:
        listed = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        yield wrong(
            "processes",
            f"no word on port {port} from process {listed} of {count} in {machine.patience:.0f} s",
            "start the doctor on all of them at once, with the same --coordinator; what they say "
            f"tells why (a firewall must let TCP port {port} in)",
        )
    else:
        yield fine("processes", f"all {count} met on port {port}: {', '.join(hosts)}")
    for who in meeting.strangers:
        yield remark("processes", f"{who} came to port {port} too")
    for index, said in sorted(meeting.heard.items()):
        if said["processes"] != count:
            text = f"process {index} counts {said['processes']} processes, process 0 counts {count}"
            yield wrong("processes", text, "give all the same --num_processes")
    blind = sorted(index for index, sees in meeting.sees.items() if sees is False)
    if blind:
        text = f"process {', '.join(map(str, blind[:8]))} has another {machine.workdir}"
        yield wrong("shared folder", text, SHARE)
    elif not missing and meeting.sees and None not in meeting.sees.values():
        yield fine("shared folder", f"{machine.workdir} is the same for all")


def _as_other(machine: Machine, host: str, port: int) -> Iterator[Finding]:
    """What the others see: is process 0 there, and like them?"""
    said = doctor_meeting.introduction(machine.process_id, machine.num_processes, **_facts(machine))
    seconds = machine.patience if machine.num_processes > 1 else 0
    call = min(doctor_meeting.CALL, machine.patience)
    visit = doctor_meeting.visit(host, port, said, seconds, call)
    if visit.error is not None:
        yield _cannot_reach(machine, host, port, visit.error)
    elif visit.answer is None:
        text = f"{host}:{port} answers after {1000 * visit.seconds:.0f} ms, but is no doctor"
        remedy = "if no run goes on there, something else has the port: take another"
        yield remark("coordinator", text, remedy)
    else:
        text = f"{host}:{port} is process 0 on {visit.answer['host']}"
        yield fine("coordinator", f"{text}, reached in {1000 * visit.seconds:.0f} ms")
        yield from _alike(machine, visit)


def _cannot_reach(machine: Machine, host: str, port: int, error: OSError) -> Finding:
    place = f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return _unknown(host, error)
    if isinstance(error, TimeoutError):
        return wrong(
            "coordinator",
            f"{place} does not answer: packets are dropped on the way",
            f"open TCP port {port} between the hosts (firewall rule, network policy, security "
            "group), and check that the machine is up",
        )
    if error.errno == errno.ECONNREFUSED:
        waited = f" within {machine.patience:.0f} s" if machine.num_processes > 1 else ""
        return wrong(
            "coordinator",
            f"{place} is there, but nobody listened on the port{waited}",
            "start the doctor (or the run) as process 0 there at the same time, with the same port",
        )
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        remedy = "use an address of the network that the hosts share"
        return wrong("coordinator", f"no route to {place} ({error.strerror})", remedy)
    text = f"{place}: {error.strerror or error}"
    return wrong("coordinator", text, "check the machine and the network of process 0")


def _alike(machine: Machine, visit: Visit) -> Iterator[Finding]:
    """Do this process and process 0 agree on the time, the libraries, the recipe, the folder?"""
    answer, own = visit.answer or {}, _facts(machine)
    skew = f"{abs(visit.skew):.1f} s {'behind' if visit.skew > 0 else 'before'} process 0"
    if abs(visit.skew) > WRONG_SKEW:
        yield wrong("clock", skew, "let chrony or ntpd set it (timedatectl set-ntp true)")
    elif abs(visit.skew) > SKEW:
        yield remark("clock", skew, "let chrony or ntpd set it (timedatectl set-ntp true)")
    else:
        yield fine("clock", skew)
    there = answer.get("versions", {})
    differing = [
        f"{name} {own['versions'].get(name, 'absent')} ({there.get(name, 'absent')} there)"
        for name in sorted({*there, *own["versions"]})
        if own["versions"].get(name) != there.get(name)
    ]
    if differing:
        remedy = "install the same on every host: pip install -e . -c constraints.txt"
        yield wrong("same versions", f"not those of process 0: {', '.join(differing)}", remedy)
    else:
        yield fine("same versions", "as on process 0")
    if (answer.get("recipe"), answer.get("overrides")) != (own["recipe"], own["overrides"]):
        yield wrong("same recipe", "process 0 was given another --config", "give all the same")
    if visit.sees is not None:
        folder = Path(answer["file"]).parent
        if visit.sees:
            yield fine("shared folder", f"{folder} is the one of process 0")
        else:
            text = f"{folder} is not the one of process 0: its file is not seen here"
            yield wrong("shared folder", text, SHARE)
