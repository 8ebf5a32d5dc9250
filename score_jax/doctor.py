"""The doctor: is this machine ready for a run? One line a check, with the remedy.

It reads and tries, and changes nothing: files that it writes are its own and are deleted again, and
JAX starts in a process of its own. A check is a function from the machine to findings; a new one
goes into the CHECKS of its module.
"""

from collections.abc import Callable, Iterator, Sequence

from score_jax import (
    doctor_cache,
    doctor_clock,
    doctor_devices,
    doctor_memory,
    doctor_ports,
    doctor_storage,
    doctor_variables,
    doctor_versions,
)
from score_jax.doctor_finding import Finding, Machine, wrong

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


def examine(machine: Machine, groups: Sequence[str] = ()) -> Iterator[Finding]:
    """Runs the checks of some groups, or of all; yields each finding as soon as it is there.

    A check that fails itself is a finding: the doctor goes on.
    """
    for group in groups or GROUPS:
        for check in GROUPS[group]:
            try:
                yield from check(machine)
            except Exception as error:
                name = check.__name__.strip("_").replace("_", " ")
                text = f"this check failed: {type(error).__name__}: {error}"
                yield wrong(f"{group}, {name}", text, "the others go on; please report it")
