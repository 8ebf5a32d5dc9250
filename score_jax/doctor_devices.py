"""The doctor on devices: what JAX sees, what is there, and who else has it.

JAX starts in a process of its own that is ended when it takes too long: a TPU or GPU that hangs at
its start must not hang the doctor.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from score_jax.doctor_finding import Finding, Machine, fine, remark, size, wrong
from score_jax.doctor_versions import installed

PROBE = """
import json, time
begin = time.monotonic()
import jax, jax.numpy as jnp
devices = jax.local_devices()
jnp.ones((8, 8)).sum().block_until_ready()
memory = [(d.memory_stats() or {}).get("bytes_limit", 0) for d in devices]
kinds = sorted({d.device_kind for d in devices})
facts = dict(backend=jax.default_backend(), count=len(devices), kinds=kinds, memory=min(memory))
print(json.dumps(facts | dict(seconds=time.monotonic() - begin)))
"""
# What JAX says when it cannot start: pattern, what it means, remedy.
FAILURES = (
    (
        r"Unknown flags? in XLA_FLAGS: ?([^\n]*)",
        "XLA_FLAGS holds what this XLA does not know, and JAX aborts: {}",
        "take it out (flags of a TPU, --xla_tpu_..., go into LIBTPU_INIT_ARGS)",
    ),
    (
        r"(TPU is already in use|already in use by process)[^\n]*",
        "another process has the TPU ({})",
        "end that process, or wait for it",
    ),
    (
        r"(CUDA_ERROR_OUT_OF_MEMORY|RESOURCE_EXHAUSTED)",
        "no memory is free on the device ({})",
        "see nvidia-smi for the process that has it; end it",
    ),
    (
        r"(CUDA_ERROR_NO_DEVICE|no CUDA-capable device)",
        "the CUDA driver finds no device ({})",
        "see nvidia-smi, CUDA_VISIBLE_DEVICES, and --gpus of the container or job",
    ),
    (
        r"(driver version is insufficient|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|PTX was compiled with)",
        "the NVIDIA driver is too old for this CUDA ({})",
        "update the driver, or install the plugin of the older CUDA",
    ),
)
LOCK = "/tmp/libtpu_lockfile"
BUSY = 0.1  # Share of a GPU's memory that others may have.
# PCI numbers of TPU chips; Google's network cards have the same vendor.
TPU_VENDOR = "0x1ae0"
TPU_CHIPS = frozenset("0x0027 0x0056 0x005e 0x0062 0x0063 0x006f 0x0076".split())
PLUGIN_OF = {
    "gpu": "pip install 'jax[cuda12]'",
    "tpu": "pip install 'jax[tpu]'",
    "rocm": "pip install 'jax[rocm7-local]'",
}


def run_limited(
    command: Sequence[str], environ: Mapping[str, str], seconds: float
) -> tuple[int | None, str, str]:
    """(exit code, standard output, standard error) of a command; None where it was ended."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env=dict(environ), text=True, errors="replace", start_new_session=True,
    ) as child:  # fmt: skip
        try:
            out, err = child.communicate(timeout=seconds)
            return child.returncode, out, err
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            return None, out, err


def explain(errors: str) -> tuple[str, str] | None:
    """What a failed start of JAX means, and the remedy; None where it is not known."""
    for pattern, text, remedy in FAILURES:
        if match := re.search(pattern, errors):
            return text.format(match.group(1).strip() or match.group(0)), remedy
    return None


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def jax_devices(machine: Machine) -> Iterator[Finding]:
    """What does JAX compute on, and does a small computation come back?"""
    name = "jax devices"
    code, out, errors = run_limited(
        [sys.executable, "-c", PROBE], machine.environ, machine.patience
    )
    if code is None:
        yield wrong(
            name,
            f"JAX did not start within {machine.patience:.0f} s",
            "on a slice of several hosts run the doctor on all at once (gcloud ... "
            "--worker=all); else another process has the device: see below",
        )
        return
    try:
        seen = json.loads(last_line(out))
    except ValueError:
        text, remedy = explain(errors) or (
            f"JAX did not start (exit code {code}): {last_line(errors)}",
            "see the versions above, and: python -c 'import jax; jax.devices()'",
        )
        yield wrong(name, text, remedy)
        return
    kinds, memory = ", ".join(seen["kinds"]), seen["memory"]
    text = f"{seen['count']} x {kinds} ({seen['backend']}), after {seen['seconds']:.1f} s"
    text += f", {size(memory)} each" if memory else ""
    there = machine.accelerators()
    if seen["backend"] == "cpu" and there:
        yield wrong(name, f"{text}, although there is {_devices(there)}", _why_cpu(machine, errors))
    else:
        yield fine(name, text)


def _devices(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count} device file(s) of a {kind}" for kind, count in counts.items())


