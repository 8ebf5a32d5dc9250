"""Pictures of a dataset's separation: distances, nearest pairs, nearest pairs of classes."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from score_jax.analysis.separation_pass import Points
from score_jax.analysis.separation_words import SIDES, Measured, distinct, norm_name
from score_jax.report_pictures import gain, grid, show
from score_jax.report_style import COLORS, INK, MUTED, panel

NUM_BINS = 60
NUM_SHOWN, COLUMNS = 8, 4  # Pairs.
NUM_WRITTEN = 12  # Classes whose distances are written into their cells.
UNIT = "pixels in [0, 1]"


def histogram(measured: Measured) -> Figure:
    """Distances of all examples to the nearest of another class, and of another random label."""
    shown = dict(zip(measured.compared, COLORS, strict=False))
    names = {
        f"■ {SIDES[side]} from {compared.nearest.distances.min():.3f}": shown[side]
        for side, compared in measured.compared.items()
    }
    figure, axes = panel(
        "How far is the nearest image of another class?",
        {**names, "┄ random labels": MUTED},
        left=0.62,
    )
    values = np.concatenate(
        [
            of.distances[np.isfinite(of.distances)]
            for compared in measured.compared.values()
            for of in (compared.nearest, compared.control)
        ]
    )
    edges = bin_edges(values, is_levels=measured.p == np.inf)
    for side, compared in measured.compared.items():
        for of, style in ((compared.nearest, "-"), (compared.control, (0, (2, 1.4)))):
            counts, _ = np.histogram(of.distances[np.isfinite(of.distances)], edges)
            axes.stairs(
                counts / len(of.distances), edges, color=shown[side], linestyle=style,
                linewidth=1.6 if style == "-" else 1.0,
            )  # fmt: skip
    # Logarithmic: a separation hangs on the few nearest images.
    axes.set_yscale("log")
    axes.set_ylim(0.7 / max(len(of.nearest.distances) for of in measured.compared.values()), 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.minorticks_off()
    axes.set_xlim(0, max(edges[-1], 2.1 * (measured.eps or 0)))
    if measured.eps:
        axes.axvline(2 * measured.eps, color=INK, linewidth=0.9)
        axes.annotate(
            f"2ε = {2 * measured.eps:g}", (2 * measured.eps, 1), xycoords=("data", "axes fraction"),
            xytext=(4, -1), textcoords="offset points", va="top", color=INK,
        )  # fmt: skip
    axes.set_xlabel(f"{norm_name(measured.p)} distance ({UNIT})", loc="left")
    axes.set_ylabel("images")
    axes.grid(False, axis="x")
    return figure


def bin_edges(values: np.ndarray, is_levels: bool) -> np.ndarray:
    """Edges of at most some `NUM_BINS` bins, f64[bins + 1].

    Args:
      values: f64[n], 0 or more.
      is_levels: few distinct values get a bin each, so that no bin is empty for lying between two;
        those that come in pairs, such as 63/255 and 64/255 of images of 17 levels, share one. Where
        the next value is much further away than usual, the space between is a bin, and empty.
    """
    levels = np.unique(values)
    if len(levels) == 1:
        return levels[0] + np.array([-0.5, 0.5]) / 255
    gaps = np.diff(levels)
    if is_levels and len(gaps):
        wide = gaps[gaps > 1.5 * gaps.min()]
        together = np.median(wide) / 2 if 3 * len(wide) >= len(gaps) else 0.0
        ends = np.flatnonzero(gaps > together)
        lows, highs = levels[np.append(0, ends + 1)], levels[np.append(ends, len(gaps))]
        between = lows[1:] - highs[:-1]
        if 0 < len(between) < NUM_BINS:
            half = np.median(between) / 2
            inner = np.concatenate(
                [
                    [(high + low) / 2] if low - high <= 3 * half else [high + half, low - half]
                    for high, low in zip(highs[:-1], lows[1:], strict=True)
                ]
            )
            return np.concatenate([[lows[0] - half], inner, [highs[-1] + half]])
    largest, bins = levels[-1], min(NUM_BINS, len(levels))
    # Edges between the multiples of 1/255 that distances of uint8 images are.
    step = max(round(255 * largest / bins), 1) / 255 if largest <= 1 else largest / bins
    return step * (np.arange(int(largest / step) + 2) - 0.5)


def pairs(measured: Measured, side: str, queries: Points, references: Points) -> Figure:
    """The nearest pairs as images, no image twice."""
    split = side.removesuffix("_train")
    found = distinct(measured.compared[side].nearest, NUM_SHOWN, split == "train")
    first = queries.take(np.array([query for query, _ in found]))[0] / 255
    second = references.take(np.array([reference for _, reference in found]))[0] / 255
    factor = gain(second - first)
    title = f"Which {split} and train images come nearest?"
    words = f"of different classes; {norm_name(measured.p)} distance under each pair"
    rows = (f"{split}", "train", f"difference\n× {factor:g}")
    figure, cells = grid(title, words, INK, rows, len(found), COLUMNS)
    distances = measured.compared[side].nearest.distances
    for place, (query, reference) in enumerate(found):
        name = measured.class_name(split, query)
        show(cells[0][place], first[place], f"{_short(name)} #{query}")
        name = measured.class_name("train", reference)
        show(cells[1][place], second[place], f"{_short(name)} #{reference}")
        change = 0.5 + factor * (second[place] - first[place])
        show(cells[2][place], change, f"{distances[query]:.3f}")
    return figure


def _short(name: str, length: int = 10) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}."


def classes(measured: Measured) -> Figure:
    """The distance of the nearest training images of every two classes."""
    compared = measured.compared["train_train"]
    distances, count = compared.pair_distances, len(compared.reference_classes)
    names = [
        measured.class_names[label] if label < len(measured.class_names) else str(label)
        for label in compared.reference_classes
    ]
    is_written = count <= NUM_WRITTEN
    left = 0.25 + 0.063 * max(map(len, names)) if is_written else 0.46
    left = min(left, 1.1)
    title = "How near do training images of two classes come?"
    words = f"{norm_name(measured.p)} distance of the nearest two; darker is nearer"
    figure, axes = panel(title, {words: MUTED}, height=4.4, left=left, right=0.1)
    shown = np.ma.masked_invalid(distances)
    axes.imshow(shown, cmap="YlGnBu_r", aspect="auto", interpolation="nearest")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    if not is_written:
        axes.set_xlabel("class", loc="left")
        axes.set_ylabel("class")
        return figure
    low, high = shown.min(), shown.max()
    for row in range(count):
        for column in range(count):
            value = distances[row, column]
            if np.isfinite(value):
                share = (value - low) / (high - low) if high > low else 1.0
                axes.text(
                    column, row, f"{value:.3f}"[: 4 if value >= 10 else 5], ha="center",
                    va="center", fontsize=6.5, color="white" if share < 0.5 else INK,
                    fontweight="bold" if value == low else "normal",
                )  # fmt: skip
    axes.set_yticks(range(count), [_short(name, 12) for name in names])
    longest = max(map(len, names))
    tilt = {"rotation": 40, "ha": "right"} if longest > 4 else {}
    axes.set_xticks(range(count), [_short(name, 12) for name in names], **tilt)
    if tilt:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0 + 0.05, box.width, box.height - 0.05))
    return figure
