"""What is missing of a row of the table: each measurement as a command and as the same call."""

import itertools
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from score_jax import config as config_module
from score_jax import evaluate, report_run, workdir_lock
from score_jax.analysis import finding, lipschitz_job, table
from score_jax.analysis.table import SPLITS, STEPS, STEPS_PER_EPS, Protocol
from score_jax.command_line_flags import FLAGS
from score_jax.report_run import Run
from score_jax.writers import LOGGER

NAME = f"pgd{STEPS}-table"  # Of the evaluations made here: WORKDIR/eval/NAME.
SLOPES = "lipschitz_table"  # Of the constants: WORKDIR/analysis/NAME.json.


@dataclass(frozen=True)
class Task:
    """One measurement."""

    command: str
    do: Callable[[], Any]


def missing(run: Run, protocol: Protocol) -> list[Task]:
    """What is to be measured of an exported run before its row is whole.

    Without an L∞ radius to search within, no Lipschitz constant is.
    """
    tasks = [
        _evaluate(run, split, protocol)
        for split in SPLITS
        if not table.evaluation(run, split, protocol)
    ]
    if run.config["norm"] == "linf" and not table.slopes(run, protocol):
        tasks.append(_lipschitz(run, protocol))
    return tasks


def measure(runs: Sequence[Run], protocol: Protocol) -> None:
    """Measures what is missing of the exported ones among these runs, into their own folders.

    Raises:
      UserError: another process is at one of the runs, and goes on.
    """
    counts = [len(missing(run, protocol)) if run.model else 0 for run in runs]
    for place, (run, count) in enumerate(zip(runs, counts, strict=True)):
        if not count:
            continue
        folder = run.workdir.path
        with workdir_lock.held(folder):
            # As it is now: another table may have measured it meanwhile.
            tasks = missing(report_run.read(folder), protocol)
            for number, task in enumerate(tasks, 1 + sum(counts[:place])):
                LOGGER.info("[%d/%d] %s", number, sum(counts), task.command)
                task.do()


def commands(run: Run, protocol: Protocol) -> list[str]:
    """What to type for what is missing of a run."""
    if not run.model:
        folder = str(run.workdir.path)
        return [_command("export", dict(workdir=folder, checkpoint="last"))]
    return [task.command for task in missing(run, protocol)]


def _evaluate(run: Run, split: str, protocol: Protocol) -> Task:
    """Accuracy, clean and attacked."""
    folder, eps = str(run.workdir.path), protocol.radius(run)
    asked: dict[str, Any] = dict(
        data_dir=protocol.data_dir, split=split, num_examples=protocol.count(run, split),
        batch_size=protocol.batch_size, eps=protocol.eps, attack="pgd", steps=STEPS,
        step_size=eps / STEPS_PER_EPS, eps_curve=False, seed=protocol.seed,
        name=_free_name(
            NAME + ("-train" if split == "train" else ""), run.workdir.eval
        ),
    )  # fmt: skip
    command = _command("evaluate", dict(workdir=folder) | asked)
    return Task(command, lambda: evaluate.evaluate(folder, **asked))


def _lipschitz(run: Run, protocol: Protocol) -> Task:
    """The local Lipschitz constant on both splits."""
    asked: dict[str, Any] = dict(
        data_dir=protocol.data_dir, num_examples=protocol.num_examples, seed=protocol.seed,
        batch_size=protocol.batch_size, eps=protocol.eps,
    )  # fmt: skip
    folder = run.workdir
    out = folder.path / "analysis"

    def measure():
        started = time.monotonic()
        found = lipschitz_job.measure(str(folder.export), **asked)
        found = replace(found, name=_free_name(SLOPES, lambda name: out / f"{name}.json"))
        seconds = round(time.monotonic() - started, 3)
        finding.write(out, "lipschitz", found, seconds)

    return Task(_command("analyze lipschitz", dict(workdir=str(folder.path)) | asked), measure)


def _free_name(stem: str, path_of: Callable[[str], Path]) -> str:
    """A name that no measurement of the run has, so that none is written over."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(name for name in names if not path_of(name).exists())


def _command(job: str, flags: Mapping[str, Any]) -> str:
    return shlex.join(["score-jax", *job.split(), *_words(flags)])


def _words(flags: Mapping[str, Any]) -> Iterator[str]:
    """As a command line has them; what is so by default is left out."""
    for name, value in flags.items():
        written = config_module.write_eps(value) if isinstance(value, float) else value
        if isinstance(value, bool):
            yield f"--{'' if value else 'no'}{name}"
        elif written not in (None, FLAGS[name][1]):
            yield f"--{name}={written}"
