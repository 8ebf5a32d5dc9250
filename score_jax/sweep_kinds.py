"""What a sweep measures of each setting, and the table that it ends with.

A recipe says which by `TABLE`, one of `KINDS`; without it every setting meets AutoAttack.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from score_jax import overrides, sweep_stages, sweep_table
from score_jax.overrides import Setting
from score_jax.sweep_settings import Sweep
from score_jax.sweep_table import AUTOATTACK, PGD, PGD_STEPS
from score_jax.types import UserError, lookup
from score_jax.workdir import Workdir

Failures = Mapping[str, str]  # What the settings that failed said last, by name.


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to judge settings.

    Attributes:
      checkpoint: which is exported, 'best' or 'last'.
      num_examples: images that are attacked where nobody asks for a number; 0: all.
      has_backend: whether AutoAttack is run, whose backend may be chosen.
      judge: measures what is missing of the exported model of a setting.
      tell: what was found of a setting, in one line.
      write: the table of all, also written to files in the sweep's folder.
    """

    checkpoint: str
    num_examples: int
    has_backend: bool
    judge: Callable[[Sweep, Setting], None]
    tell: Callable[[Sweep, Setting, Failures], str]
    write: Callable[[Sweep, Failures], str]


def of(sweep: Sweep) -> Kind:
    """The kind that the recipe of a sweep asks for.

    Raises:
      UserError: it asks for one that is not known, or the sweep for a backend that it has not.
    """
    name = overrides.sweep_table(sweep.recipe) or "score"
    kind = lookup(KINDS, f"TABLE of {sweep.recipe}", name)
    if sweep.backend != Sweep.backend and not kind.has_backend:
        raise UserError(
            f"--backend={sweep.backend} is of AutoAttack, which a sweep of {sweep.recipe} does not "
            "run; leave it out"
        )
    return kind


def _attack(sweep: Sweep, setting: Setting) -> None:
    from score_jax import evaluate, official_autoattack

    folder, config = sweep.folder(setting), sweep.config(setting)
    asked = dict(data_dir=sweep.data_dir, num_examples=sweep.num_examples)
    if not sweep_stages.is_judged(folder, PGD, config, sweep.num_examples):
        evaluate.evaluate(str(folder), **asked, steps=PGD_STEPS, eps_curve=False, name=PGD)
    if not sweep_stages.is_judged(folder, AUTOATTACK, config, sweep.num_examples):
        official_autoattack.run(
            str(folder), **asked, backend=sweep.backend, name=AUTOATTACK, set_aside_other=True
        )


def _tell_attacked(sweep: Sweep, setting: Setting, failures: Failures) -> str:
    return sweep_table.line(sweep_table.row(setting, sweep.folder(setting), failures))


def _write_attacked(sweep: Sweep, failures: Failures) -> str:
    rows = [sweep_table.row(each, sweep.folder(each), failures) for each in sweep.settings()]
    return sweep_table.write(Path(sweep.workdir), sweep.recipe, rows)


def _protocol(sweep: Sweep):
    from score_jax.analysis import table

    return table.Protocol(num_examples=sweep.num_examples, data_dir=sweep.data_dir)


def _measure(sweep: Sweep, setting: Setting) -> None:
    from score_jax.analysis import table, table_tasks

    table_tasks.measure(table.read([sweep.folder(setting)]), _protocol(sweep))


def _tell_measured(sweep: Sweep, setting: Setting, failures: Failures) -> str:
    from score_jax.analysis import table, table_words

    if setting.name in failures:
        return f"{setting.name} failed: {failures[setting.name]}"
    (run,) = table.read([sweep.folder(setting)])
    return f"{setting.name}: {table_words.line(table.row(run, _protocol(sweep)))}"


def _write_measured(sweep: Sweep, failures: Failures) -> str:
    from score_jax.analysis import finding, table_job

    started, out = time.monotonic(), Path(sweep.workdir)
    folders = [sweep.folder(each) for each in sweep.settings()]
    begun = [
        folder
        for folder in folders
        if (place := Workdir(folder)).config.exists() and place.run.exists()
    ]
    lines = [f"{name} failed: {said}" for name, said in failures.items()]
    if begun:
        found = table_job.found(begun, _protocol(sweep), out)
        lines.insert(0, finding.write(out, "table", found, round(time.monotonic() - started, 3)))
    return "\n".join(lines)


KINDS = {
    "score": Kind(
        checkpoint="best", num_examples=100, has_backend=True, judge=_attack,
        tell=_tell_attacked, write=_write_attacked,
    ),
    "yang": Kind(
        checkpoint="last", num_examples=0, has_backend=False, judge=_measure,
        tell=_tell_measured, write=_write_measured,
    ),
}  # fmt: skip
