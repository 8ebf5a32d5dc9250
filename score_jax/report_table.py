"""Published tables beside what was run here: `score-jax report --table=NAME`.

The numbers live in configs/published.py; a run says by `config.published` which row it is.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from score_jax import config as config_module
from score_jax import overrides, recipes, report_run
from score_jax.report_run import Run
from score_jax.types import UserError, lookup
from score_jax.workdir import MAY_CHANGE

PUBLISHED = "configs/published.py"
TEST_IMAGES = 10000
Measure = Callable[[Run], float | None]


def tables() -> dict[str, Any]:
    """The published tables by name."""
    return overrides.load_module(PUBLISHED).TABLES


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Lines of text with the first row underlined; columns not in `left` are set right."""
    width = max(map(len, rows))
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(width)]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        text = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(cells)]
        return "  ".join(text).rstrip()

    return [line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _attacked(run: Run, attack: str, split: str = "test") -> Mapping[str, Any]:
    """The result of that attack at the run's own radius on the most images; {} without."""
    results = run.train_results if split == "train" else run.results
    fitting = [
        result
        for result in results.values()
        if result.get("attack") == attack and report_run.is_at_own_radius(result, run.config)
    ]
    return max(fitting, key=lambda result: result["num_examples"], default={})


def _pgd(run: Run, steps: int, split: str = "test") -> float | None:
    """Accuracy under PGD with cross-entropy."""
    return _percent(cross_entropy_accuracy(_attacked(run, f"pgd{steps}", split)))


def _pgd_plus(run: Run) -> float | None:
    return _percent(_attacked(run, "pgd_plus40").get("robust_accuracy"))


def cross_entropy_accuracy(result: Mapping[str, Any]) -> float | None:
    """What withstands PGD with cross-entropy, the published "PGD-K", of an evaluation's result.

    Its robust accuracy counts the margin loss too.
    """
    for attack in result.get("attacks", ()):
        if attack["name"].endswith("-cross_entropy"):
            return attack["accuracy"]
    return None


def _of(checkpoint: str, measure: Measure) -> Measure:
    """The measure where that checkpoint was exported."""
    return lambda run: measure(run) if run.model.get("checkpoint") == checkpoint else None


def _clean(run: Run) -> float | None:
    return _percent(run.clean_accuracy)


def _train(run: Run) -> float | None:
    """Clean accuracy on training images, by the evaluation with the most of them."""
    results = run.train_results.values()
    best = max(results, key=lambda result: result["num_examples"], default={})
    return _percent(best.get("clean_accuracy"))


def _gap(on_train: float | None, on_test: float | None) -> float | None:
    return None if None in (on_train, on_test) else on_train - on_test


def lipschitz(run: Run, split: str = "test", estimate: str = "official") -> float | None:
    """A mean of `score-jax analyze lipschitz` of the exported model at its own radius, on the most
    images; None where not measured.

    Args:
      estimate: 'official', as the published code, which is not the maximum that was meant;
        'ascent' or 'gradient'.
    """
    found = [
        facts["splits"][split]
        for facts in lipschitz_findings(run)
        if split in facts.get("splits", {})
        and abs(facts.get("eps", run.config["eps"]) - run.config["eps"]) < 1e-9
    ]
    most = max(found, key=lambda told: told.get("num_examples", 0), default={})
    return most.get(estimate)


def lipschitz_findings(run: Run) -> list[dict[str, Any]]:
    """All that `score-jax analyze lipschitz` and `table` found of the exported model's slopes.

    Raises:
      UserError: a damaged file.
    """
    found = []
    for path in sorted((run.workdir.path / "analysis").glob("lipschitz*.json")):
        facts = report_run.read_json(path)
        if not isinstance(facts.get("splits", {}), dict):
            raise UserError(f"{path} is not of `score-jax analyze`; move it away")
        if facts.get("model_sha256") == run.model_sha256:
            found.append(facts)
    return found


# A column of a published table: what it is of a run here. What no job measures is absent.
MEASURES: dict[str, Measure] = {
    "clean": _clean,
    "AutoAttack": lambda run: _percent(run.official_result.get("robust_accuracy")),
    "train": _train,
    "test": _clean,
    "gap": lambda run: _gap(_train(run), _clean(run)),
    "adv test": lambda run: _pgd(run, 10),
    "adv gap": lambda run: _gap(_pgd(run, 10, "train"), _pgd(run, 10)),
    "test Lipschitz": lipschitz,
    "train Lipschitz": lambda run: lipschitz(run, "train"),
    "best clean": _of("best", _clean),
    "best PGD-20": _of("best", lambda run: _pgd(run, 20)),
    "best PGD+": _of("best", _pgd_plus),
    "last clean": _of("last", _clean),
    "last PGD-20": _of("last", lambda run: _pgd(run, 20)),
    "last PGD+": _of("last", _pgd_plus),
}


def compare(name: str, runs_folder: str | os.PathLike[str] = "") -> str:
    """A published table with the numbers of the runs below a folder beside it.

    Args:
      name: of the table.
      runs_folder: searched for run folders; '' for none: what nobody ran stays empty.

    Raises:
      UserError: no such table.
    """
    table = lookup(tables(), "--table", name)
    found = _runs_by_row(name, runs_folder) if runs_folder else {}
    columns = [[column, "here"] for column in table.columns]
    rows, notes = [["", *itertools.chain(*columns), "recipe"]], []
    for row_name, row in table.rows.items():
        runs = sorted(
            ((_differences(run, row.recipe), run) for run in found.get(row_name, ())),
            key=lambda entry: (len(entry[0]), -entry[1].official_result.get("num_examples", 0)),
        )
        cells = [row_name]
        for column, value in zip(table.columns, row.values, strict=True):
            cells += [_written(value), _ours(column, runs[0]) if runs else ""]
        rows.append([*cells, row.recipe])
        notes += [f"{row_name}: {row.notes}"] if row.notes else []
        notes += [line for entry in runs for line in _run_notes(row_name, *entry)]
    lines = [table.title, f"Published: {table.source}.", "", *align(rows, (0, len(rows[0]) - 1))]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _written(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ours(column: str, entry: tuple[list[str], Run]) -> str:
    differences, run = entry
    value = MEASURES[column](run) if column in MEASURES else None
    return "" if value is None else _written(value) + ("*" if differences else "")


def _run_notes(row_name: str, differences: Sequence[str], run: Run) -> Iterator[str]:
    parts = [str(run.workdir.path)]
    count = run.official_result.get("num_examples")
    if count not in (None, TEST_IMAGES):
        parts.append(f"AutoAttack on {count} of {TEST_IMAGES} test images")
    if differences:
        parts.append("* not the recipe: " + "; ".join(differences))
    yield f"{row_name} here: " + ", ".join(parts)


def _runs_by_row(table: str, folder: str | os.PathLike[str]) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {}
    for path in run_folders(folder):
        run = report_run.read(path)
        published = run.config.get("published") or {}
        if published.get("table") == table:
            runs.setdefault(published["row"], []).append(run)
    return runs


def run_folders(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The run folders at and below a folder, in order."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if "config.json" in files and "run.json" in files:
            folders.clear()  # Nothing below a run is another.
            yield Path(path)


def _differences(run: Run, recipe: str) -> list[str]:
    """What of a run's config is not the recipe's: 'eps: 0.03 here, 0.031 there'."""
    if not recipe:
        return []
    there: Mapping[str, Any] = config_module.to_dict(recipes.load(f"configs/{recipe}"))
    return [
        line.replace(" there, ", " in the recipe, ")
        for line in config_module.differences(there, run.config)
        if not line.startswith(MAY_CHANGE)
    ]
