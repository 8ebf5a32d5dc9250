"""The table of a sweep: one line a setting, as text, table.json and table.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_jax import report_run, report_table, workdir
from score_jax.overrides import Setting

PGD_STEPS = 20
PGD, AUTOATTACK = f"pgd{PGD_STEPS}", "autoattack"  # Names of the results, WORKDIR/eval/NAME.
COLUMNS = ("setting", "clean", f"PGD-{PGD_STEPS}", "AutoAttack", "gap", "passes", "seconds")
NUMBERS = ("passes", "seconds")
PERCENT = ("clean", "pgd", "autoattack", "gap")


def row(setting: Setting, folder: Path, failures: Mapping[str, str]) -> dict[str, Any]:
    """The numbers of one setting; None where there are none.

    Args:
      folder: of its run.
      failures: what the settings that failed said last, by name.
    """
    found: dict[str, Any] = dict(
        setting=setting.name,
        recipe=setting.recipe,
        workdir=str(folder),
        error=failures.get(setting.name, ""),
        **dict.fromkeys((*PERCENT, "num_examples", "passes", "seconds")),
    )
    if not workdir.Workdir(folder).config.exists():
        return found
    run = report_run.read(folder)
    official = run.results.get(AUTOATTACK, {})
    pgd = report_table.cross_entropy_accuracy(run.results.get(PGD, {}))
    autoattack = official.get("robust_accuracy")
    return found | dict(
        clean=run.clean_accuracy,
        pgd=pgd,
        autoattack=autoattack,
        gap=None if None in (pgd, autoattack) else pgd - autoattack,
        num_examples=official.get("num_examples"),
        passes=run.record.get("model_passes"),
        seconds=run.training_seconds,
    )


def _cells(found: Mapping[str, Any]) -> list[str]:
    values = [found[name] for name in PERCENT]
    cells = ["-" if value is None else f"{100 * value:.1f}%" for value in values]
    numbers = ["-" if found[name] is None else f"{found[name]:.0f}" for name in NUMBERS]
    return [found["setting"], *cells, *numbers]


def line(found: Mapping[str, Any]) -> str:
    """One row in words, as it is told when a setting ends."""
    if found["error"]:
        return f"{found['setting']} failed: {found['error']}"
    words = zip(COLUMNS[1:], _cells(found)[1:], strict=True)
    return f"{found['setting']}: {', '.join(' '.join(word) for word in words)}"


def write(folder: Path, recipe: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes table.json and table.md; returns the table as aligned text."""
    # 'method=at', 'method=mart': the column is the method.
    header, equals, _ = rows[0]["setting"].partition("=")
    prefix = header + equals
    if not equals or not all(found["setting"].startswith(prefix) for found in rows):
        header, prefix = COLUMNS[0], ""
    columns = [header, *COLUMNS[1:]]
    cells = [[name.removeprefix(prefix), *rest] for name, *rest in map(_cells, rows)]
    workdir.write_json_atomic(folder / "table.json", {"recipe": recipe, "rows": list(rows)})
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *cells]
    markdown = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    workdir.write_text_atomic(folder / "table.md", markdown)
    counts = sorted({found["num_examples"] for found in rows} - {None})
    note = (
        f"gap: PGD-{PGD_STEPS} (cross-entropy) minus AutoAttack; passes: forward-equivalents of a "
        "training step; seconds: training"
    )
    if counts:
        note += f"; attacks on the first {' or '.join(map(str, counts))} test images"
    errors = [f"{found['setting']} failed: {found['error']}" for found in rows if found["error"]]
    return "\n".join([*report_table.align([columns, *cells]), "", note, *errors])
