"""Pictures of SCORE's bounds: the interval of each model, and what n pairs teach."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from score_jax.analysis.score_bounds import Bound
from score_jax.analysis.score_bounds_finite import Sample
from score_jax.report_style import (
    COLORS,
    DOTS,
    GRID,
    MUTED,
    WIDTH,
    Line,
    draw_lines,
    label_ends,
    panel,
)

SCORE_COLOR, MADRY_COLOR, CHANGE_COLOR = COLORS[0], COLORS[1], COLORS[2]
ROW, TITLE = 0.2, 0.24


def intervals(
    rows: Mapping[str, Mapping[str, Bound]], words: Mapping[str, str], title: str, what: str
) -> Figure:
    """For every divergence a panel: the interval, R_SCORE, R_Madry and C of every row.

    Args:
      rows: name of the row -> divergence -> its bound.
      words: divergence -> what a panel is called.
      what: was measured, in words below the title.
    """
    columns = 2 if len(words) > 1 else 1
    left = 0.3 + 0.062 * max(map(len, rows))
    lines = -(-len(words) // columns)
    inner = ROW * len(rows) + 0.1
    cell = TITLE + inner + 0.3
    outside = any(not found[name].holds for found in rows.values() for name in words)
    told = textwrap.wrap(what, 84)
    below = 0.17 * len(told)
    head = (0.74 if outside else 0.56) + below
    height = head + cell * lines + 0.05
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    figure.text(0.05 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=9.5, fontweight="bold")
    for number, line in enumerate(told):
        figure.text(0.05 / WIDTH, 1 - (0.32 + 0.17 * number) / height, line, va="top")
    keys = (
        ("━ from |R_Madry - C| to R_Madry + C", MUTED), ("● R_SCORE", SCORE_COLOR),
        ("◇ R_Madry", MADRY_COLOR), ("┆ C", CHANGE_COLOR),
    )  # fmt: skip
    x = 0.05
    for text, tint in keys:
        figure.text(x / WIDTH, 1 - (0.36 + below) / height, text, va="top", color=tint)
        x += 0.058 * len(text) + 0.17
    if outside:
        note = "✖ R_SCORE outside: of that D the interval is no theorem"
        figure.text(0.05 / WIDTH, 1 - (0.54 + below) / height, note, va="top", color=SCORE_COLOR)
    wide = (WIDTH - left - 0.12 - 0.34 * (columns - 1)) / columns
    for index, (name, heading) in enumerate(words.items()):
        line, column = divmod(index, columns)
        bottom = height - head - cell * line - TITLE - inner
        place = (left + column * (wide + 0.34)) / WIDTH, bottom / height
        axes = figure.add_axes((*place, wide / WIDTH, inner / height))
        _interval_panel(axes, {row: bounds[name] for row, bounds in rows.items()})
        axes.set_title(heading, loc="left", fontsize=8, pad=4)
        if column:
            axes.set_yticklabels([])
    return figure


def _interval_panel(axes: Axes, bounds: Mapping[str, Bound]) -> None:
    for place, bound in enumerate(bounds.values()):
        axes.plot(
            (bound.lower, bound.upper), (place, place), color=GRID, linewidth=6, zorder=1,
            solid_capstyle="butt",
        )  # fmt: skip
        for end in (bound.lower, bound.upper):
            axes.plot((end, end), (place - 0.3, place + 0.3), color=MUTED, linewidth=1, zorder=2)
        axes.plot(
            bound.madry, place, "D", color=MADRY_COLOR, markersize=4, markerfacecolor="white",
            markeredgewidth=1, zorder=3, clip_on=False,
        )  # fmt: skip
        axes.plot(
            (bound.change, bound.change), (place - 0.42, place + 0.42), color=CHANGE_COLOR,
            linewidth=1.2, linestyle=(0, (2, 1)), zorder=3,
        )  # fmt: skip
        axes.plot(
            bound.score, place, "o" if bound.holds else "X", color=SCORE_COLOR,
            markersize=4 if bound.holds else 6, zorder=4, clip_on=False,
        )  # fmt: skip
    axes.set_yticks(range(len(bounds)), list(bounds))
    axes.set_ylim(len(bounds) - 0.4, -0.6)
    axes.set_xlim(0, 1.04 * max(max(b.upper, b.score) for b in bounds.values()) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
    axes.grid(False, axis="y")


def finite(samples: Sequence[Sample], metric: str, what: str) -> Figure:
    """What the nearest kept of n pairs costs on them, and on all of the distribution `what`."""
    is_best = all(sample.is_minimum for sample in samples)
    figure, axes = panel(
        f"What does {'the best fit' if is_best else 'the nearest kept pair'} of n training pairs "
        "cost?", {what: MUTED}, height=3.05, left=0.5, right=1.62,
    )  # fmt: skip
    x = [sample.num_pairs for sample in samples]
    lines = [
        Line(x, [s.nearest_kept.score for s in samples], "R_SCORE, all data", SCORE_COLOR,
             marker="o"),
        Line(x, [s.nearest_kept.madry for s in samples], "R_Madry, all data", MADRY_COLOR,
             marker="D"),
        Line(x, [s.reached for s in samples], "R_Madry, on the n pairs", MADRY_COLOR, True,
             marker="D"),
        Line(x, [s.nearest_kept.lower for s in samples], "|R_Madry - C|", MUTED),
        Line(x, [s.nearest_kept.change for s in samples], "C", CHANGE_COLOR, True),
    ]  # fmt: skip
    draw_lines(axes, lines)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(x))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(x, [str(n) for n in x])
    axes.minorticks_off()
    axes.set_ylim(0, 1.08 * max(max(line.y) for line in lines))
    axes.set_xlabel("training pairs n", loc="left")
    axes.set_ylabel(f"expected {metric}")
    label_ends(axes, lines)
    return figure
