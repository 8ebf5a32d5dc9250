"""The doctor on variables of TPUs: hosts and slices that others left, chips that are not here."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from score_jax.doctor_finding import Finding, Machine, fine, remark, wrong

# What tells a process which chips, hosts and slice are its own.
OWN = re.compile(
    r"(TPU|CLOUD_TPU)_(WORKER|PROCESS|TASK|HOST_BOUNDS|CHIPS_PER|VISIBLE|TOPOLOGY|ACCELERATOR_TYPE)"
)
CORES = ("v2", "v3", "v4", "v5p")  # Whose types count cores, two a chip.


def tpu(machine: Machine) -> Iterator[Finding]:
    """Do the variables of a TPU slice agree, with each other and with the flags?"""
    environ = machine.environ
    library = environ.get("TPU_LIBRARY_PATH", "")
    if library and not Path(library).exists():
        text = f"{library} is not there: JAX takes its own library, or none"
        yield wrong("TPU_LIBRARY_PATH", text, "unset TPU_LIBRARY_PATH")
    names = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES", "")
    hosts = [host for host in names.split(",") if host.strip()]
    if hosts:
        yield from _slice(machine, hosts)
    if len(hosts) < 2:
        yield from _chips(machine)
    stale = [name for name in environ if OWN.match(name)]
    if stale and "tpu" not in machine.accelerators():
        text = f"{', '.join(sorted(stale)[:4])} set, and there is no TPU here"
        yield wrong("tpu", text, f"unset {' '.join(sorted(stale))}")
    if environ.get("TPU_SKIP_MDS_QUERY") and "tpu" in machine.accelerators() and not hosts:
        yield remark(
            "TPU_SKIP_MDS_QUERY",
            "the hosts of this slice are not asked for",
            "unset it, or give --coordinator, --num_processes and --process_id",
        )


def _slice(machine: Machine, hosts: list[str]) -> Iterator[Finding]:
    environ, count, name = machine.environ, len(hosts), "TPU_WORKER_HOSTNAMES"
    index = environ.get("TPU_WORKER_ID", environ.get("CLOUD_TPU_TASK_ID", ""))
    again = "take both from the same start of this TPU, or unset them"
    if not index.isdigit():
        text = f"{count} hosts, but TPU_WORKER_ID={index or 'is not set'}"
        yield wrong(name, text, "set TPU_WORKER_ID to the place of this host, from 0")
    elif int(index) >= count:
        yield wrong(name, f"{count} host(s), and TPU_WORKER_ID={index}", again)
    variable, bounds = _first(machine, "TPU_PROCESS_BOUNDS", "TPU_HOST_BOUNDS")
    if count > 1 and _product(bounds) not in (0, count):
        yield wrong(name, f"{count} host(s), and {variable}={bounds}", again)
    slices = environ.get("MEGASCALE_NUM_SLICES", "1")
    total = count * (int(slices) if slices.isdigit() else 1)
    if machine.num_processes and machine.num_processes % total:
        text = f"{total} host(s), and --num_processes={machine.num_processes}"
        yield wrong(name, text, f"give --num_processes={total}, or leave it out")


def _first(machine: Machine, *names: str) -> tuple[str, str]:
    """Name and value of the first variable that is set; empty where none is."""
    return next(((name, value) for name in names if (value := machine.environ.get(name))), ("", ""))


def _product(sides: str) -> int:
    """Of '2,2,1' or '4x4'; 0 where it is neither."""
    return math.prod(map(int, re.findall(r"\d+", sides))) if re.match(r"\d", sides) else 0


def _chips(machine: Machine) -> Iterator[Finding]:
    """Do the variables of one host tell of the chips that it has?"""
    there = machine.accelerators().get("tpu", 0)
    if not there:
        return
    text = f"this machine has {there} chip(s)"
    name, visible = _first(machine, "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")
    numbers = [int(word) for word in visible.split(",") if word.strip().isdigit()]
    if numbers and max(numbers) >= there:
        yield wrong(name, f"{visible} names chip {max(numbers)}, and {text}, from 0", _unset(name))
    own = len(numbers) or there
    name, bounds = _first(machine, "TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_CHIPS_PER_HOST_BOUNDS")
    if _product(bounds) not in (0, own):
        seen = f"{own} of them are visible" if numbers else text
        yield wrong(name, f"{bounds} are {_product(bounds)} chips, and {seen}", _unset(name))
    name, bounds = _first(machine, "TPU_PROCESS_BOUNDS", "TPU_HOST_BOUNDS")
    if _product(bounds) > 1:
        others = "nothing names the others (TPU_PROCESS_ADDRESSES, TPU_WORKER_HOSTNAMES)"
        yield wrong(name, f"{bounds} are {_product(bounds)} processes, and {others}", _unset(name))
    elif not numbers:
        yield from _told(machine, there, text)


def _told(machine: Machine, there: int, text: str) -> Iterator[Finding]:
    """Does what the slice is called tell of as many chips as there are?"""
    kind, _, count = machine.environ.get("TPU_ACCELERATOR_TYPE", "").rpartition("-")
    chips = {"TPU_TOPOLOGY": _product(machine.environ.get("TPU_TOPOLOGY", ""))}
    if count.isdigit():
        chips["TPU_ACCELERATOR_TYPE"] = max(int(count) // (2 if kind in CORES else 1), 1)
    for name, told in chips.items():
        if told and told < there:
            value = machine.environ[name]
            yield wrong(name, f"{value} is a slice of {told} chip(s), and {text}", _unset(name))
        elif told > there:  # Hosts that no variable names: the cloud tells them.
            yield remark(name, f"a slice of {told} chips, of which {there} are here")


def _unset(name: str) -> str:
    return f"unset {name}, if this process shall have all of them"


def megascale(machine: Machine) -> Iterator[Finding]:
    """Do variables of several slices stand where there is one? Its start then waits for ever."""
    names = sorted(name for name in machine.environ if name.startswith("MEGASCALE_"))
    if not names:
        return
    text = f"{', '.join(names)} set"
    unset = f"unset {' '.join(names)}"
    count = machine.environ.get("MEGASCALE_NUM_SLICES", "")
    index = machine.environ.get("MEGASCALE_SLICE_ID", "")
    if "tpu" not in machine.accelerators():
        yield wrong("megascale", f"{text}, and there is no TPU here", unset)
    elif not count.isdigit() and machine.environ.get("MEGASCALE_COORDINATOR_ADDRESS"):
        text = f"{text}, but not of how many slices (MEGASCALE_NUM_SLICES={count or 'not set'})"
        yield wrong("megascale", text, unset)
    elif not count.isdigit() or int(count) < 2:
        yield fine("megascale", f"{text}: one slice")
    elif not machine.environ.get("MEGASCALE_COORDINATOR_ADDRESS"):
        text = f"{count} slices without MEGASCALE_COORDINATOR_ADDRESS"
        yield wrong("megascale", text, f"set it to host 0 of slice 0, or {unset}")
    elif not index.isdigit() or int(index) >= int(count):
        text = f"{count} slices, and MEGASCALE_SLICE_ID={index or 'not set'}"
        yield wrong("megascale", text, f"set it from 0 to {int(count) - 1}, or {unset}")
    else:
        yield fine("megascale", f"slice {index} of {count}")


CHECKS = (tpu, megascale)
