"""Which process of how many this one is: from flags, variables, SLURM, or a TPU's own metadata.

Reads the environment and nothing else (on a Cloud TPU VM also its metadata server): no process is
contacted and no device asked for.
"""

import dataclasses
import glob
import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from score_jax.types import UserError

KINDS = ("auto", "none", "slurm", "tpu", "gke")
FLAGS = ("coordinator", "num_processes", "process_id")
# Read where a flag is not given; launch/ sets them where a manifest is easier than a flag.
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TPU_PORT = 8482  # As JAX's own detection has it.
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The place of one process in a run of several.

    Attributes:
      coordinator: HOST:PORT of process 0.
      num_processes, process_id: as JAX counts them.
      source: who said so, for messages.
      local_devices: the GPUs of this process; None: all that it sees.
    """

    coordinator: str
    num_processes: int
    process_id: int
    source: str
    local_devices: tuple[int, ...] | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def __str__(self) -> str:
        return f"process {self.process_id} of {self.num_processes}"


def read_metadata(key: str) -> str:
    """An attribute of this Cloud TPU VM; '' where there is none, or no metadata server."""
    request = urllib.request.Request(METADATA + key, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError):
        return ""


def has_tpu(environ: Mapping[str, str]) -> bool:
    """Has this machine TPU chips that JAX will use?"""
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms:
        return False
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def count_gpus(environ: Mapping[str, str]) -> int:
    """The NVIDIA GPUs that this process may use, without asking their driver."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def find(
    environ: Mapping[str, str],
    *,
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    kind: str = "auto",
    metadata: Callable[[str], str] = read_metadata,
    is_tpu: Callable[[Mapping[str, str]], bool] = has_tpu,
    gpus: Callable[[Mapping[str, str]], int] = count_gpus,
) -> Cluster | None:
    """The place of this process; None where it is alone.

    Args:
      coordinator, num_processes, process_id: flags; '', 0 and -1 where not given. They go before
        the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and those
        before what the cluster says.
      kind: one of KINDS.
      metadata, is_tpu, gpus: what tells of the machine.

    Raises:
      UserError: contradictions, something missing, or `kind` is not where this process runs.
    """
    if kind not in KINDS:
        raise UserError(f"--cluster={kind} is not known; use one of {', '.join(KINDS)}")
    flags = (coordinator, num_processes or None, process_id if process_id >= 0 else None)
    names = [f"--{name}" for name, value in zip(FLAGS, flags, strict=True) if value]
    if kind == "none":
        if num_processes > 1 or coordinator:
            raise UserError(f"--cluster=none and {names[0]}: leave one of them out")
        return None
    given = _given(environ, flags)
    if given["num_processes"] == 1 and kind == "auto":
        _check_range(given["process_id"] or 0, 1)
        return None
    if kind == "auto" and None not in given.values():
        found = Cluster(**given, source="flags" if names else "JAX_* variables")
    else:
        found = _detect(environ, kind, metadata, is_tpu, gpus)
        if found is None and any(value is not None for value in given.values()):
            missing = [
                f"--{name} (or {variable})"
                for name, variable in zip(FLAGS, VARIABLES, strict=True)
                if given[name] is None
            ]
            raise UserError(
                f"{_shown(given)} needs {' and '.join(missing)} too; a run of several processes "
                "has all three"
            )
        if found is not None:
            known = {name: value for name, value in given.items() if value is not None}
            found = dataclasses.replace(found, **known)
    if found is None or found.num_processes == 1:
        return None
    _check_range(found.process_id, found.num_processes)
    _check_address(found.coordinator)
    return found


def check_alone(environ: Mapping[str, str], what: str, remedy: str) -> None:
    """Refuses what each of several processes would do whole, in one folder.

    Raises:
      UserError: this is one process of several.
    """
    if found := find(environ):
        raise UserError(
            f"{what} is run by one process, and this is {found} ({found.source}); {remedy}"
        )


def _given(environ: Mapping[str, str], flags: tuple) -> dict:
    """The three values by name: of flags, else of variables, else None."""
    values = dict(zip(FLAGS, flags, strict=True))
    for name, variable in zip(FLAGS, VARIABLES, strict=True):
        text = environ.get(variable, "")
        if values[name] in (None, ""):
            values[name] = _integer(text, variable) if name != "coordinator" and text else text
        values[name] = None if values[name] == "" else values[name]
    return values


def _shown(given: dict) -> str:
    return " ".join(f"--{name}={value}" for name, value in given.items() if value is not None)


def _integer(text: str, name: str) -> int:
    if not text.strip().isdecimal():
        raise UserError(f"{name}={text} is not a count; unset it, or set it to a whole number")
    return int(text)


def _check_range(process_id: int, num_processes: int) -> None:
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} is not below --num_processes={num_processes}; processes "
            f"are counted from 0 to {num_processes - 1}"
        )


def _check_address(coordinator: str) -> None:
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(
            f"--coordinator={coordinator} has no port; write HOST:PORT, such as "
            f"{host or coordinator.strip(':') or 'node001'}:12355, the same for all processes"
        )


