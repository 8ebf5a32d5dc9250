"""The table of several runs in words and cells, and what its columns say together."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from score_jax import config as config_module
from score_jax.analysis import gaps, table, table_tasks
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.table import STEPS, STEPS_PER_EPS, Protocol, Row
from score_jax.workdir import MAY_CHANGE

# Beside the published columns, where they were measured.
FURTHER = ("train Lipschitz", "ascent")
DROPOUT = ("model.dropout", "attack.dropout")
# Fewer runs have no correlation; from MANY on it says more than of these runs; one that is CLEAR.
FEW, MANY, CLEAR = 4, 8, 0.5


def finding(rows: Sequence[Row], protocol: Protocol, name: str = "table") -> Finding:
    """The table, with what its columns say together."""
    told = list(_summary(rows, protocol))
    todo = [command for row in rows for command in table_tasks.commands(row.run, protocol)]
    told += [f"Not measured yet: {command}" for command in todo]
    return Finding(
        name=name,
        title="Accuracy, gaps and local Lipschitz constants of runs",
        summary=told,
        facts={
            "protocol": {
                "attack": f"pgd{STEPS}", "step_size": f"eps / {STEPS_PER_EPS}", "restarts": 1,
                "seed": protocol.seed,
            },
            "columns": list(table.columns()),
            "runs": [_facts(row, protocol) for row in rows],
            "rank_correlation": _correlation(rows),
            "dropout": _dropout(rows),
            "commands": todo,
        },
        table=cells(rows),
        pictures=_pictures(rows),
    )  # fmt: skip


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The head and one line a run; dashes where nothing was measured."""
    further = [name for name in FURTHER if any(row.values.get(name) is not None for row in rows)]
    names = [*table.columns(), *further]
    shown = [[_written(row.values.get(name)) for name in names] for row in rows]
    head = ["run", *names]
    return [head, *([label, *line] for label, line in zip(labels(rows), shown, strict=True))]


def labels(rows: Sequence[Row]) -> list[str]:
    """The names of the runs, without what all have at their beginning: 'method=' of a sweep."""
    names = [row.run.name for row in rows]
    prefix = names[0].partition("=")
    prefix = prefix[0] + prefix[1] if prefix[1] else ""
    if prefix and len(names) > 1 and all(name.startswith(prefix) for name in names):
        return [name.removeprefix(prefix) for name in names]
    return names


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Rows of text as a table of Markdown."""
    head, *rest = lines
    ruled = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in ruled)


def line(row: Row) -> str:
    """One row in words."""
    names = table.columns()
    return ", ".join(f"{name} {_written(row.values.get(name))}" for name in names)


def _written(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _facts(row: Row, protocol: Protocol) -> dict[str, Any]:
    run = row.run
    return {
        "run": run.name,
        "workdir": str(run.workdir.path),
        "dataset": run.config["data"]["name"],
        "norm": run.config["norm"],
        "eps": protocol.radius(run),
        "num_examples": dict(row.counts),
        "checkpoint": run.model.get("checkpoint"),
        "model_sha256": run.model_sha256,
        "data_sha256": dict(row.data_sha256),
        **row.values,
    }


def _summary(rows: Sequence[Row], protocol: Protocol) -> Iterator[str]:
    yield _how(rows, protocol)
    yield from _errors(rows)
    yield from _warnings(rows, protocol)
    yield from _order(rows)
    yield from _what_dropout_does(rows)


def _how(rows: Sequence[Row], protocol: Protocol) -> str:
    counts = [
        f"{row.counts['train']} training and {row.counts['test']} test images" for row in rows
    ]
    radii = [config_module.write_eps(protocol.radius(row.run)) for row in rows]
    steps = f"{STEPS} steps of eps/{STEPS_PER_EPS}"
    return (
        f"Accuracies in percent, on {_all(counts)}; adv: under PGD of {steps} on the cross-entropy "
        f"from one random start, eps {_all(radii)}, an image that is wrong unattacked counting as "
        "lost (analyze gaps and Yang et al. attack it too); gaps: training minus test. Lipschitz: "
        "of the released estimator, which descends and is no maximum; ascent: the mean over test "
        "images of the steepest change that a search found around each."
    )


def _errors(rows: Sequence[Row]) -> Iterator[str]:
    """How sure the gaps are."""
    largest = {}
    for name, columns in (("gap", table.SPLITS), ("adv gap", ("adv train", "adv test"))):
        known = _known(rows, *columns)
        errors = [
            gaps.gap_error(
                [row.values[c] / 100 for c in columns],
                [row.counts[split] for split in table.SPLITS],
            )
            for row in known
        ]
        if errors:
            largest[name] = f"{100 * max(errors):.1f} for {name}"
    if largest:
        told = " and ".join(largest.values())
        yield f"Standard errors, by the number of images alone: at most {told}, in points."


def _warnings(rows: Sequence[Row], protocol: Protocol) -> Iterator[str]:
    """What makes rows unlike each other or the published ones."""
    data = [row.run.config["data"]["name"] for row in rows]
    if len(set(data)) > 1:
        yield f"The runs are of several datasets, {_all(data)}: their rows do not compare."
    norms = [row.run.config["norm"] for row in rows]
    if len(set(norms)) > 1:
        yield f"The runs are of several norms, {_all(norms)}: their rows do not compare."
    elif len({protocol.radius(row.run) for row in rows}) > 1:
        yield "The runs have several radii; --eps=RADIUS measures all at one."
    for split in table.SPLITS:
        seen = {(d, row.data_sha256[split]) for d, row in zip(data, rows, strict=True)}
        known = [name for name, sha256 in seen if sha256]
        for name in sorted({name for name in known if known.count(name) > 1}):
            yield (
                f"The {split} images of {name} that the runs were measured on are not the same: "
                "their rows do not compare."
            )
    early = [
        label
        for label, row in zip(labels(rows), rows, strict=True)
        if row.run.model.get("checkpoint", "last") != "last"
    ]
    if early:
        yield (
            f"Not the last checkpoint, which the published numbers are of: {', '.join(early)} "
            "(score-jax export --checkpoint=last)."
        )


def _order(rows: Sequence[Row]) -> Iterator[str]:
    """Which run is the smoothest, and whether the smoother ones withstand more."""
    known = _known(rows, "test Lipschitz", "adv test")
    if len(known) < 2:
        return
    names = dict(zip((id(row) for row in rows), labels(rows), strict=True))
    ordered = sorted(known, key=lambda row: row.values["test Lipschitz"])

    def named(row: Row) -> str:
        return f"{names[id(row)]} ({row.values['test Lipschitz']:.2f})"

    yield f"The smoothest is {named(ordered[0])}, the steepest {named(ordered[-1])}."
    rank = _correlation(rows)
    if rank is not None:
        meaning, which = "no clear order", "more" if rank < 0 else "less"
        if abs(rank) >= CLEAR:
            meaning = f"the smoother, the {which} robust"
            if len(known) < MANY:
                meaning = f"in these {len(known)} runs the smoother are the {which} robust"
        yield (
            f"Rank correlation of the Lipschitz column with adversarial test accuracy: {rank:.2f} "
            f"over {len(known)} runs: {meaning}."
        )


def _correlation(rows: Sequence[Row]) -> float | None:
    """Spearman's, of 'test Lipschitz' and 'adv test'; None for few runs, or one value."""
    known = _known(rows, "test Lipschitz", "adv test")
    columns = [[row.values[name] for row in known] for name in ("test Lipschitz", "adv test")]
    if len(known) < FEW or any(len(set(column)) == 1 for column in columns):
        return None
    return float(stats.spearmanr(*columns).statistic)


