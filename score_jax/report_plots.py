"""The pictures of a report: which there are, and what each shows.

A colour stands for a run, everywhere the same; a line is solid on clean images and dashed under
attack. Every figure is one panel of a phone's width, so that pages can stack or pair them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from score_jax import report_pictures
from score_jax.report_run import TIME_PARTS, Run
from score_jax.report_style import (
    INK,
    MUTED,
    STYLE,
    Line,
    color,
    draw_lines,
    label_ends,
    panel,
    percent_axis,
    shorten,
    spread,
)

NAMES = (
    "validation", "training", "loss", "learning_rate", "autoattack", "eps_curve", "time",
    "gradients",
)  # fmt: skip
ATTACK_NAMES = {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "square": "Square",
}


def draw(runs: Sequence[Run]) -> dict[str, Figure]:
    """Every picture that there is something for: name -> figure. The first run is the subject."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "validation": _validation(runs),
            "training": _training(runs[0]),
            "loss": _plain(runs[0], "train/loss", "Training loss"),
            "learning_rate": _plain(runs[0], "train/learning_rate", "Learning rate"),
            "autoattack": _autoattack(runs),
            "eps_curve": _eps_curve(runs),
            "time": _time(runs),
            "gradients": report_pictures.gradients(runs),
        }
        for index, run in enumerate(runs):
            figures[f"examples_{index}"] = report_pictures.examples(run, color(index))
    return {name: figure for name, figure in figures.items() if figure is not None}


def is_name(name: str) -> bool:
    """Whether `draw` may give a figure this name."""
    return name in NAMES or re.fullmatch(r"examples_\d+", name) is not None


def _names(runs: Sequence[Run], shown: Sequence[int]) -> dict[str, str]:
    """What tells the runs apart, with its colour; nothing where there is one run altogether."""
    if len(runs) == 1:
        return {}
    return {f"■ {shorten(runs[index].name, 55)}": color(index) for index in shown}


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch", loc="left")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(False, axis="x")


def _accuracy_lines(title: str, lines: Sequence[Line], names: Mapping[str, str]) -> Figure | None:
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return None
    figure, axes = panel(title, names, right=0.85)
    draw_lines(axes, lines)
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    _epochs(axes)
    label_ends(axes, lines)
    return figure


def _validation(runs: Sequence[Run]) -> Figure | None:
    lines, shown = [], []
    for index, run in enumerate(runs):
        judge = run.judge
        attack = judge.removeprefix("val/").removesuffix("_accuracy").upper().replace("_", "-")
        attack = re.sub(r"(?<=[A-Z])(?=\d)", "-", attack)
        mine = [Line(*run.series("val/clean_accuracy"), "clean", color(index))]
        mine += [Line(*run.series(judge), attack, color(index), True)] if judge else []
        lines += mine
        shown += [index] if any(len(line.x) for line in mine) else []
    return _accuracy_lines("Accuracy on validation images", lines, _names(runs, shown))


def _training(run: Run) -> Figure | None:
    lines = [
        Line(*run.series("train/clean_accuracy"), "clean", color(0)),
        Line(*run.series("train/adv_accuracy"), "attacked", color(0), True),
    ]
    return _accuracy_lines("Accuracy on training batches", lines, {})


def _plain(run: Run, metric: str, title: str) -> Figure | None:
    x, y = run.series(metric)
    if not x:
        return None
    figure, axes = panel(title, {}, right=0.2)
    draw_lines(axes, [Line(x, y, "", color(0))])
    axes.set_ylim(0, 1.05 * max(y) if max(y) > 0 else 1)
    _epochs(axes)
    return figure


