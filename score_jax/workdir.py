"""The folder of one run: its paths, the record of what ran in it, and atomic files.

A folder belongs to one config. The same command again goes on in it; another config is refused, and
so is a folder that holds something else. Nothing is ever deleted that the run did not write.
"""

import json
import os
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from score_jax import config as config_module
from score_jax import distributed, workdir_data, workdir_together
from score_jax.types import UserError
from score_jax.workdir_versions import git_state, library_versions

# A run goes on under other values of these: they change where and how it runs, not its numbers.
MAY_CHANGE = (
    "data.dir", "data.prefetch", "data.storage", "data.microbatches", "log.", "checkpoint.",
    "model.remat", "mesh.", "watchdog.",
)  # fmt: skip
# How long a shared file system may take to show one host what another wrote (NFS: up to a minute).
SHARED_SECONDS = 90.0


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
    def programs(self) -> Path:
        return self.path / "compile_cache"

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

    def newest_token(self) -> str | None:
        """What tells the last start of several processes from all others; None without one."""
        history = self._read_run().get("history") or [{}]
        return history[-1].get("token")

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
    data: Mapping[str, str] | None = None,
) -> Workdir:
    """Makes or reopens the folder of a run, and records this start in `run.json`.

    Args:
      path: a folder that does not exist, is empty, or holds a run with the same config.
      config: the resolved config of the run.
      argv: the command line.
      devices: one description a device, for the record.
      primary: whether this process writes; the others only check. All processes come here.
      data: fingerprints of what is trained on, which a run that goes on has to find again.

    Raises:
      UserError: not writable, another config or other data, a folder of something else, or not
        the same folder in all processes.
    """
    if "://" in str(path):
        raise UserError(
            f"--workdir={path} is not a folder of this machine; mount the bucket (gcsfuse) "
            "and give the mounted folder"
        )
    workdir, data = Workdir(Path(path).expanduser().absolute()), data or {}
    if jax.process_count() > 1:
        _open_together(workdir, config, argv, devices, primary, data)
    else:
        _check_owner(workdir, config, data)
        if primary:
            _begin(workdir, config, argv, devices, data)
    return workdir


def _begin(
    workdir: Workdir, config: ConfigDict, argv: Sequence[str], devices: Sequence[str],
    data: Mapping[str, str], **facts: Any,
) -> None:  # fmt: skip
    try:
        workdir.path.mkdir(parents=True, exist_ok=True)
        # First of all: it makes the folder recognisable, and proves that it is writable.
        write_json_atomic(workdir.config, config_module.to_dict(config))
        for folder in (workdir.logs, workdir.checkpoints, workdir.best):
            folder.mkdir(exist_ok=True)
        _record_start(workdir, config, argv, devices, data, **facts)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"workdir {workdir.path} is not writable ({reason}); use another --workdir"
        ) from error


def _open_together(
    workdir: Workdir, config: ConfigDict, argv: Sequence[str], devices: Sequence[str],
    primary: bool, data: Mapping[str, str],
) -> None:  # fmt: skip
    """One process writes; the others see that it was in this very folder.

    Before the first collective, which waits less than a file system may take.
    """
    hosts = workdir_together.meet(config, data)
    token, failure = secrets.token_hex(8), None
    if primary:
        try:
            _check_owner(workdir, config, data)
            facts = dict(processes=len(hosts), hosts=hosts, token=token)
            _begin(workdir, config, argv, devices, data, **facts)
        except UserError as error:
            failure = error
    token = distributed.from_primary("" if failure else token, what=workdir_together.OPEN)
    if failure:
        raise failure
    if not token:
        raise UserError(f"process 0 on {hosts[0]} could not open --workdir; its line says why")
    deadline = time.monotonic() + SHARED_SECONDS
    while workdir.newest_token() != token:
        if time.monotonic() > deadline:
            raise UserError(
                f"process {jax.process_index()} on {platform.node()} does not see "
                f"{workdir.path} of process 0 on {hosts[0]}; --workdir must be on a file system "
                "that all hosts share"
            )
        time.sleep(0.2)
    distributed.meet("see the run's folder")


def find_workdir(path: str | os.PathLike[str]) -> Workdir:
    """The folder of an existing run.

    Raises:
      UserError: there is no run in it.
    """
    workdir = Workdir(Path(path).expanduser().absolute())
    workdir.read_config()
    return workdir


def _check_owner(workdir: Workdir, config: ConfigDict, data: Mapping[str, str]) -> None:
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
        workdir_data.check(workdir.path, workdir_data.noted(workdir._read_run(), data), data)
    elif workdir.path.is_dir():
        entries = sorted(e.name for e in workdir.path.iterdir() if not e.name.endswith(".tmp"))
        if entries:
            raise UserError(
                f"workdir {workdir.path} is not the folder of a run and not empty (it holds "
                f"{', '.join(entries[:3])}{', ...' if len(entries) > 3 else ''}); "
                "use a new --workdir"
            )


def _record_start(
    workdir: Workdir, config: ConfigDict, argv: Sequence[str], devices: Sequence[str],
    data: Mapping[str, str], **facts: Any,
) -> None:  # fmt: skip
    before = workdir._read_run()
    start = dict(start=_now(), argv=list(argv), host=platform.node(), pid=os.getpid(), **facts)
    workdir.record(
        argv=before.get("argv", list(argv)),
        config=config_module.to_dict(config),
        data_fingerprints=workdir_data.noted(before, data),
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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
