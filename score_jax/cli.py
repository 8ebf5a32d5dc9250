"""The door: `score-jax <job>`, the same as `python -m score_jax <job>`.

A job here does no work: it hands its flags to the module that does. Those modules load jax, so they
are imported inside the job, and `--help` answers at once.
"""

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_jax.analysis.jobs import ANALYZE
from score_jax.command_line import (
    Call,
    Job,
    UsageError,
    describe,
    overview,
    parse,
    suggest,
)
from score_jax.command_line_flags import CLUSTER, JUDGED
from score_jax.command_line_run import (
    artifact_of,
    keep_trace,
    number_of,
    quiet_runtime,
    radius_of,
    show,
    tell_end,
    workdir_of,
)
from score_jax.compare_job import COMPARE
from score_jax.doctor_job import DOCTOR
from score_jax.interop_job import IMPORT
from score_jax.official_autoattack_job import AUTOATTACK
from score_jax.plan_job import PLAN
from score_jax.prepare_job import DATA
from score_jax.submit_job import SUBMIT
from score_jax.trust_job import TRUST

FAILED = 1
REFUSED = 2  # The exit code of everything that the user can act on.
INTERRUPTED = 130
# Libraries that only some jobs need, and the extra that brings them.
EXTRAS = {
    "torch": "torch",
    "pyautoattack": "torch",
    "matplotlib": "plots",
    "sklearn": "quickstart",
    "tensorboardX": "logs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one job and returns the exit code; tells in one line what the user can act on."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    label = "score-jax"
    try:
        if not arguments or arguments[0] in ("--help", "-h", "help"):
            print(overview(JOBS))
            return 0 if arguments else REFUSED
        name, *rest = arguments
        if name not in JOBS:
            raise UsageError(f"unknown job {name!r}; {suggest(name, JOBS)}")
        label = f"score-jax {name}"
        if any(word in ("--help", "-h") for word in rest):
            print(describe(name, JOBS[name], [word for word in rest if not word.startswith("-")]))
            return 0
        return _run(label, JOBS[name], parse(name, JOBS[name], rest))
    except UsageError as error:
        return _end(_refuse(label, error), str(error))
    except KeyboardInterrupt:
        tell_end(f"{label}: interrupted")
        return _end(INTERRUPTED, "interrupted")


def _run(label: str, job: Job, call: Call) -> int:
    cluster = {flag: getattr(call, flag) for flag in CLUSTER if flag in job.flags and job.joins}
    if cluster and call.log_level != "debug":
        quiet_runtime(call)
    from score_jax import distributed, runtime_failures, writers
    from score_jax.types import TemporaryFailure, UserError

    try:
        writers.start_logging(call.log_level)
        with distributed.start(**cluster) if cluster else contextlib.nullcontext():
            writers.CONSOLE.process = distributed.process_index()
            result = job.run(call)
            if writers.CONSOLE.process == 0:
                show(result)
        return 0
    except (UserError, OSError) as error:
        # An OSError says which file and why: no space, read-only, not permitted.
        if call.log_level == "debug":
            traceback.print_exc()
        return _end(_refuse(label, error), str(error))
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            keep_trace(label)
            raise
        remedy = f"pip install 'score_jax[{EXTRAS[error.name]}]'"
        return _end(_refuse(label, f"this job needs {error.name}; {remedy}"), remedy)
    except Exception as error:
        failure = distributed.peer_failure(error)
        if failure:
            _refuse(label, failure)
            return _end(distributed.RESTART, failure)
        told = runtime_failures.describe(error)
        if told and (cluster or told[0] == REFUSED or isinstance(error, TemporaryFailure)):
            if call.log_level == "debug":
                traceback.print_exc()
            keep_trace(label)
            _refuse(label, told[1])
            return _end(*told)
        keep_trace(label)
        if not distributed.is_several():
            raise
        traceback.print_exc()
        return _end(FAILED, f"{type(error).__name__}: {error}")


def _end(code: int, message: str) -> int:
    """The exit code; one process of several ends right here, and tells the others."""
    distributed = sys.modules.get("score_jax.distributed")
    return distributed.leave(code, message) if distributed else code


def _refuse(label: str, error: Exception | str) -> int:
    tell_end(f"{label}: {' '.join(str(error).split())}")
    return REFUSED


def _sweep_of(call: Call, folder: str = "") -> Any:
    """What the `sweep()` of the recipe of a call yields."""
    if not call.config:
        raise UsageError("--config=PATH is needed: the recipe whose sweep() is meant")
    from score_jax.sweep_settings import Sweep

    return Sweep(
        recipe=call.config,
        workdir=folder or workdir_of(call),
        overrides=call.overrides,
        data_dir=call.data_dir,
    )


def _train(call: Call) -> Any:
    from score_jax import config, distributed, overrides, recipes, workdir, writers

    if call.list_sweep:
        return _sweep_of(call).train_commands()
    recipe, folder = call.config, workdir_of(call)
    changes = [f"data.dir={call.data_dir}"] if call.data_dir else []
    changes += call.overrides
    if call.sweep_index >= 0:
        sweep = _sweep_of(call)
        setting = sweep.setting(call.sweep_index)
        recipe, folder, changes = setting.recipe, sweep.folder(setting), sweep.changes(setting)
    if recipe:
        resolved = recipes.load(recipe, changes)
    elif (Path(folder) / "config.json").exists():
        resolved = overrides.apply(workdir.find_workdir(folder).read_config(), changes)
    else:
        raise UsageError("--config=PATH[:ARG] is needed, such as configs/cifar10_score.py")
    from score_jax.data import sources

    train_size = sources.train_size(resolved.data.name, resolved.data.dir)
    warnings = config.validate(resolved, train_size=train_size)
    if distributed.process_index() == 0:
        for warning in warnings:
            writers.LOGGER.warning(warning)
        for line in config.describe(resolved):
            writers.LOGGER.info(line)
    from score_jax import train

    return train.train(resolved, str(folder), keeps_programs=True)


def _sweep(call: Call) -> Any:
    from score_jax import sweep, sweep_kinds

    stem = Path(call.config.partition(":")[0]).stem
    whole = _sweep_of(call, call.workdir or f"runs/{stem}")
    settings = dataclasses.replace(
        whole,
        num_examples=call.num_examples or sweep_kinds.of(whole).num_examples,
        backend=call.backend,
    )
    if call.sweep_index >= 0:
        return sweep.run_setting(settings, call.sweep_index)
    return sweep.run(settings, call.jobs)


def _list(call: Call) -> Any:
    if len(call.words) > 1:
        raise UsageError("write score-jax list, or score-jax list SECTION, such as: list methods")
    from score_jax import catalog

    return catalog.describe(*call.words)


def _evaluate(call: Call) -> Any:
    artifact = artifact_of(call)
    eps = radius_of(call, artifact)
    from score_jax import evaluate

    return evaluate.evaluate(
        artifact,
        data_dir=call.data_dir,
        num_examples=call.num_examples,
        batch_size=call.batch_size,
        eps=eps,
        split=call.split,
        attack=call.attack,
        steps=None if call.steps == -1 else call.steps,
        step_size=number_of(call, "step_size") if call.step_size else None,
        restarts=None if call.restarts == -1 else call.restarts,
        eps_curve=call.eps_curve,
        name=call.name,
        seed=call.seed,
    )


def _export(call: Call) -> Any:
    folder = workdir_of(call)
    from score_jax import export

    return export.export(folder, checkpoint=call.checkpoint, weights=call.weights)


def _report(call: Call) -> Any:
    if call.table:
        from score_jax import report_table

        return report_table.compare(call.table, call.workdir)
    folder = workdir_of(call)
    from score_jax import report

    return report.report(folder, beside=tuple(call.beside), data_dir=call.data_dir)


JOBS = {
    "train": Job(
        "Train a classifier, or go on with a run that stopped (the same command again).",
        "score-jax train --config=configs/cifar10_score.py --workdir=runs/score "
        "--config.objective.beta=3 --config.eps=8/255",
        ("config", "workdir", "data_dir", "list_sweep", "sweep_index", *CLUSTER),
        _train,
    ),
    "evaluate": Job(
        "Measure clean and attacked accuracy of an exported model, by attacks in JAX.",
        "score-jax evaluate --workdir=runs/score --attack=pgd --steps=40",
        (*JUDGED, "split", "attack", "steps", "step_size", "restarts", "eps_curve"),
        _evaluate,
    ),
    "export": Job(
        "Write the trained model as WORKDIR/export: safetensors, PyTorch, StableHLO.",
        "score-jax export --workdir=runs/score --checkpoint=best",
        ("workdir", "checkpoint", "weights"),
        _export,
    ),
    "autoattack": AUTOATTACK,
    "import": IMPORT,
    "compare": COMPARE,
    "trust": TRUST,
    "submit": SUBMIT,
    "analyze": ANALYZE,
    "report": Job(
        "Write WORKDIR/report.html and plots of a run, or print a published table beside runs.",
        "score-jax report --workdir=runs/score --beside=runs/trades,runs/madry",
        ("workdir", "beside", "data_dir", "table"),
        _report,
    ),
    "sweep": Job(
        "Train, export and judge every setting of a recipe's sweep(), and compare them.",
        "score-jax sweep --config=configs/digits_methods.py --workdir=runs/methods",
        ("config", "workdir", "data_dir", "num_examples", "backend", "jobs", "sweep_index"),
        _sweep,
    ),
    "list": Job(
        "List methods, optimizers, models, datasets, attacks, configs, tables: list, list SECTION.",
        "score-jax list methods",
        (),
        _list,
        takes_words=True,
    ),
    "plan": PLAN,
    "data": DATA,
    "doctor": DOCTOR,
}