def _bars(
    title: str, runs: Sequence[Run], table: Mapping[str, Mapping[int, float]], digits: int
) -> Figure | None:
    """Fractions as horizontal bars: category -> index of the run -> value."""
    shown = sorted({index for values in table.values() for index in values})
    if not shown:
        return None
    names = _names(runs, shown)
    row = 0.16 * len(shown) + 0.12
    height = 0.95 + row * len(table) + (0.17 if names else 0)
    left = 0.2 + 0.07 * max(len(category) for category in table)
    figure, axes = panel(title, names, height, left=left, right=0.5)
    for position, values in enumerate(table.values()):
        for slot, index in enumerate(shown):
            if index not in values:
                continue
            y = position * row + slot * 0.16
            axes.barh(y, values[index], height=0.13, color=color(index))
            axes.annotate(
                f"{100 * values[index]:.{digits}f}%", (values[index], y), xytext=(4, 0),
                textcoords="offset points", va="center", color=color(index),
            )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(row * len(table) - 0.16, -0.16)
    axes.set_yticks([i * row + 0.08 * (len(shown) - 1) for i in range(len(table))], list(table))
    axes.tick_params(axis="y", colors=INK)
    axes.grid(False, axis="y")
    percent_axis(axes.xaxis)
    return figure


def _autoattack(runs: Sequence[Run]) -> Figure | None:
    table: dict[str, dict[int, float]] = {}
    for index, run in enumerate(runs):
        result = run.official_result
        if not result:
            continue
        table.setdefault("clean", {})[index] = result["clean_accuracy"]
        for attack in result["attacks"]:
            label = f"after {ATTACK_NAMES.get(attack['name'], attack['name'])}"
            table.setdefault(label, {})[index] = attack["robust_accuracy"]
    return _bars("AutoAttack: accuracy left after each attack", runs, table, 1)


def _time(runs: Sequence[Run]) -> Figure | None:
    shares = {index: run.time_shares() for index, run in enumerate(runs)}
    table = {
        part: {index: found[part] for index, found in shares.items() if part in found}
        for part in TIME_PARTS
    }
    table = {part: values for part, values in table.items() if values}
    return _bars("Where the training time went", runs, table, 0)


def _eps_curve(runs: Sequence[Run]) -> Figure | None:
    of_255 = runs[0].eps.endswith("/255")
    scale = 255 if of_255 else 1
    lines, shown = [], []
    for index, run in enumerate(runs):
        curve = run.quick_result.get("eps_curve") or []
        if curve and run.norm == runs[0].norm:
            x = [scale * point["eps"] for point in curve]
            y = [point["accuracy"] for point in curve]
            lines.append(Line(x, y, "", color(index), marker="o"))
            shown.append(index)
    if not lines:
        return None
    names = _names(runs, shown)
    if any(runs[index].official for index in shown):
        names["◇ AutoAttack"] = MUTED
    figure, axes = panel("Accuracy under PGD of growing radius", names)
    draw_lines(axes, lines)
    axes.set_ylim(0, 1)
    axes.set_xlim(0)
    percent_axis(axes.yaxis)
    unit = "in 1/255" if of_255 else "pixels in [0, 1]"
    axes.set_xlabel(f"radius ε, {runs[0].norm} ({unit})", loc="left")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(False, axis="x")
    own = scale * runs[0].config["eps"]
    axes.axvline(own, color=MUTED, linewidth=0.8)
    axes.annotate(
        f"ε = {runs[0].eps} of the run", (own, 1), xytext=(4, -1), textcoords="offset points",
        va="top", color=MUTED,
    )  # fmt: skip
    _mark_official(axes, {i: runs[i].official_result for i in shown if runs[i].official}, scale)
    return figure


def _mark_official(axes: Axes, results: Mapping[int, Mapping[str, Any]], scale: float) -> None:
    """A diamond for AutoAttack's figure of each run, with its value."""
    found = sorted((result["robust_accuracy"], index) for index, result in results.items())
    places = spread([accuracy for accuracy, _ in found], 0.085, 0.05, 1)
    for (accuracy, index), place in zip(found, places, strict=True):
        radius = scale * results[index]["eps"]["value"]
        axes.plot(
            radius, accuracy, marker="D", markersize=6, markerfacecolor="none",
            markeredgewidth=1.4, color=color(index), clip_on=False,
        )  # fmt: skip
        # Curves fall: left of and below a point is room, except at the floor.
        is_low = accuracy < 0.15
        axes.annotate(
            f"{100 * accuracy:.1f}%", (radius, place if is_low else place - 0.06),
            xytext=(8 if is_low else -8, 0), ha="left" if is_low else "right", va="center",
            textcoords="offset points", color=color(index),
        )  # fmt: skip
