"""Pictures of a model around single images: loss surfaces, gradients, images in growing balls."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_jax.analysis.landscape_gradients import to_picture
from score_jax.analysis.landscape_radii import write_radius
from score_jax.report_pictures import folded, grid, show
from score_jax.report_style import (
    DOTS,
    INK,
    MUTED,
    WIDTH,
    Line,
    color,
    draw_lines,
    label_ends,
    panel,
    percent_axis,
    shorten,
)

NORM_NAMES = {"linf": "L∞", "l2": "L2"}
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # Nats.


def surfaces(
    names: Sequence[str],
    points: np.ndarray,
    planes: Sequence[Mapping[str, np.ndarray]],
    titles: Sequence[str],
    norm: str,
    eps: float,
) -> Figure:
    """Panels of the loss on planes, [image][run], in one colour scale.

    Args:
      points: coordinates f64[g] in eps, of both axes.
      planes: of each run, what `landscape_surface.plane` gives.
      titles: of the images.
    """
    is_one = len(names) == 1
    columns = min(3, len(titles)) if is_one else len(names)
    count = len(titles) if is_one else len(titles) * len(names)
    lines = -(-count // columns)
    left, right, top, gap, head = 0.42, 0.62, 0.62, 0.1, 0.2
    side = min((WIDTH - left - right) / columns - gap, 1.6)
    height = top + lines * (side + (head if is_one else gap)) + 0.42
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    figure.text(
        0.05 / WIDTH, 1 - 0.1 / height, "Loss around images", va="top", fontsize=9.5,
        fontweight="bold",
    )  # fmt: skip
    words = f"cross-entropy; axes in ε = {write_radius(eps)} ({NORM_NAMES.get(norm, norm)})"
    figure.text(0.05 / WIDTH, 1 - 0.29 / height, words, va="top", color=MUTED)
    losses = np.concatenate([found["loss"].ravel() for found in planes])
    scale, levels = _scale(losses)
    for number in range(count):
        line, column = divmod(number, columns)
        image, run = (number, 0) if is_one else (line, column)
        x = left + column * (side + gap)
        y = height - top - line * (side + (head if is_one else gap)) - side
        axes = figure.add_axes((x / WIDTH, y / height, side / WIDTH, side / height))
        found = {name: values[image] for name, values in planes[run].items()}
        _surface(axes, points, found, scale, levels)
        axes.tick_params(
            labelleft=column == 0, labelbottom=line == lines - 1 or number + columns >= count
        )
        if is_one:
            axes.set_title(shorten(titles[image], 20), fontsize=7, color=MUTED, pad=3)
        elif column == 0:
            axes.set_ylabel(shorten(titles[image], 20), fontsize=7, color=INK)
        if not is_one and line == 0:
            axes.set_title(folded(names[run], 16), fontsize=8, color=color(run), pad=4)
    _legend(figure, scale, left + columns * (side + gap), height, top)
    figure.text(
        left / WIDTH, 0.1 / height, "across: random direction, up: what PGD found", color=MUTED
    )
    return figure


def _scale(losses: np.ndarray) -> tuple[ScalarMappable, np.ndarray]:
    """Bands of colour between round values that hold nearly all losses."""
    low, high = np.quantile(losses, 0.01), losses.max()
    first = max(np.searchsorted(LEVELS, low) - 1, 0)
    last = min(max(np.searchsorted(LEVELS, high), first + 2), len(LEVELS) - 1)
    levels = np.array(LEVELS[first : last + 1], np.float64)
    if len(levels) < 6:  # Too few bands to see a shape in: even ones.
        levels = MaxNLocator(9).tick_values(low, high)
    cmap = colormaps["viridis"]
    return ScalarMappable(BoundaryNorm(levels, cmap.N, extend="both"), cmap), levels


def _surface(axes, points, found, scale, levels) -> None:
    """One plane: the random direction to the right, the way of PGD up."""
    axes.contourf(
        points, points, np.maximum(found["loss"], 1e-12), levels=levels, norm=scale.norm,
        cmap=scale.cmap, extend="both",
    )  # fmt: skip
    axes.contour(
        points, points, found["distance"], levels=[1 + 1e-4], colors="white", linewidths=0.9,
        linestyles=[(0, (3, 2))],
    )  # fmt: skip
    if found["margin"].min() < 0 < found["margin"].max():
        axes.contour(points, points, found["margin"], levels=[0], colors=INK, linewidths=1.4)
    style = {"color": "white", "markeredgecolor": INK, "linestyle": "none", "markersize": 5}
    axes.plot(0, 0, marker="o", **style)
    axes.plot(0, found["place"], marker="X", **style)
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.grid(False)


def _legend(figure, scale, x, height, top) -> None:
    """The colours' values, right of the panels."""
    length = min(height - top - 0.5, 2.2)
    place = (x / WIDTH, 1 - (top + length) / height, 0.1 / WIDTH, length / height)
    bar = figure.colorbar(scale, cax=figure.add_axes(place), ticks=scale.norm.boundaries)
    bar.ax.set_yticklabels([f"{value:g}" for value in scale.norm.boundaries])
    bar.outline.set_visible(False)


