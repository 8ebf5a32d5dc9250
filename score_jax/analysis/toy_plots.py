"""The pictures of the toy: small multiples of truth and learned, the change within the ball."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from score_jax.analysis import toy, toy_training
from score_jax.report_style import (
    GRID,
    INK,
    MUTED,
    WIDTH,
    Line,
    color,
    draw_lines,
    label_ends,
    panel,
)

ROW, LABEL = 0.86, 1.04  # Inches: height of a row, width of its label with the ticks.
TRUTH, LEARNED = color(0), color(1)


def multiples(
    title: str,
    x: np.ndarray,
    truth: np.ndarray,
    curves: Mapping[tuple[Hashable, Hashable], np.ndarray],
    *,
    rows: Mapping[Hashable, str],
    columns: Mapping[Hashable, str],
    points: np.ndarray | None = None,
) -> Figure:
    """A panel for each row and column: class 0 by the truth and as learned.

    Args:
      curves: (row, column) -> f[n] at x, or f[s, n]: the first strong, the others thin.
      points: where training points lie, on the truth.
    """
    height = 0.62 + 0.16 + ROW * len(rows) + 0.3
    names = {"truth p(Y=0|x)": TRUTH, "learned q(Y=0|x)": LEARNED}
    figure, axes = panel(title, names, height, left=LABEL, right=0.05)
    axes.remove()
    width = (WIDTH - LABEL - 0.05) / len(columns)
    for i, (row, row_label) in enumerate(rows.items()):
        top = height - 0.62 - 0.16 - ROW * i
        figure.text(0.05 / WIDTH, (top - ROW / 2 + 0.06) / height, row_label, va="center")
        for j, (column, column_label) in enumerate(columns.items()):
            place = (LABEL + width * j, top - ROW + 0.12, width - 0.12, ROW - 0.16)
            axes = figure.add_axes([v / s for v, s in zip(place, (WIDTH, height) * 2, strict=True)])
            _curve(axes, x, truth, np.atleast_2d(curves[row, column]), points)
            if i == 0:
                axes.set_title(column_label, fontsize=8, color=INK, pad=4)
            axes.tick_params(labelleft=j == 0, labelbottom=i == len(rows) - 1)
            if i == len(rows) - 1 and j == 0:
                axes.set_xlabel("x", loc="left", labelpad=1)
    return figure


def _curve(axes: Axes, x, truth, learned, points) -> None:
    axes.plot(x, truth, color=TRUTH, linewidth=2.6, solid_capstyle="butt")
    for other in learned[1:]:
        axes.plot(x, other, color=LEARNED, linewidth=0.6, alpha=0.35)
    axes.plot(x, learned[0], color=LEARNED, linewidth=1.3)
    if points is not None:
        level = np.interp(points, x, truth)
        axes.plot(
            points, level, "o", color=INK, markersize=3, markeredgecolor="white",
            markeredgewidth=0.5, zorder=5,
        )  # fmt: skip
    axes.set_xlim(*toy_training.PLOTTED)
    axes.set_ylim(0, 1.02)
    axes.set_xticks([-5, 0, 5])
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    error = np.abs(learned[0] - truth).max()
    axes.text(
        0.03, 0.05, f"error {error:.2f}", transform=axes.transAxes, fontsize=6.5, color=MUTED,
    )  # fmt: skip


def over_steps(title: str, steps: Sequence[int], risks: Mapping[str, Sequence[float]]) -> Figure:
    """A risk of each method over training; its axis is logarithmic."""
    figure, axes = panel(title, {}, right=0.75)
    lines = [
        Line(steps, np.log10(values), label, color(index))
        for index, (label, values) in enumerate(risks.items())
    ]
    draw_lines(axes, lines)
    low, high = axes.get_ylim()
    ticks = [digit * 10.0**power for power in range(-5, 2) for digit in (1, 3)]
    ticks = [tick for tick in ticks if low <= np.log10(tick) <= high]
    axes.set_yticks(np.log10(ticks), [f"{tick:g}" for tick in ticks])
    axes.set_ylim(low, high)
    axes.set_xlabel("steps of training", loc="left")
    axes.grid(False, axis="x")
    label_ends(axes, lines)
    return figure


def changes(
    label: str, x: np.ndarray, whole: np.ndarray, sides: np.ndarray, density: np.ndarray
) -> Figure:
    """The largest change of the truth by x, over the ball and as the mean of its sides."""
    names = {
        "exact: over the whole ball": color(0), "official: mean of the two sides": color(1),
    }  # fmt: skip
    title = f"Largest change of the truth for |x' - x| ≤ {toy.EPS:g}, D = {label}"
    figure, axes = panel(title, names)
    shown = np.abs(x) <= 6
    x, whole, sides, density = (values[shown] for values in (x, whole, sides, density))
    axes.fill_between(x, density / density.max() * whole.max() / 2, color=GRID, linewidth=0)
    draw_lines(axes, [Line(x, whole, "", color(0)), Line(x, sides, "", color(1))])
    axes.set_xlim(-6, 6)
    axes.set_ylim(0)
    axes.set_xlabel("x; grey: where the data lie", loc="left")
    return figure