def _what_dropout_does(rows: Sequence[Row]) -> Iterator[str]:
    found = _dropout(rows)
    if found:
        changes = ", ".join(f"{name} {found[name]:+.2f}" for name in found if name != "pairs")
        pairs = f"{found['pairs']} pair{'s' if found['pairs'] > 1 else ''} of runs"
        yield f"What dropout changes, on average over {pairs}: {changes}."


def _dropout(rows: Sequence[Row]) -> dict[str, Any]:
    """The mean change of each column from runs without dropout to those with; {} without pairs."""
    names = ("test", "adv test", "test Lipschitz", "gap", "adv gap")
    pairs = [
        (plain, dropping)
        for plain, dropping in itertools.permutations(_known(rows, *names), 2)
        if _differ_in_dropout(plain.run.config, dropping.run.config)
    ]
    if not pairs:
        return {}
    return {"pairs": len(pairs)} | {
        name: float(
            np.mean([dropping.values[name] - plain.values[name] for plain, dropping in pairs])
        )
        for name in names
    }


def _differ_in_dropout(plain: Mapping[str, Any], dropping: Mapping[str, Any]) -> bool:
    if plain["model"].get("dropout") or not dropping["model"].get("dropout"):
        return False
    return all(
        each.startswith((*DROPOUT, *MAY_CHANGE))
        for each in config_module.differences(plain, dropping)
    )


def _known(rows: Sequence[Row], *names: str) -> list[Row]:
    """Those with a number in each of these columns."""
    return [row for row in rows if all(row.values.get(name) is not None for name in names)]


def _all(texts: Sequence[str]) -> str:
    """Each once."""
    return " or ".join(dict.fromkeys(texts))


def _pictures(rows: Sequence[Row]) -> dict[str, Picture]:
    pictures = {}
    slopes, gaps = _known(rows, "test Lipschitz", "adv test"), _known(rows, "gap", "adv gap")
    names = dict(zip((id(row) for row in rows), labels(rows), strict=True))
    if len(slopes) > 1:
        ordered = sorted(slopes, key=lambda row: -row.values["test Lipschitz"])
        shown = [(names[id(row)], row.values) for row in ordered]
        pictures["lipschitz"] = Picture(
            "Runs from steep to smooth: local Lipschitz constant on test images, and accuracy "
            "there, clean and attacked.",
            lambda: _plots().smoothness(shown),
        )
    if len(gaps) > 1:
        shown_gaps = [(names[id(row)], row.values) for row in gaps]
        pictures["gaps"] = Picture(
            "Accuracy on training and on test images, clean and attacked; the bar between is the "
            "gap.",
            lambda: _plots().gaps(shown_gaps),
        )
    return pictures


def _plots() -> Any:
    from score_jax.analysis import table_plots

    return table_plots