def _detect(
    environ: Mapping[str, str],
    kind: str,
    metadata: Callable[[str], str],
    is_tpu: Callable[[Mapping[str, str]], bool],
    gpus: Callable[[Mapping[str, str]], int],
) -> Cluster | None:
    if kind == "slurm" or (kind == "auto" and in_srun(environ)):
        return _slurm(environ, gpus)
    if kind == "gke" or (kind == "auto" and _tpu_hosts(environ) and is_tpu(environ)):
        return _gke(environ)
    if kind == "tpu" or (kind == "auto" and is_tpu(environ)):
        return _tpu_vm(environ, metadata, must=kind == "tpu")
    return None


def in_srun(environ: Mapping[str, str]) -> bool:
    """Is this one task of several that `srun` started?

    The shell of an sbatch script, and one that came by ssh or salloc, has SLURM_NTASKS and even
    SLURM_PROCID=0, but is alone: only srun tells the tasks of a step.
    """
    return environ.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in environ


def _slurm(environ: Mapping[str, str], gpus: Callable[[Mapping[str, str]], int]) -> Cluster:
    needed = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
    missing = [name for name in needed if not environ.get(name)]
    if missing:
        raise UserError(
            f"--cluster=slurm, but {missing[0]} is not set: this is not a task of srun; start it "
            "as `srun score-jax ...`, or leave --cluster out"
        )
    tasks, task, job, step = (
        _integer(environ.get(name, "0"), name)
        for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_ID")
    )
    # Beyond the ports that the kernel hands out by itself; another one for each step of a job.
    port = environ.get("JAX_COORDINATOR_PORT") or str(61440 + (job + 97 * step) % 4096)
    return Cluster(
        coordinator=f"{first_host(environ['SLURM_STEP_NODELIST'])}:{port}",
        num_processes=tasks,
        process_id=task,
        source=f"SLURM job {job}",
        local_devices=_share_of_gpus(environ, gpus(environ)),
    )


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: 'rack[1-2]n[03-09],login' -> 'rack1n03'."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[([^\]\-,]+)[^\]]*\]", r"\1", first)


def _share_of_gpus(environ: Mapping[str, str], gpus: int) -> tuple[int, ...] | None:
    """Equal shares where several tasks see the same GPUs; None where each sees its own."""
    here = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    tasks, local = int(here[0]) if here else 1, int(environ.get("SLURM_LOCALID", "0"))
    if tasks == 1 or gpus < tasks or local >= tasks:
        return None
    share = gpus // tasks
    return tuple(range(local * share, (local + 1) * share))


def _tpu_hosts(environ: Mapping[str, str]) -> list[str]:
    text = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES", "")
    return [host.strip() for host in text.split(",") if host.strip()]


def _gke(environ: Mapping[str, str]) -> Cluster:
    hosts = _tpu_hosts(environ)
    if not hosts or "TPU_WORKER_ID" not in environ:
        raise UserError(
            "--cluster=gke, but TPU_WORKER_HOSTNAMES or TPU_WORKER_ID is not set: GKE sets them in "
            "pods that ask for google.com/tpu; look at the manifest"
        )
    worker = _integer(environ["TPU_WORKER_ID"], "TPU_WORKER_ID")
    return _of_slices(environ.get, hosts, worker, "GKE")


def _tpu_vm(
    environ: Mapping[str, str], metadata: Callable[[str], str], *, must: bool
) -> Cluster | None:
    worker, endpoints = metadata("agent-worker-number"), metadata("worker-network-endpoints")
    if not (worker.strip().isdecimal() and endpoints):
        if must:
            raise UserError(
                "--cluster=tpu, but the metadata of this machine name no TPU workers: it is no "
                "Cloud TPU VM; use --coordinator, --num_processes and --process_id"
            )
        return None
    facts = dict(re.findall(r"^\s*(\w+)\s*:\s*'?(.*?)'?\s*$", metadata("tpu-env"), re.MULTILINE))
    # Of each worker its address, or name:id:address.
    hosts = [entry.strip().rpartition(":")[2] for entry in endpoints.split(",")]
    return _of_slices(
        lambda name, default="": environ.get(name) or facts.get(name, default),
        hosts, int(worker), "TPU VM",
    )  # fmt: skip


def _of_slices(
    value: Callable[[str, str], str], hosts: list[str], worker: int, source: str
) -> Cluster:
    """Workers of one slice or of several: counted slice by slice, as JAX does it."""
    slices = _integer(value("MEGASCALE_NUM_SLICES", "") or "1", "MEGASCALE_NUM_SLICES")
    number = _integer(value("MEGASCALE_SLICE_ID", "") or "0", "MEGASCALE_SLICE_ID")
    host = (value("MEGASCALE_COORDINATOR_ADDRESS", "") or hosts[0]).partition(":")[0]
    port = value("JAX_COORDINATOR_PORT", "") or TPU_PORT
    return Cluster(
        coordinator=f"{host}:{port}",
        num_processes=slices * len(hosts),
        process_id=number * len(hosts) + worker,
        source=source if slices == 1 else f"{source}, {slices} slices",
    )
