"""The sweep job: trains, exports and judges every setting of a recipe, and compares them.

Each setting runs in a process of its own: one that fails does not stop the others, and its memory
is free when it ends. The same command again goes on where each one stopped.
"""

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from score_jax import (
    control_groups,
    distributed_cluster,
    mesh,
    overrides,
    sweep_kinds,
    sweep_stages,
    workdir_lock,
)
from score_jax.config_rules_data import generated_sets
from score_jax.data import sources
from score_jax.distributed_peers import RESTART
from score_jax.overrides import Setting
from score_jax.stopping import interrupted_by_sigterm
from score_jax.sweep_settings import Sweep
from score_jax.types import UserError

LOGGER = logging.getLogger("score_jax")
# Two methods on two cores took 96 seconds side by side with one thread each, 124 one by one.
SINGLE_THREADED = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
}
POLL = 0.2
STARTS = 4  # Of a setting that asks to be started again.
MOST_JOBS = 4  # Each takes a gigabyte of memory.
PATIENCE = 120.0  # Seconds that a setting has to save when it is asked to stop.


def default_jobs() -> int:
    """One a core, up to `MOST_JOBS`, where there is nothing else to compute on, or JAX is told not
    to; 1 elsewhere: the processes would fight for the accelerator."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    is_cpu = platforms == "cpu" if platforms else not mesh.has_accelerator()
    return min(control_groups.cores(), MOST_JOBS) if is_cpu else 1


def run(sweep: Sweep, jobs: int = 0) -> str:
    """Runs all settings and returns their table, also written to files beside the runs.

    Args:
      jobs: how many settings run at a time; 0: `default_jobs`.

    Raises:
      UserError: a setting that cannot be, or missing data, before anything runs; or some failed,
        after all the others are done and the table is printed.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when every running setting has stopped.
    """
    _check_alone()
    settings, kind = sweep.settings(), sweep_kinds.of(sweep)
    _have_data([sweep.config(setting) for setting in settings])
    logs = Path(sweep.workdir) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    ended = contextlib.closing(_ended(sweep, settings, logs, jobs or default_jobs()))
    with interrupted_by_sigterm(), ended as children:
        for number, (setting, code) in enumerate(children, 1):
            if code:
                failures[setting.name] = _last_line(logs / f"{setting.name}.log")
            told = kind.tell(sweep, setting, failures)
            LOGGER.info("[%d/%d] %s", number, len(settings), told)
    table = kind.write(sweep, failures)
    if failures:
        print(table)
        raise UserError(
            f"{len(failures)} of {len(settings)} settings failed: {', '.join(failures)}; see "
            f"{logs}; the same command tries them again"
        )
    return table


def _check_alone() -> None:
    """Refuses to begin as one process of several: each would run the whole sweep in one folder."""
    distributed_cluster.check_alone(
        os.environ,
        "a sweep",
        "train one setting a job with score-jax train --sweep_index=I (--sweep of the launchers), "
        "then give this command to a single process: it goes on with what is trained",
    )


def _have_data(configs: Sequence[Any]) -> None:
    """Prepares the datasets that come with a library, and refuses to begin without the others."""
    from score_jax import prepare

    for name, folder in {
        (name, config.data.dir)
        for config in configs
        for name in (config.data.name, *generated_sets(config.data.generated))
    }:
        if sources.find(name, folder) is None:
            if name not in sources.DATASETS or sources.DATASETS[name].example_source:
                sources.read_split(name, "train", folder)
            else:
                prepare.prepare(name, data_dir=folder)


def run_setting(sweep: Sweep, index: int) -> str:
    """Runs the stages of one setting that are not done, in this process; returns its folder."""
    from score_jax import export, train

    _check_alone()
    setting, kind = sweep.setting(index), sweep_kinds.of(sweep)
    folder, config = sweep.folder(setting), sweep.config(setting)
    folder.mkdir(parents=True, exist_ok=True)
    with interrupted_by_sigterm(), workdir_lock.held(folder):
        if not sweep_stages.is_trained(folder, config):
            train.train(config, str(folder))
        if not sweep_stages.is_exported(folder, kind.checkpoint):
            export.export(str(folder), checkpoint=kind.checkpoint)
        kind.judge(sweep, setting)
    return str(folder)


def _ended(
    sweep: Sweep, settings: Sequence[Setting], logs: Path, jobs: int
) -> Iterator[tuple[Setting, int]]:
    """Runs each setting in a child process, `jobs` at a time; yields those that ended.

    Closed early, it asks the children to stop and waits for them.
    """
    environment = _environment(jobs)
    waiting = [(index, 1) for index in range(len(settings))]
    running: list[tuple[int, int, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                index, start = waiting.pop(0)
                log_file = logs / f"{settings[index].name}.log"
                with log_file.open("wb" if start == 1 else "ab") as log:
                    # A session of its own: Ctrl-C reaches this process alone, which passes it on.
                    child = subprocess.Popen(
                        sweep.command(index), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                        env=environment, start_new_session=True,
                    )  # fmt: skip
                running.append((index, start, child))
            time.sleep(POLL)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                running.remove(entry)
                index, start, child = entry
                if child.returncode == RESTART and start < STARTS:
                    LOGGER.info("%s asks to be started again", settings[index].name)
                    waiting.insert(0, (index, start + 1))
                else:
                    yield settings[index], child.returncode
    finally:
        _stop([child for _, _, child in running])


def _stop(children: Sequence[subprocess.Popen[bytes]]) -> None:
    try:
        for child in children:
            child.terminate()
        deadline = time.monotonic() + PATIENCE
        for child in children:
            child.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        LOGGER.warning("a setting did not stop within %.0f seconds; it is ended", PATIENCE)
    finally:  # After a second Ctrl-C, too.
        for child in children:
            child.kill()


def _environment(jobs: int) -> dict[str, str]:
    environment = dict(os.environ)
    paths = [str(overrides.ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if jobs > 1:
        flags = [environment.get("XLA_FLAGS", ""), SINGLE_THREADED["XLA_FLAGS"]]
        environment |= SINGLE_THREADED | {"XLA_FLAGS": " ".join(filter(None, flags))}
    return environment


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