def _why_cpu(machine: Machine, errors: str) -> str:
    platforms = machine.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"gpu", "cuda", "rocm", "tpu"} & set(platforms.split(",")):
        return f"unset JAX_PLATFORMS (it is {platforms})"
    if machine.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES: it hides every GPU"
    names = installed(machine)
    kind = next(iter(machine.accelerators()))
    family = {"gpu": "jax-cuda", "tpu": "libtpu", "rocm": "jax-rocm"}[kind]
    if not any(name.startswith(family) for name in names):
        return PLUGIN_OF[kind]
    known = explain(errors)
    return f"{known[0]}; {known[1]}" if known else f"JAX says: {last_line(errors)}"


def tpu_chips(machine: Machine) -> Iterator[Finding]:
    """Are there TPU chips without a device file to reach them by?"""
    chips = 0
    for vendor in machine.at("/sys/bus/pci/devices").glob("*/vendor"):
        if vendor.read_text().strip() == TPU_VENDOR:
            chips += (vendor.parent / "device").read_text().strip() in TPU_CHIPS
    if chips and "tpu" not in machine.accelerators():
        yield wrong(
            "tpu",
            f"{chips} chip(s) on the PCI bus, and no /dev/accel* or /dev/vfio/* to reach them by",
            "in a container: docker run --privileged, or google.com/tpu in the pod's limits",
        )
    pages = machine.read("/sys/kernel/mm/transparent_hugepage/enabled")
    if chips and pages and "[always]" not in pages:
        yield remark(
            "tpu",
            "transparent huge pages are off, which makes the start of a TPU slow",
            "sudo sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled'",
        )


def tpu_lock(machine: Machine) -> Iterator[Finding]:
    """Does another process hold the lock of the TPU's library? It is told, never removed."""
    file = machine.at(LOCK)
    if not file.exists():
        if "tpu" in machine.accelerators():
            yield fine("tpu lock", f"free: no {LOCK}")
        return
    holder = _lock_holder(machine, file.stat().st_ino)
    if holder:
        words = machine.command_line(holder) or "a process of another user or container"
        text = f"held by process {holder}: {words}"
        if "tpu" in machine.accelerators():
            remedy = f"end it (kill {holder}), or wait for it; one process has all chips of a host"
            yield wrong("tpu lock", text, remedy)
        else:
            yield remark("tpu lock", f"{text}; it stops nothing: no TPU is here")
    elif not os.access(file, os.W_OK):
        yield wrong(
            "tpu lock",
            f"{LOCK} was left by another user (uid {file.stat().st_uid}), and nobody holds it",
            f"sudo rm {LOCK}",
        )
    else:
        yield fine("tpu lock", f"{LOCK} is there and nobody holds it")


def _lock_holder(machine: Machine, inode: int) -> int | None:
    # "1: POSIX  ADVISORY  WRITE 1234 08:01:393226 0 EOF"; waiting ones have "->" after the number.
    for line in machine.read("/proc/locks").splitlines():
        words = [word for word in line.split() if word != "->"]
        if len(words) >= 6 and words[5].rpartition(":")[2] == str(inode):
            return int(words[4])
    return None


def gpus(machine: Machine) -> Iterator[Finding]:
    """Does the NVIDIA driver answer, and is the memory of the GPUs free?"""
    tool = shutil.which("nvidia-smi", path=machine.environ.get("PATH", os.defpath))
    if tool is None:
        if "gpu" in machine.accelerators():
            yield remark("gpu", "nvidia-smi is not on PATH: the driver is not asked")
        return
    fields = "index,uuid,name,driver_version,memory.used,memory.total"
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    code, out, errors = run_limited(command, machine.environ, min(30, machine.patience))
    if code != 0:
        said = last_line(errors or out) if code is not None else "no answer"
        remedy = "mend the driver (nvidia-smi must list the GPUs), or reboot"
        yield wrong("gpu", f"nvidia-smi failed: {said}", remedy)
        return
    for line in out.splitlines():
        index, uuid, kind, driver, *numbers = [word.strip() for word in line.split(",")]
        text = f"{index} is a {kind}, driver {driver}"
        is_visible = visible(machine.environ, index, uuid)
        text += "" if is_visible else ", not in CUDA_VISIBLE_DEVICES"
        if not all(number.isdigit() for number in numbers):  # "[N/A]" on some devices.
            yield fine("gpu", text)
            continue
        used, total = (int(number) * 2**20 for number in numbers)
        text += f", {size(used)} of {size(total)} in use"
        if used > BUSY * total and not is_visible:
            yield remark("gpu", text)
        elif used > BUSY * total:
            yield wrong("gpu", text, "end the process that nvidia-smi shows, or leave that GPU out")
        else:
            yield fine("gpu", text)


def visible(environ: Mapping[str, str], index: str, uuid: str = "") -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves a process that GPU; parts of GPUs (MIG) count as all."""
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None or "MIG-" in value:
        return True
    words = [word.strip() for word in value.split(",")]
    return any(word == index or word.startswith("GPU-") and uuid.startswith(word) for word in words)


CHECKS = (jax_devices, tpu_chips, tpu_lock, gpus)
