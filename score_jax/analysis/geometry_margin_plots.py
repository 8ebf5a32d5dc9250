"""Pictures of margins: of the logits, in pixels, and beside κ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_jax.analysis.geometry import Margins
from score_jax.report_style import COLORS, INK, MUTED, color, panel, percent_axis, shorten

BINS = 30


def logit_margins(name: str, found: Mapping[str, Margins]) -> Figure:
    """Histograms of the logit margin: clean above, attacked below; training and test images.

    Args:
      found: 'train' and 'test'.
    """
    names = {f"■ {split} images": color(index) for index, split in enumerate(found)}
    figure, upper = panel(f"Logit margins, {shorten(name, 40)}", names, 4.0, right=0.2)
    left, bottom, width, height = upper.get_position().bounds
    upper.set_position((left, bottom + 0.55 * height, width, 0.45 * height))
    lower = figure.add_axes((left, bottom, width, 0.45 * height), sharex=upper, sharey=upper)
    ends = [end for one in found.values() for part in (one.clean, one.attacked) for end in part]
    edges = np.linspace(min(ends), max(ends), BINS + 1)
    for axes, part, words in ((upper, "clean", "clean"), (lower, "attacked", "under attack")):
        for index, one in enumerate(found.values()):
            _histogram(axes, getattr(one, part), edges, color(index))
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.text(
            0.995, 0.97, words, transform=axes.transAxes, ha="right", va="top", color=MUTED,
            fontweight="bold",
        )  # fmt: skip
        percent_axis(axes.yaxis)
        axes.grid(False, axis="x")
    upper.tick_params(labelbottom=False)
    upper.set_ylim(top=1.1 * upper.get_ylim()[1])
    lower.set_xlabel("logit margin; wrong left of 0", loc="left")
    return figure


def distances(title: str, shown: Mapping[str, np.ndarray], eps: float, norm: str) -> Figure:
    """Histograms of the distance to the nearest wrong image, with eps marked.

    Args:
      shown: name -> f32[n]; infinite ones are left out of the histogram, not of the shares.
    """
    names = {f"■ {words}": color(index) for index, words in enumerate(shown)}
    figure, axes = panel(title, names, 3.1, left=0.58)
    finite = np.concatenate([part[np.isfinite(part)] for part in shown.values()])
    edges = np.linspace(0, max(finite.max(initial=0), 1.2 * eps), BINS + 1)
    for index, part in enumerate(shown.values()):
        _histogram(axes, part, edges, color(index))
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(top=1.1 * axes.get_ylim()[1])  # Room for the words at eps.
    _mark_eps(axes, eps)
    percent_axis(axes.yaxis)
    axes.set_xlabel(f"{norm} distance, pixel units of [0, 1]", loc="left")
    axes.set_ylabel("share of images")
    axes.grid(False, axis="x")
    return figure


def distance_by_kappa(
    name: str, groups: Sequence[Mapping[str, Any]], eps: float, norm: str
) -> Figure:
    """Median and quartiles of the distance for each κ; the number of images above."""
    figure, axes = panel(f"Distance by κ, training images, {shorten(name, 28)}", {}, 3.0, left=0.58)
    groups = [group for group in groups if None not in group["quartiles"]]
    axes.axhline(eps, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    for group in groups:
        low, middle, high = group["quartiles"]
        axes.plot([group["kappa"]] * 2, [low, high], color=COLORS[0], linewidth=5, alpha=0.35)
        axes.plot(group["kappa"], middle, "o", color=COLORS[0], markersize=5)
        axes.annotate(
            str(group["num_examples"]), (group["kappa"], high), xytext=(0, 4), ha="center",
            textcoords="offset points", color=MUTED, fontsize=6,
        )  # fmt: skip
    axes.annotate(
        "eps", (0, eps), xycoords=("axes fraction", "data"), xytext=(2, 2), color=MUTED,
        textcoords="offset points",
    )  # fmt: skip
    axes.set_ylim(0, 1.15 * max([eps, *(group["quartiles"][2] for group in groups)]))
    axes.xaxis.set_major_locator(MaxNLocator(11, integer=True))
    axes.set_xlabel(
        "κ, tested iterates that are right; dot: median, bar: half of the images", loc="left"
    )
    axes.set_ylabel(f"{norm} distance")
    axes.grid(False, axis="x")
    return figure


def _histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, tint: str) -> None:
    """Shares of all values in the bins, as a filled outline."""
    counts, _ = np.histogram(values[np.isfinite(values)], edges)
    axes.stairs(counts / len(values), edges, color=tint, linewidth=1.4)
    axes.stairs(counts / len(values), edges, color=tint, fill=True, alpha=0.18)


def _mark_eps(axes: Axes, eps: float) -> None:
    axes.axvline(eps, color=INK, linewidth=0.8)
    axes.annotate(
        f"eps {eps:.4g}", (eps, 1), xycoords=("data", "axes fraction"), xytext=(3, -2), va="top",
        textcoords="offset points", color=MUTED,
    )  # fmt: skip
