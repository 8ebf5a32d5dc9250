"""The pictures of a trust report: accuracy by steps, restarts, radius and loss, and gradients."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

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
    to_inline,
    to_svg,
)
from score_jax.trust_check import Report

LOSS_NAMES = {
    "cross_entropy_once": "cross-entropy",
    "cross_entropy": "cross-entropy, 10 starts",
    "margin": "margin",
    "normalised_cross_entropy": "normalised logits",
    "targeted": "likely targets",
    "together": "the last three",
}


def draw(report: Report) -> dict[str, str]:
    """Every picture that there are numbers for: name -> inline SVG."""
    found = {check.name: check.numbers for check in report.checks}
    drawings = {
        "steps": (_steps, "steps"),
        "radius": (_radius, "radius"),
        "restarts": (_restarts, "restarts"),
        "loss": (_losses, "loss"),
        "gradients": (_gradients, "zero_gradient"),
    }
    inline = {}
    with matplotlib.rc_context(STYLE):
        for name, (drawing, check) in drawings.items():
            figure = drawing(found[check], report) if found.get(check) else None
            if figure is not None:
                inline[name] = to_inline(to_svg(figure), f"Plot: {name}")
    return inline


def _steps(numbers, report: Report) -> Figure:
    del report
    figure, axes = panel("Accuracy and loss under PGD by its steps", {}, right=0.75)
    line = Line(numbers["steps"], numbers["accuracy"], "accuracy", color(0), True, "o")
    axes.set_xscale("log")
    _accuracy_axis(axes)
    largest = max(max(numbers["loss"]), 1e-9)
    relative = [value / largest for value in numbers["loss"]]
    loss = Line(numbers["steps"], relative, f"loss ÷ {largest:.2g}", color(1), False, "o")
    draw_lines(axes, [line, loss])
    axes.xaxis.set_major_locator(FixedLocator(numbers["steps"]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("steps, cross-entropy, random start", loc="left")
    axes.grid(False, axis="x")
    label_ends(axes, [line, loss])
    return figure


def _radius(numbers, report: Report) -> Figure:
    figure, axes = panel("Accuracy under PGD of growing radius", {})
    scale = 255 if report.eps < 0.05 and report.norm == "linf" else 1
    x = [scale * eps for eps in numbers["eps"][1:]]  # Without 0: the largest is far away.
    axes.set_xscale("log")
    draw_lines(axes, [Line(x, numbers["accuracy"][1:], "", color(0), True, "o")])
    _accuracy_axis(axes)
    unit = "in 1/255" if scale == 255 else "pixels in [0, 1]"
    axes.set_xlabel(f"radius, {report.norm} ({unit}); the last one reaches every image", loc="left")
    axes.axvline(scale * report.eps, color=MUTED, linewidth=0.8)
    axes.annotate(
        "eps", (scale * report.eps, 1), xytext=(4, -1), textcoords="offset points", va="top",
        color=MUTED,
    )  # fmt: skip
    ticks = [scale * report.eps * multiple for multiple in (0.25, 0.5, 1, 2, 4)]
    ticks = [tick for tick in ticks if tick < x[-1] / 1.2] + [x[-1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.grid(False, axis="x")
    return figure


def _restarts(numbers, report: Report) -> Figure:
    del report
    figure, axes = panel("Accuracy after restarts of PGD-20", {})
    count = range(1, len(numbers["accuracy"]) + 1)
    draw_lines(axes, [Line(count, numbers["accuracy"], "", color(0), True, "o")])
    _accuracy_axis(axes)
    axes.set_xlabel("random starts", loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(False, axis="x")
    return figure


def _losses(numbers, report: Report) -> Figure:
    del report
    shown = {label: numbers[name] for name, label in LOSS_NAMES.items() if name in numbers}
    figure, axes = panel("Accuracy by what PGD-20 ascends", {}, 2.3, left=1.5, right=0.5)
    for index, value in enumerate(shown.values()):
        axes.barh(index, value, height=0.6, color=color(0 if index < 2 else 1))
        axes.annotate(
            f"{100 * value:.1f}%", (value, index), xytext=(4, 0), textcoords="offset points",
            va="center", color=INK,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.tick_params(axis="y", colors=INK)
    axes.grid(False, axis="y")
    percent_axis(axes.xaxis)
    return figure


def _gradients(numbers, report: Report) -> Figure | None:
    del report
    if not numbers["counts"]:
        return None
    figure, axes = panel("Largest entry of each image's gradient", {})
    edges = np.asarray(numbers["log10_edges"])
    axes.bar(edges[:-1], numbers["counts"], width=np.diff(edges), align="edge", color=color(0))
    axes.set_xlabel("of cross-entropy by the clean image, powers of ten", loc="left")
    axes.set_ylabel("images")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(False, axis="x")
    return figure


def _accuracy_axis(axes) -> None:
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
