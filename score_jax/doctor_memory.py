"""The doctor on memory, limits and other processes of this machine."""

import os
import re
import resource
from collections.abc import Iterator

from score_jax import control_groups, doctor_needs
from score_jax.doctor_finding import Finding, Machine, fine, remark, size, wrong

SPARE = 2 * 2**30  # Python, JAX and its compiler, beside images and weights.
OPEN_FILES = 1024
# A job that computes: `python -m score_jax JOB`, or the script of that name.
JOB = re.compile(r"\S*python\S* (?:-m score_jax|\S*score-jax) (?!doctor|list|data|plan)([a-z]+)")
# Of these, what computes on devices.
ON_DEVICES = frozenset(
    "train evaluate autoattack sweep compare trust import export analyze report".split()
)
SHARED = 2**30  # NCCL's buffers between the processes and GPUs of a host.


def ram(machine: Machine) -> Iterator[Finding]:
    """Is there room for the images, and for the copy of the weights that is being saved?"""
    lines = re.findall(r"^(\w+):\s+(\d+) kB", machine.read("/proc/meminfo"), re.MULTILINE)
    numbers = {name: int(count) * 1024 for name, count in lines}
    if "MemAvailable" not in numbers:
        yield remark("memory", "/proc/meminfo does not tell")
        return
    free, total = numbers["MemAvailable"], numbers.get("MemTotal", 0)
    text = f"{size(free)} of {size(total)} free"
    if limit := control_groups.memory_room(machine.read):
        free = min(free, limit[1])
        text += f", {size(limit[1])} of {size(limit[0])} in this container or job"
    text += f", swap {size(numbers.get('SwapTotal', 0))}"
    need = doctor_needs.of(machine)
    needed = SPARE + (need.host_bytes if need else 0)
    text += f"; a run takes about {size(needed)}"
    if free < needed:
        remedy = "end other processes, or ask for more (--mem of SLURM, limits of a pod)"
        yield wrong("memory", text, remedy)
    else:
        yield fine("memory", text)


def limits(machine: Machine) -> Iterator[Finding]:
    """How many files may be open, and how large is the memory that processes share?"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} (at most {hard})"
    if soft < OPEN_FILES:
        yield wrong("open files", text, f"ulimit -n {min(hard, 65536)} before the run")
    else:
        yield fine("open files", text)
    try:
        shared = os.statvfs(machine.at("/dev/shm"))
    except OSError:
        yield remark("shared memory", "there is no /dev/shm")
        return
    room = shared.f_blocks * shared.f_frsize
    if room < SHARED and machine.accelerators().get("gpu", 0) > 1:
        remedy = "docker run --shm-size=8g, or an emptyDir of medium Memory at /dev/shm of the pod"
        yield wrong("shared memory", f"/dev/shm has {size(room)}, too little for NCCL", remedy)
    else:
        yield fine("shared memory", f"/dev/shm has {size(room)}")


def other_runs(machine: Machine) -> Iterator[Finding]:
    """Do other jobs of score-jax run here, perhaps in the same folder?"""
    own = _family(machine, os.getpid())
    numbers = [int(folder.name) for folder in machine.at("/proc").glob("[0-9]*")]
    jobs = {pid: words for pid in numbers if JOB.match(words := machine.command_line(pid))}
    found = False
    for pid, words in jobs.items():
        if pid in own or _parent(machine, pid) in jobs:  # Helpers of a job have its words.
            continue
        found = True
        text = f"process {pid}: {words[:160]}"
        if machine.workdir and _workdir_of(machine, pid, words) == os.path.abspath(machine.workdir):
            yield wrong("other runs", f"{text} works in the same folder", f"wait, or kill {pid}")
        elif machine.accelerators() and _shares_devices(machine, pid, words):
            remedy = f"wait, or kill {pid}: two jobs on one accelerator fail or starve"
            yield wrong("other runs", text, remedy)
        else:
            yield remark("other runs", f"{text} shares this machine")
    if not found:
        yield fine("other runs", "none on this machine")


def _shares_devices(machine: Machine, pid: int, words: str) -> bool:
    """Whether another job computes on devices that a run here would take too."""
    if JOB.match(words).group(1) not in ON_DEVICES:
        return False
    text = machine.read(f"/proc/{pid}/environ")
    other = dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)
    if any(each.get("JAX_PLATFORMS") == "cpu" for each in (other, machine.environ)):
        return False
    for name in ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"):
        if name in other and name in machine.environ:
            theirs, ours = (
                {word.strip() for word in each[name].split(",")}
                for each in (other, machine.environ)
            )
            if not theirs & ours:
                return False
    return True


def _workdir_of(machine: Machine, pid: int, words: str) -> str:
    given = re.search(r"--workdir[= ](\S+)", words)
    try:
        here = os.readlink(machine.at(f"/proc/{pid}/cwd"))
    except OSError:  # Of another user, or gone.
        here = "/"
    return os.path.normpath(os.path.join(here, given.group(1))) if given else ""


def _parent(machine: Machine, pid: int) -> int:
    found = re.search(r"^PPid:\s+(\d+)", machine.read(f"/proc/{pid}/status"), re.MULTILINE)
    return int(found.group(1)) if found else 0


def _family(machine: Machine, pid: int) -> set[int]:
    """A process and those that it descends from."""
    found: set[int] = set()
    while pid and pid not in found:
        found.add(pid)
        pid = _parent(machine, pid)
    return found


CHECKS = (ram, limits, other_runs)
