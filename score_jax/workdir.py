"""The folder of one run: its paths, the record of what ran in it, and atomic files.

A folder belongs to one config. The same command again goes on in it; another config is refused, and
so is a folder that holds something else. Nothing is ever deleted that the run did not write.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_jax import config as config_module
from score_jax.types import UserError

LIBRARIES = (
    "score_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets",
    "array_record", "grain", "ml_collections", "numpy", "safetensors", "torch", "pyautoattack",
)  # fmt: skip
# A run goes on under other values of these: they change where and how it runs, not its numbers.
MAY_CHANGE = (
    "data.dir", "data.prefetch", "data.microbatches", "log.", "checkpoint.", "model.remat", "mesh.",
    "watchdog.",
)  # fmt: skip


@dataclass(frozen=True)
class Workdir:
    """The paths of one run, and its record `run.json`."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints_best"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def eval(self, name: str) -> Path:
        """The folder of one evaluation."""
        return self.path / "eval" / name

    def log(self, process: int) -> Path:
        """The log file of one host."""
        return self.logs / f"host-{process:04d}.log"

    def read_config(self) -> ConfigDict:
        """The config that this folder belongs to; what an older version did not write, by default.

        Raises:
          UserError: `config.json` is not there or not readable.
        """
        try:
            config = config_module.from_json(self.config.read_text())
            return config_module.with_defaults(config)
        except FileNotFoundError:
            raise UserError(
                f"workdir {self.path} is not the folder of a run: it has no config.json; "
                "give the --workdir of `score-jax train`"
            ) from None
        except ValueError as error:
            raise UserError(f"{self.config} is not the config of a run: {error}") from None

    def record(self, **fields: Any) -> None:
        """Sets fields of `run.json`, such as `devices` known only after start."""
        write_json_atomic(self.run, {**self._read_run(), **fields})

    def stop(self, outcome: str, **fields: Any) -> None:
        """Ends the last entry of the history: 'finished', 'stopped' or 'failed'."""
        record = self._read_run()
        if record.get("history"):
            record["history"][-1].update(stop=_now(), outcome=outcome, **fields)
        write_json_atomic(self.run, record)

    def _read_run(self) -> dict[str, Any]:
        try:
            return json.loads(self.run.read_text())
        except (FileNotFoundError, ValueError):
            return {}


def open_workdir(
    path: str | os.PathLike[str],
    config: ConfigDict,
    argv: Sequence[str],
    *,
    devices: Sequence[str] = (),
    primary: bool = True,
) -> Workdir:
    """Makes or reopens the folder of a run, and records this start in `run.json`.

    Args:
      path: a folder that does not exist, is empty, or holds a run with the same config.
      config: the resolved config of the run.
      argv: the command line.
      devices: one description a device, for the record.
      primary: whether this process writes; the others only check.

    Raises:
      UserError: not writable, another config, or a folder of something else.
    """
    if "://" in str(path):
        raise UserError(
            f"--workdir={path} is not a folder of this machine; mount the bucket (gcsfuse) "
            "and give the mounted folder"
        )
    workdir = Workdir(Path(path).expanduser().absolute())
    _check_owner(workdir, config)
    if not primary:
        return workdir
    try:
        workdir.path.mkdir(parents=True, exist_ok=True)
        # First of all: it makes the folder recognisable, and proves that it is writable.
        write_json_atomic(workdir.config, config_module.to_dict(config))
        for folder in (workdir.logs, workdir.checkpoints, workdir.best):
            folder.mkdir(exist_ok=True)
        _record_start(workdir, config, argv, devices)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"workdir {workdir.path} is not writable ({reason}); use another --workdir"
        ) from error
    return workdir


def find_workdir(path: str | os.PathLike[str]) -> Workdir:
    """The folder of an existing run.

    Raises:
      UserError: there is no run in it.
    """
    workdir = Workdir(Path(path).expanduser().absolute())
    workdir.read_config()
    return workdir


def _check_owner(workdir: Workdir, config: ConfigDict) -> None:
    if workdir.config.exists():
        there = config_module.to_dict(workdir.read_config())
        other = [
            line
            for line in config_module.differences(there, config_module.to_dict(config))
            if not line.startswith(MAY_CHANGE)
        ]
        if other:
            more = f", and {len(other) - 4} more" if len(other) > 4 else ""
            raise UserError(
                f"workdir {workdir.path} holds a run with another config ({', '.join(other[:4])}"
                f"{more}); use a new --workdir"
            )
    elif workdir.path.is_dir():
        entries = sorted(e.name for e in workdir.path.iterdir() if not e.name.endswith(".tmp"))
        if entries:
            raise UserError(
                f"workdir {workdir.path} is not the folder of a run and not empty (it holds "
                f"{', '.join(entries[:3])}{', ...' if len(entries) > 3 else ''}); "
                "use a new --workdir"
            )


def _record_start(
    workdir: Workdir, config: ConfigDict, argv: Sequence[str], devices: Sequence[str]
) -> None:
    before = workdir._read_run()
    start = dict(start=_now(), argv=list(argv), host=platform.node(), pid=os.getpid())
    workdir.record(
        argv=before.get("argv", list(argv)),
        config=config_module.to_dict(config),
        git=git_state(),
        versions=library_versions(),
        python=platform.python_version(),
        devices=list(devices),
        history=[*before.get("history", []), start],
    )


def write_json_atomic(path: Path, data: Mapping[str, Any]) -> None:
    """Writes JSON so that `path` holds the old text or the new one, never a part.

    Raises:
      ValueError: a number is not finite, which JSON cannot say.
    """
    write_text_atomic(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text_atomic(path: Path, text: str) -> None:
    """Writes text so that `path` holds the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def library_versions() -> dict[str, str]:
    """The installed version of every library a number may depend on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state() -> dict[str, Any] | None:
    """The commit of this source tree and whether files differ from it; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return run.stdout.strip()

    try:
        return dict(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
