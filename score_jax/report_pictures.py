"""Pictures of pictures: adversarial examples and input gradients."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from score_jax.report_run import Run
from score_jax.report_style import DOTS, INK, MUTED, WIDTH, color, shorten


def gain(changes: np.ndarray) -> float:
    """The factor, to two digits, that makes the largest change half of the grey scale."""
    largest = float(np.abs(changes).max())
    return float(f"{0.499 / largest:.1e}") if largest > 0 else 1.0


def grid(
    title: str,
    words: str,
    tint: str,
    rows: Sequence[str],
    count: int,
    columns: int = 5,
    tints: Sequence[str] = (),
    heads: Sequence[str] = (),
) -> tuple[Figure, list[list[Axes]]]:
    """Small axes for images under a title: cells[row][example].

    Args:
      words: a line of explanation.
      tint: colour of the title.
      rows: what stands left of each row; every line of examples has all rows.
      count: of examples.
      columns: examples in a line.
      tints: colours of the rows' names; (): muted.
      heads: what stands above each column; () for nothing.
    """
    left, gap = 0.72, 0.06
    side = (WIDTH - left - 0.1) / columns - gap
    text = 0.2
    bands = -(-count // columns)
    band = len(rows) * (side + text) + 0.12
    head = 0.16 if heads else 0.0
    height = 0.56 + head + bands * band
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    figure.text(
        0.05 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=9.5, fontweight="bold", color=tint
    )
    figure.text(0.05 / WIDTH, 1 - 0.32 / height, words, va="top", color=MUTED)
    for column, words_above in enumerate(heads):
        x = left + column * (side + gap) + side / 2
        figure.text(x / WIDTH, 1 - 0.54 / height, words_above, va="top", ha="center", color=MUTED)
    cells = [[] for _ in rows]
    for example in range(count):
        x = left + (example % columns) * (side + gap)
        for row, name in enumerate(rows):
            y = height - 0.58 - head - (example // columns) * band - row * (side + text) - side
            axes = figure.add_axes((x / WIDTH, y / height, side / WIDTH, side / height))
            axes.set_axis_off()
            cells[row].append(axes)
            if example % columns == 0:
                middle = (y + side / 2) / height
                figure.text(
                    0.05 / WIDTH, middle, name, va="center", linespacing=1.4,
                    color=tints[row] if tints else MUTED,
                )  # fmt: skip
    return figure, cells


def show(axes: Axes, image: np.ndarray, caption: str = "", is_right: bool = True) -> None:
    """Draws an image f[h, w, c] in [0, 1] with words under it, bold where they are wrong."""
    pixels = np.clip(np.repeat(image, 3, -1) if image.shape[-1] == 1 else image, 0, 1)
    axes.imshow((255 * pixels).round().astype(np.uint8), interpolation="none", aspect="auto")
    axes.text(
        0.5, -0.05, caption, transform=axes.transAxes, ha="center", va="top", fontsize=7,
        color=MUTED if is_right else INK, fontweight="normal" if is_right else "bold",
    )  # fmt: skip


def examples(run: Run, tint: str) -> Figure | None:
    """Clean and adversarial images with the answers of the model; wrong ones are bold."""
    found = run.examples
    if found is None:
        return None
    changes = found.adversarial - found.clean
    factor = gain(changes)
    rows = ("clean", "attacked", f"change\n× {factor:g}")
    words = f"test images under {found.attack}"
    figure, cells = grid(shorten(run.name, 44), words, tint, rows, len(found.labels))
    for index, label in enumerate(found.labels):
        clean_answer = found.clean_answers[index]
        answer = found.adversarial_answers[index]
        if not answer:
            answer = label if found.is_right[index] else "misclassified"
        clean_is_right = clean_answer in ("", label)
        show(cells[0][index], found.clean[index], clean_answer or label, clean_is_right)
        show(cells[1][index], found.adversarial[index], answer, found.is_right[index])
        show(cells[2][index], 0.5 + factor * changes[index])
    return figure


def gradients(runs: Sequence[Run]) -> Figure | None:
    """The input gradients of every run at the same images, grey for 0, each to its own scale."""
    shown = [
        index
        for index, run in enumerate(runs)
        if run.examples is not None and run.examples.gradients is not None
    ]
    if not shown:
        return None
    clean = runs[shown[0]].examples.clean
    shown = [index for index in shown if np.array_equal(runs[index].examples.clean, clean)]
    rows = ("image", *(folded(runs[index].name) for index in shown))
    figure, cells = grid(
        "Input gradients", "of the cross-entropy, grey is 0", INK, rows, len(clean),
        tints=(MUTED, *map(color, shown)),
    )  # fmt: skip
    for example, image in enumerate(clean):
        show(cells[0][example], image, runs[shown[0]].examples.labels[example])
        for row, index in enumerate(shown, 1):
            gradient = runs[index].examples.gradients[example]
            largest = np.abs(gradient).max() or 1.0
            show(cells[row][example], 0.5 + 0.5 * gradient / largest)
    return figure


def folded(name: str, width: int = 10) -> str:
    """A name in at most four lines of `width` characters, broken after its separators."""
    lines = [""]
    for part in re.findall(r"[^_\-/ ]{1,10}[_\-/ ]?", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines[:4])
