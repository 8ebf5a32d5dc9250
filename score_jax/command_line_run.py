"""What a command line says of a run: its folder, its exported model, its radius; how it ends."""

import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from score_jax.command_line import Call, UsageError


def workdir_of(call: Call) -> str:
    """The --workdir of a job that needs one."""
    if not call.workdir:
        raise UsageError("--workdir=DIR is needed: the folder of the run")
    return call.workdir


def artifact_of(call: Call) -> str:
    """The --artifact of a call, or else the export of its run."""
    if call.artifact:
        return call.artifact
    export = Path(workdir_of(call)) / "export"
    if not export.is_dir():
        remedy = f"score-jax export --workdir={shlex.quote(call.workdir)}"
        raise UsageError(f"{export} does not exist; make it with: {remedy}")
    return str(export)


def radius_of(call: Call, artifact: str, norm: str = "") -> float | None:
    """The --eps of a call, checked against the norm that the artifact was trained for."""
    from score_jax import config_rules

    if not call.eps:
        return None
    eps = number_of(call, "eps")
    config_rules.check_eps(eps, norm or _trained_norm(artifact), "--eps")
    return eps


def number_of(call: Call, flag: str) -> float:
    """What a flag writes, such as 8/255."""
    from score_jax import overrides

    text = getattr(call, flag)
    try:
        return overrides.parse_number(text)
    except ValueError:
        raise UsageError(f"--{flag}={text} is not a number such as 8/255") from None


def _trained_norm(artifact: str) -> str:
    """The norm in model.json; '' where that is not readable, which reading the artifact refuses."""
    try:
        facts = json.loads((Path(artifact) / "model.json").read_text())
    except (OSError, ValueError):
        return ""
    return facts.get("norm", "") if isinstance(facts, dict) else ""


def quiet_runtime(call: Call) -> None:
    """Keeps jaxlib's own lines out of a run of several processes; read when jaxlib is loaded.

    On losing a process it writes a page, where `distributed` tells the same in one line.
    """
    counts = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "MEGASCALE_NUM_SLICES")
    if (
        call.num_processes > 1
        or any(os.environ.get(name, "1") not in ("", "1") for name in counts)
        or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    ):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def show(result: Any) -> None:
    """Prints what a job hands back: text, lines, or named facts."""
    if isinstance(result, str | Path):
        print(result)
    elif isinstance(result, dict):
        print(json.dumps(result, indent=2, default=str))
    elif isinstance(result, list | tuple):
        for entry in result:
            print(entry)


def tell_end(line: str) -> None:
    """Prints the line that a job ends with; the log files of its run get it too."""
    print(line, file=sys.stderr)
    _keep(line)


def keep_trace(label: str) -> None:
    """Writes the traceback of the error at hand to the log files of the run."""
    _keep(f"{label}: an error that nobody foresaw", is_traced=True)


def _keep(line: str, is_traced: bool = False) -> None:
    record = logging.getLogger("score_jax").makeRecord(
        "score_jax", logging.ERROR, __file__, 0, line, (), sys.exc_info() if is_traced else None
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