def gradients(
    names: Sequence[str],
    images: np.ndarray,
    titles: Sequence[str],
    sheets: Sequence[np.ndarray],
) -> Figure:
    """Images f[n, h, w, c] over the gradients of each run at them, f[n, h, w, c] each."""
    is_coloured = len(names) == 1 and images.shape[-1] > 1
    rows = ["image", *(["gradient", "by\nchannel"] if is_coloured else map(folded, names))]
    tints = [MUTED, *([MUTED] * 2 if is_coloured else map(color, range(len(names))))]
    figure, cells = grid(
        "What does the gradient show?", "of the cross-entropy, grey is 0", INK, rows, len(images),
        tints=tints,
    )  # fmt: skip
    for example, image in enumerate(images):
        show(cells[0][example], image, titles[example])
        ways = [False, True] if is_coloured else [True] * len(names)
        found = [sheets[0]] * 2 if is_coloured else sheets
        for row, (sheet, is_by_channel) in enumerate(zip(found, ways, strict=True), 1):
            show(cells[row][example], to_picture(sheet[example], is_by_channel))
    return figure


def alignments(names: Sequence[str], values: Sequence[np.ndarray], noise: float) -> Figure:
    """Cumulative shares of images over their alignment, f[n] of each run; NaN left out."""
    tinted = {f"■ {shorten(name, 55)}": color(index) for index, name in enumerate(names)}
    figure, axes = panel("How much of the image is in its gradient?", tinted)
    for index, found in enumerate(values):
        found = np.sort(found[np.isfinite(found)])
        share = np.arange(1, len(found) + 1) / max(len(found), 1)
        axes.plot(found, share, color=color(index), drawstyle="steps-post")
    axes.axvline(noise, color=MUTED, linewidth=0.8)
    axes.annotate(
        "noise", (noise, 1), xytext=(4, -1), textcoords="offset points", va="top", color=MUTED
    )
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    axes.set_xlabel("alignment |cos| of image and gradient; images up to it", loc="left")
    axes.grid(False, axis="x")
    return figure


def radii(
    names: Sequence[str],
    sizes: Sequence[float],
    sheets: Sequence[Mapping[str, np.ndarray]],
    titles: Sequence[str],
    labels: np.ndarray,
    class_name: Callable[[int], str],
    norm: str,
) -> Figure:
    """Rows of images over radii, the runs of an image below each other."""
    count = len(sheets[0]["images"])
    pairs = [(image, run) for image in range(count) for run in range(len(names))]
    rows = [
        folded(names[run]) if len(names) > 1 else titles[image].replace(" ", "\n")
        for image, run in pairs
    ]
    figure, cells = grid(
        "What does the attack make of images?",
        f"PGD of growing radius ε, {NORM_NAMES.get(norm, norm)}",
        INK, rows, len(sizes), columns=len(sizes),
        heads=[write_radius(size) if size else "image" for size in sizes],
        tints=[color(run) if len(names) > 1 else MUTED for _, run in pairs],
    )  # fmt: skip
    for row, (image, run) in enumerate(pairs):
        found = sheets[run]
        for column in range(len(sizes)):
            answer = int(found["prediction"][image, column])
            words = _caption(class_name(answer), found["confidence"][image, column])
            show(
                cells[row][column], found["images"][image, column], words,
                answer == labels[image],
            )  # fmt: skip
    return figure


def led(
    names: Sequence[str],
    image: np.ndarray,
    label: int,
    sheets: Sequence[Mapping[str, np.ndarray]],
    class_name: Callable[[int], str],
    size: float,
    norm: str,
) -> Figure:
    """An image f[h, w, c] led to the first ten classes, by every run."""
    figure, cells = grid(
        f"Does “{class_name(label)}” come to look like other classes?",
        f"led there by PGD within {write_radius(size)} ({NORM_NAMES.get(norm, norm)})", INK,
        [folded(name) for name in names], sheets[0]["images"].shape[1],
        tints=list(map(color, range(len(names)))),
    )  # fmt: skip
    for run, found in enumerate(sheets):
        for target, cell in enumerate(cells[run]):
            if target == label:
                show(cell, image, "the image")
                continue
            words = _caption(class_name(target), found["confidence"][0, target])
            show(cell, found["images"][0, target], words)
    return figure


def _caption(name: str, probability: float) -> str:
    """A class and its probability, as short as the cell of a sheet is wide."""
    return f"{name if len(name) <= 6 else name[:5] + '.'} {probability:.0%}"


def confidence(
    names: Sequence[str],
    sizes: Sequence[float],
    curves: Sequence[Mapping[str, np.ndarray]],
    norm: str,
) -> Figure:
    """Accuracy and mean confidence over the radius, of every run."""
    tinted = {f"■ {shorten(name, 55)}": color(index) for index, name in enumerate(names)}
    figure, axes = panel(
        "How sure is the model of its wrong answers?", tinted if len(names) > 1 else {}, right=0.85
    )
    lines, places = [], range(len(sizes))
    for index, curve in enumerate(curves):
        lines += [
            Line(places, curve["confidence"], "confidence", color(index), False, "o"),
            Line(places, curve["accuracy"], "accuracy", color(index), True, "o"),
        ]
    draw_lines(axes, lines)
    axes.set_ylim(0, 1)
    axes.set_xlim(0)
    percent_axis(axes.yaxis)
    label_ends(axes, lines)
    axes.set_xticks(places, [write_radius(size) for size in sizes])
    axes.set_xlabel(f"radius ε of PGD, {NORM_NAMES.get(norm, norm)}", loc="left")
    axes.grid(False, axis="x")
    return figure
