"""The doctor: is this machine ready for a run? One line a check, with the remedy.

It reads and tries, and changes nothing: files that it writes are its own and are deleted again, and
JAX starts in a process of its own. A check is a function from the machine to findings; a new one
goes into the CHECKS of its module.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from score_jax import (
    distributed_cluster,
    doctor_cache,
    doctor_clock,
    doctor_devices,
    doctor_memory,
    doctor_ports,
    doctor_storage,
    doctor_variables,
    doctor_versions,
)
from score_jax.doctor_finding import Finding, Machine, fine, remark, wrong
from score_jax.types import UserError

Check = Callable[[Machine], Iterator[Finding]]
# In the order of the report. All that is quick comes before the ports: there the doctors of several
# processes meet, and none should be late.
GROUPS: dict[str, tuple[Check, ...]] = {
    "versions": doctor_versions.CHECKS,
    "variables": doctor_variables.CHECKS,
    "clock": doctor_clock.CHECKS,
    "storage": doctor_storage.CHECKS,
    "cache": doctor_cache.CHECKS,
    "memory": doctor_memory.CHECKS,
    "ports": doctor_ports.CHECKS,
    "devices": doctor_devices.CHECKS,
}


def placed(machine: Machine) -> tuple[Machine, Finding]:
    """The machine with its place in the run, as flags or the cluster tell it; and a line of it."""
    if machine.coordinator and not machine.num_processes and machine.process_id < 0:
        return machine, remark("run", "--coordinator alone: only whether it can be reached")
    try:
        found = distributed_cluster.find(
            machine.environ,
            coordinator=machine.coordinator,
            num_processes=machine.num_processes,
            process_id=machine.process_id,
            kind=machine.cluster,
            is_tpu=lambda environ: "tpu" in machine.accelerators(),
            gpus=lambda environ: machine.accelerators().get("gpu", 0),
        )
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        return machine, wrong("run", text, remedy or "see score-jax doctor --help")
    if found is None:
        return machine, fine("run", "one process, alone")
    fields = dict(num_processes=found.num_processes, process_id=found.process_id)
    machine = dataclasses.replace(machine, coordinator=found.coordinator, **fields)
    return machine, fine("run", f"{found} at {found.coordinator}, says {found.source}")


def examine(machine: Machine, groups: Sequence[str] = ()) -> Iterator[Finding]:
    """Runs the checks of some groups, or of all; yields each finding as soon as it is there.

    A check that fails itself is a finding: the doctor goes on.
    """
    machine, place = placed(machine)
    yield place
    for group in groups or GROUPS:
        for check in GROUPS[group]:
            try:
                yield from check(machine)
            except Exception as error:
                name = check.__name__.strip("_").replace("_", " ")
                text = f"this check failed: {type(error).__name__}: {error}"
                yield wrong(f"{group}, {name}", text, "the others go on; please report it")
