"""The pictures of `score-jax analyze gaps`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_jax.analysis.gaps import KINDS, Measured
from score_jax.analysis.gaps_alarm import Trend
from score_jax.analysis.gaps_words import Validation, shown_classes
from score_jax.report_style import (
    COLORS,
    INK,
    MUTED,
    WIDTH,
    Line,
    draw_lines,
    label_ends,
    panel,
    percent_axis,
)

TRAIN, TEST = COLORS[0], COLORS[1]


def over_epochs(measured: Sequence[Measured], trend: Trend, attack: str) -> Figure:
    """Does the model do better on what it was trained on, and since when?"""
    epochs = [one.epoch for one in measured]

    def line(split, kind, color):
        values = [one.accuracy(split, kind) for one in measured]
        label = f"{split} {attack}" if kind == "adversarial" else f"{split} clean"
        return Line(epochs, values, label, color, kind == "adversarial", "o")

    lines = [
        line(split, kind, color)
        for kind in KINDS
        for split, color in (("train", TRAIN), ("test", TEST))
    ]
    title = "Accuracy: how wide are the gaps to training images?"
    figure, axes = panel(title, _best(trend), right=0.95)
    _draw(axes, lines, trend)
    return figure


def over_validation(validation: Validation) -> Figure:
    """Does accuracy under attack fall on images that are not trained on?"""
    lines = [
        Line(validation.train_epochs, validation.train, "training", TRAIN, True),
        Line(validation.epochs, validation.values, "validation", TEST, True),
    ]
    title = "Accuracy under attack: does training overfit?"
    figure, axes = panel(title, _best(validation.trend), right=0.8)
    _draw(axes, lines, validation.trend)
    return figure


def _best(trend: Trend) -> dict[str, str]:
    return {f"○ best under attack: {trend.best:.1%} at epoch {trend.best_epoch:.4g}": TEST}


def _draw(axes: Axes, lines: Sequence[Line], trend: Trend) -> None:
    draw_lines(axes, lines)
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    axes.set_xlabel("epoch", loc="left")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(False, axis="x")
    label_ends(axes, lines)
    place = (trend.best_epoch, trend.best)
    axes.plot(*place, "o", markersize=8, markerfacecolor="none", color=TEST, clip_on=False)


def classes(one: Measured, names: Sequence[str], attack: str) -> Figure:
    """Which classes have the widest gaps?"""
    found, shown = one.by_class(len(names)), shown_classes(one, len(names))
    left = 0.15 + 0.066 * max(len(names[label]) for label in shown)
    height = 1.05 + 0.17 * len(shown)
    words = {"● training images": TRAIN, "○ test images": TEST}
    figure, first = panel("Which classes have the widest gaps?", words, height, left, 0.2)
    box = first.get_position()
    space = 0.42 / WIDTH
    width = (box.width - space) / 2
    first.set_position((box.x0, box.y0, width, box.height))
    second = figure.add_axes((box.x0 + width + space, box.y0, width, box.height))
    for axes, kind, label in zip((first, second), KINDS, ("clean", f"under {attack}"), strict=True):
        train, test = (found[split][kind][shown] for split in ("train", "test"))
        rows = np.arange(len(shown))
        axes.hlines(rows, train, test, color=MUTED, linewidth=1.2)
        axes.plot(train, rows, "o", color=TRAIN, markersize=4.5, clip_on=False)
        axes.plot(
            test, rows, "o", color=TEST, markersize=4.5, markerfacecolor="white", clip_on=False
        )
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_yticks(rows, [names[label] for label in shown] if axes is first else [])
        axes.tick_params(axis="y", colors=INK)
        axes.set_xlim(*_range(train, test))
        percent_axis(axes.xaxis)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(False, axis="y")
        axes.set_xlabel(f"accuracy, {label}", loc="left")
    return figure


def _range(train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """To whole tenths, so that narrow gaps are seen."""
    low = float(np.nanmin(np.concatenate([train, test]))) if train.size else 0.0
    return (np.floor(10 * low) / 10 if low > 0.5 else 0.0), 1.0
