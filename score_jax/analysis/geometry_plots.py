"""Pictures of κ, of the weights that follow from it, and of margins."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_jax.report_style import (
    COLORS,
    Line,
    draw_lines,
    label_ends,
    panel,
    percent_axis,
    shorten,
)

FALLS, STANDS = COLORS[1], COLORS[0]  # κ = 0 and κ = K; those between are mixed over grey.
ROW = 0.22  # Inches of a bar and the gap to the next.


def shares(title: str, rows: Sequence[tuple[str, Sequence[float]]]) -> Figure:
    """A bar a row, cut into the shares of κ = 0 .. K.

    Args:
      rows: name and shares, which sum to 1; the first is on top.
    """
    num_steps = len(rows[0][1]) - 1
    names = {
        "■ κ = 0: falls at once": FALLS,
        f"■ κ = {num_steps}: withstands every step": STANDS,
    }
    height = 1.15 + ROW * len(rows)
    left = 0.15 + 0.062 * max(len(name) for name, _ in rows)
    figure, axes = panel(title, names, height, left=left, right=0.25)
    tints = kappa_colors(num_steps)
    for place, (_, parts) in enumerate(rows):
        start = np.concatenate([[0.0], np.cumsum(parts)[:-1]])
        axes.barh([place] * len(parts), parts, 0.82, start, color=tints, linewidth=0)
        for kappa in (0, num_steps):
            if parts[kappa] >= 0.08:
                axes.text(
                    start[kappa] + parts[kappa] / 2, place, f"{100 * parts[kappa]:.0f}%",
                    ha="center", va="center", color="white", fontsize=7,
                )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    percent_axis(axes.xaxis)
    axes.set_xlabel("share of training images", loc="left")
    axes.grid(False)
    return figure


def kappa_colors(num_steps: int) -> list[tuple[float, float, float]]:
    """A colour for κ = 0 .. K: from one hue over light grey to another."""
    low, middle, high = (
        np.array([int(hex_[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        for hex_ in (FALLS, "#d9dde1", STANDS)
    )
    places = np.linspace(-1, 1, num_steps + 1)
    return [
        tuple(middle + abs(place) * ((low if place < 0 else high) - middle)) for place in places
    ]


def mean_kappa(
    name: str,
    epochs: Sequence[float],
    means: Sequence[float],
    measured: Sequence[tuple[float, float]],
    num_steps: int,
) -> Figure:
    """Mean κ over training: of the batches, a line; of the measured images, a mark a checkpoint."""
    figure, axes = panel(f"Mean steps withstood, {shorten(name, 40)}", {}, right=1.05)
    lines = []
    if epochs:
        lines.append(Line(epochs, means, "in training", COLORS[1]))
    if measured:
        lines.append(Line(*zip(*measured, strict=True), "at checkpoints", COLORS[0], marker="o"))
    draw_lines(axes, lines)
    axes.set_ylim(0, num_steps)
    axes.set_ylabel(f"mean κ of {num_steps} steps")
    axes.set_xlabel("epoch", loc="left")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(False, axis="x")
    label_ends(axes, lines)
    return figure
