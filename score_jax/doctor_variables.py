"""The doctor on environment variables: which are set, and which are left from somewhere else."""

import contextlib
import difflib
import os
import re
import sys
import time
from collections.abc import Iterator

import jax

from score_jax import doctor_tpu
from score_jax.doctor_devices import explain, last_line, run_limited
from score_jax.doctor_finding import Finding, Machine, fine, remark, wrong

FAMILIES = (
    "JAX_", "XLA_", "LIBTPU_", "TPU_", "CLOUD_TPU_", "MEGASCALE_", "SLURM_", "CUDA_", "NVIDIA_",
    "NCCL_", "GLOO_", "OMPI_", "TFDS_",
)  # fmt: skip
SHOWN = 8  # Variables of a family whose values are printed.
# Read by JAX though no option of its config: jax.distributed, its plugins, its cache.
JAX_OTHERS = (
    "JAX_COORDINATOR_ADDRESS JAX_COORDINATOR_PORT JAX_COORDINATOR_BIND_ADDRESS "
    "JAX_LOCAL_DEVICE_IDS JAX_PARTITION_INDEX JAX_SLICE_INDEX JAX_FORCE_TPU_INIT "
    "JAX_PROCESS_ID JAX_NUM_PROCESSES JAX_PROCESS_COUNT JAX_PLATFORM_NAME JAX_TOOLBOX_VERSION"
).split()
TESTING = {
    "JAX_DISABLE_JIT": "nothing is compiled: a step takes hours",
    "JAX_DEBUG_NANS": "every operation is waited for",
    "JAX_DEBUG_INFS": "every operation is waited for",
    "JAX_LOG_COMPILES": "the log fills with compilations",
}
OFF = ("", "0", "false", "False")
ALL_PROCESSES = "pid:[4026531836]"  # The first namespace of processes; Linux fixes its number.
SLURM_JOB = re.compile(r"job_(\d+)")


def listed(machine: Machine) -> Iterator[Finding]:
    """What is set that JAX, its devices or a cluster read."""
    for family in FAMILIES:
        names = sorted(name for name in machine.environ if name.startswith(family))
        if not names:
            continue
        words = [f"{name}={machine.environ[name][:60]}" for name in names[:SHOWN]]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield fine(f"{family}*", ", ".join(words) + more)


def xla_flags(machine: Machine) -> Iterator[Finding]:
    """Does XLA know its flags? It aborts the process where it does not."""
    if not machine.environ.get("XLA_FLAGS"):
        return
    environ = {**machine.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    code, _, errors = run_limited(command, environ, machine.patience)
    if code == 0:
        yield fine("flags of XLA", "all are known")
        return
    text, remedy = explain(errors) or (f"JAX fails with them: {last_line(errors)}", "take them out")
    yield wrong("flags of XLA", text, remedy)


def jax_options(machine: Machine) -> Iterator[Finding]:
    """Are the options of JAX known ones, and not those for hunting errors?"""
    known = {name.upper() for name in jax.config.values} | set(JAX_OTHERS)
    for name in sorted(n for n in machine.environ if n.startswith("JAX_") and n not in known):
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"{close[0]} was meant?" if close else f"unset {name}, if nothing of yours reads it"
        yield remark(name, "JAX has no such option", meant)
    for name, reason in TESTING.items():
        if machine.environ.get(name, "") not in OFF:
            yield wrong(name, f"it is set: {reason}", f"unset {name}")
    share = machine.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
    if share is not None and not re.fullmatch(r"0*(\.\d+|1(\.0*)?|0?\.\d+)", share):
        name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
        yield wrong(name, f"{share} is no share of the memory", f"unset {name}, or give .75")
    given = machine.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if given and machine.coordinator and given != machine.coordinator:
        yield wrong(
            "JAX_COORDINATOR_ADDRESS",
            f"it is {given}, and --coordinator={machine.coordinator}",
            "unset JAX_COORDINATOR_ADDRESS",
        )


def gpus(machine: Machine) -> Iterator[Finding]:
    """Do the variables of CUDA name GPUs that are there?"""
    name, count = "CUDA_VISIBLE_DEVICES", machine.accelerators().get("gpu", 0)
    value = machine.environ.get(name)
    if value is None or not count:
        return
    numbers = [int(word) for word in value.split(",") if word.strip().isdigit()]
    if value.strip() in ("", "-1"):
        yield wrong(name, f"{value!r} hides the {count} GPU(s) of this machine", f"unset {name}")
    elif numbers and max(numbers) >= count:
        text = f"{value} names GPU {max(numbers)}, and this machine has {count}, from 0"
        yield wrong(name, text, f"unset {name}")


def slurm(machine: Machine) -> Iterator[Finding]:
    """Do the variables of SLURM belong to a job step that this process is in?"""
    environ = machine.environ
    if not environ.get("SLURM_JOB_ID"):
        left = sorted(name for name in environ if re.match(r"SLURM_(STEP|PROC|NTASKS|LOCAL)", name))
        if left:
            text = f"{left[0]} is set without a job (SLURM_JOB_ID)"
            yield wrong("slurm", text, f"unset {' '.join(left)}")
        return
    job = environ["SLURM_JOB_ID"]
    clear = "unset ${!SLURM_@} (bash), or open a new shell"
    end = environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit() and int(end) < time.time():
        yield wrong("slurm", f"job {job} ended: its variables are left in this shell", clear)
        return
    around = _slurm_job_around(machine)
    if around is None or around not in ("", job):
        which = "is in no job" if around is None else f"is in job {around}"
        text = f"SLURM_JOB_ID={job}, but this process {which} (ssh or tmux kept the variables?)"
        yield wrong("slurm", text, clear)
        return
    tasks, step = environ.get("SLURM_NTASKS", ""), environ.get("SLURM_STEP_ID", "")
    if not step:
        remedy = "start the run with srun: one process a task"
        make = wrong if tasks.isdigit() and int(tasks) > 1 else remark
        yield make("slurm", f"in job {job} of {tasks or '?'} task(s), but in no step", remedy)
        return
    index = environ.get("SLURM_PROCID", "")
    for flag, given, there in (
        ("--num_processes", machine.num_processes, environ.get("SLURM_STEP_NUM_TASKS") or tasks),
        ("--process_id", machine.process_id, index),
    ):
        is_given = given > 0 if flag == "--num_processes" else given >= 0
        if is_given and there and str(given) != there:
            text = f"{flag}={given}, and SLURM says {there}"
            yield wrong("slurm", text, f"leave {flag} out, or give what SLURM says")
    yield fine("slurm", f"task {index} of {tasks} in step {step} of job {job}")


def _slurm_job_around(machine: Machine) -> str | None:
    """The job that this process is in; '' where SLURM started it or none can tell; else None."""
    if match := SLURM_JOB.search(machine.read("/proc/self/cgroup")):
        return match.group(1)
    with contextlib.suppress(OSError):
        if os.readlink(machine.at("/proc/self/ns/pid")) != ALL_PROCESSES:
            return ""  # Who started it is hidden from a container.
    pid, seen = str(os.getpid()), set()
    while pid != "0" and pid not in seen:
        seen.add(pid)
        status = dict(re.findall(r"^(\w+):\s*(.*)$", machine.read(f"/proc/{pid}/status"), re.M))
        if "slurm" in status.get("Name", ""):
            return ""
        pid = status.get("PPid", "0")
    return None


CHECKS = (listed, xla_flags, jax_options, gpus, slurm, *doctor_tpu.CHECKS)
