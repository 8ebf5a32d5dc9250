"""Pictures of κ, of the weights that follow from it, and of margins."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_jax import report_pictures
from score_jax.report_style import (
    COLORS,
    INK,
    MUTED,
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
        "■ κ = 0: right at none": FALLS,
        f"■ κ = {num_steps}: right at all tested iterates": STANDS,
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
    weights: str,
) -> Figure:
    """Mean κ over training: of the batches, a line; of the measured images, a mark a checkpoint.

    Args:
      weights: of the checkpoints, 'ema' or 'live'.
    """
    figure, axes = panel(f"Mean κ over training, {shorten(name, 40)}", {}, right=1.25)
    lines = []
    if epochs:
        lines.append(Line(epochs, means, "training, live", COLORS[1]))
    if measured:
        words = f"checkpoints, {dict(ema='EMA').get(weights, weights)}"
        lines.append(Line(*zip(*measured, strict=True), words, COLORS[0], marker="o"))
    draw_lines(axes, lines)
    axes.set_ylim(0, num_steps)
    axes.set_ylabel(f"mean κ of {num_steps} iterates")
    axes.set_xlabel("epoch", loc="left")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(False, axis="x")
    label_ends(axes, lines)
    return figure


def weight_shares(name: str, of_images: Sequence[float], of_weight: Sequence[float]) -> Figure:
    """Two bars for each κ: its share of the images, and of the weight."""
    names = {"■ share of the images": COLORS[0], "■ share of the weight": COLORS[1]}
    figure, axes = panel(f"What the weights turn to, {shorten(name, 40)}", names, right=0.2)
    places = np.arange(len(of_images))
    for offset, parts, tint in ((-0.2, of_images, COLORS[0]), (0.2, of_weight, COLORS[1])):
        axes.bar(places + offset, parts, 0.38, color=tint)
        for place, part in zip(places + offset, parts, strict=True):
            if part and len(of_images) <= 11:
                words = f"{100 * part:.0f}" if part >= 0.01 else "<1"
                axes.text(
                    place, part, words, ha="center", va="bottom", fontsize=6, color=tint
                )  # fmt: skip
    axes.set_xticks(places)
    axes.xaxis.set_major_locator(MaxNLocator(11, integer=True))
    percent_axis(axes.yaxis)
    axes.set_xlabel("κ, tested iterates that are right", loc="left")
    axes.grid(False, axis="x")
    return figure


def weight_sheet(name: str, sets: Mapping[str, Sequence[tuple[np.ndarray, str]]]) -> Figure:
    """Images u8[h, w, c] with words under them: those that weigh most, and least; five a row."""
    columns = 5
    rows = [
        (words if start == 0 else "", shown[start : start + columns], tint)
        for (words, shown), tint in zip(sets.items(), (COLORS[1], COLORS[0]), strict=True)
        for start in range(0, len(shown), columns)
    ]
    figure, cells = report_pictures.grid(
        f"Training images by weight, {shorten(name, 36)}",
        "class and κ under each; of equal κ, by the margin that the attack leaves",
        INK, [words for words, _, _ in rows], columns, columns, [tint for *_, tint in rows],
    )  # fmt: skip
    for axes_row, (_, shown, _) in zip(cells, rows, strict=True):
        for axes, (image, words) in zip(axes_row, shown, strict=False):
            report_pictures.show(axes, image / 255, words)
    return figure


def class_weights(name: str, ratios: Sequence[tuple[str, float]]) -> Figure:
    """Mean weight of each class as a bar from 1, the mean of all."""
    height = 0.95 + ROW * len(ratios)
    left = 0.2 + 0.062 * max(len(words) for words, _ in ratios)
    figure, axes = panel(
        f"Mean weight of a class, {shorten(name, 40)}", {}, height, left=left, right=0.4
    )
    for place, (_, ratio) in enumerate(ratios):
        tint = COLORS[1] if ratio > 1 else COLORS[0]
        axes.barh(place, ratio - 1, 0.7, 1, color=tint)
        # Right of the bar: left of it stand the classes.
        axes.annotate(
            f"{ratio:.2f}", (max(ratio, 1), place), xytext=(3, 0), textcoords="offset points",
            color=tint, va="center", fontsize=7, annotation_clip=False,
        )  # fmt: skip
    axes.axvline(1, color=MUTED, linewidth=0.8)
    spread = max(abs(ratio - 1) for _, ratio in ratios) * 1.25 or 0.1
    axes.set_xlim(max(1 - spread, 0), 1 + spread)
    axes.set_ylim(len(ratios) - 0.45, -0.55)
    axes.set_yticks(range(len(ratios)), [words for words, _ in ratios])
    axes.set_xlabel("mean weight of an image; 1 is the mean of all", loc="left")
    axes.grid(False, axis="y")
    return figure
