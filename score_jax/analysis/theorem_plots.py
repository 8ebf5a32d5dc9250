"""Pictures of the theorem's classifier: its probes, its certified accuracy, its tightest balls."""

import numpy as np
from matplotlib.figure import Figure

from score_jax.analysis.theorem import KINDS
from score_jax.analysis.theorem_words import Shown
from score_jax.report_pictures import grid, show
from score_jax.report_style import COLORS, GRID, INK, MUTED, panel, percent_axis

NAMES = {"corner": "corners", "inside": "inside", "towards": "towards another class"}


def probes(shown: Shown) -> Figure:
    """Distances to the own class and to the nearest other one, in units of r."""
    tints = dict(zip(KINDS, COLORS, strict=False))
    names = {f"● {NAMES[kind]}": tint for kind, tint in tints.items()}
    figure, axes = panel("Which class is each point of a ball nearest to?", names, left=0.62)
    for kind, tint in tints.items():
        of = shown.kinds == kind
        axes.plot(
            shown.own[of] / shown.radius, shown.other[of] / shown.radius, "o", color=tint,
            markersize=2.5, markeredgewidth=0, alpha=0.6, clip_on=False,
        )  # fmt: skip
    highest = max(1.1, float(shown.other.max() / shown.radius) * 1.04)
    right = max(1.15, float(shown.own.max() / shown.radius) * 1.04)
    axes.set_xlim(0, right)
    axes.set_ylim(0, highest)
    axes.fill_between((0, right), (0, right), color=GRID, linewidth=0, zorder=0.5)
    axes.annotate(
        "nearer to another class: wrong", (1, 0), xytext=(-6, 5),
        textcoords="offset points", ha="right", va="bottom", color=INK,
    )  # fmt: skip
    axes.axvline(1, color=MUTED, linewidth=0.9, linestyle=(0, (3, 1.5)))
    axes.set_xlabel("distance to its own class, in r", loc="left")
    axes.set_ylabel("to the nearest other class, in r")
    return figure


def certified(shown: Shown) -> Figure:
    """Certified accuracy over the radius."""
    tints = {"train": COLORS[1], "test": COLORS[0]}
    found = {"train": shown.train_certified, "test": shown.test_certified}
    curves = {split: np.sort(of) for split, of in found.items() if of is not None}
    names = {f"■ {split} images": tints[split] for split in curves}
    figure, axes = panel("Where is the classifier proven right?", names, left=0.62)
    right = 1.04 * max(shown.radius, *(float(values[-1]) for values in curves.values()), 0.0)
    radii = np.linspace(0, right, 512)
    for split, values in curves.items():
        shares = 1 - np.searchsorted(values, radii, side="right") / len(values)
        axes.plot(radii, shares, color=tints[split], clip_on=False)
    marks = {f"r = {shown.radius:.3g}": shown.radius}
    if shown.eps:
        marks[f"ε = {shown.eps:g}"] = shown.eps
    # Above the curves; away from each other where two lie close.
    places = sorted(marks.values())
    is_close = places[-1] - places[0] < 0.2 * right and len(places) > 1
    for words, radius in marks.items():
        axes.axvline(radius, color=INK, linewidth=0.9)
        side = ("right" if radius == places[0] else "left") if is_close else "center"
        axes.annotate(
            words, (radius, 1), xytext=(0, 2), textcoords="offset points", ha=side, va="bottom",
            color=INK,
        )  # fmt: skip
    axes.set_xlim(0, right)
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    axes.set_xlabel(f"{shown.norm} radius around the image (pixels in [0, 1])", loc="left")
    axes.set_ylabel("images")
    return figure


def hardest(shown: Shown) -> Figure:
    """The tightest balls: center, the probe furthest towards another class, and that class."""
    rows = ("training\nimage", "towards\nthe other", "nearest of\nthe other")
    probed = " probed" if shown.train_certified is None else ""
    title = f"What lies at the edge of the tightest balls{probed}?"
    words = f"the middle row is 0.999 r away from the image above it; r = {shown.radius:.3g}"
    figure, cells = grid(title, words, INK, rows, len(shown.hardest))
    for place, (label, is_right, *images) in enumerate(shown.hardest):
        name = shown.class_name(int(label))
        captions = (name, f"still {name}" if is_right else "wrong", "")
        for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
            show(cells[row][place], image / 255, caption, is_right or row != 1)
    return figure
