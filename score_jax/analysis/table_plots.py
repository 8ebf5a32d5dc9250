"""Pictures of the table of runs: a line a run, dots along it."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from score_jax.report_style import INK, MUTED, WIDTH, color, panel, shorten

Shown = Sequence[tuple[str, Mapping[str, float | None]]]
LINE, HEAD, FOOT = 0.19, 0.75, 0.5  # Inches.
CLEAN, ATTACKED, STEEP = color(0), color(1), color(2)


def smoothness(rows: Shown) -> Figure:
    """Lipschitz constants beside accuracies on test images; `rows` from steep to smooth."""
    names = {"○ released estimate": STEEP, "● steepest found, mean": STEEP,
             "■ clean": CLEAN, "■ attacked": ATTACKED}  # fmt: skip
    figure, left, right = _two("Are the smoother models the robust ones?", names, rows)
    _log_axis(left, [values[name] for _, values in rows for name in ("test Lipschitz", "ascent")])
    left.set_xlabel("local Lipschitz constant", loc="left")
    right.set_xlabel("test accuracy, %", loc="left")
    for place, (_, values) in enumerate(rows):
        _dots(left, place, values, {"test Lipschitz": STEEP, "ascent": STEEP}, hollow="test Lips")
        _dots(right, place, values, {"test": CLEAN, "adv test": ATTACKED})
    right.set_xlim(-3, 103)
    return figure


def gaps(rows: Shown) -> Figure:
    """Training beside test accuracy, clean and attacked."""
    names = {"○ training": INK, "● test": INK, "■ clean": CLEAN, "■ attacked": ATTACKED}
    figure, left, right = _two("How much holds on images not trained on?", names, rows)
    left.set_xlabel("clean accuracy, %", loc="left")
    right.set_xlabel("accuracy attacked, %", loc="left")
    for place, (_, values) in enumerate(rows):
        _dots(left, place, values, {"train": CLEAN, "test": CLEAN}, hollow="train")
        _dots(right, place, values, {"adv train": ATTACKED, "adv test": ATTACKED}, "adv train")
    right.set_xlim(-3, 103)
    return figure


def _two(title: str, names: Mapping[str, str], rows: Shown) -> tuple[Figure, Axes, Axes]:
    """Two panels with the same lines; the names stand left."""
    texts = [shorten(name, 24) for name, _ in rows]
    left = 0.25 + 0.065 * max(map(len, texts))
    height = HEAD + FOOT + LINE * len(rows)
    figure, first = panel(title, names, height=height, left=left)
    box = first.get_position()
    width = (box.width - 0.2 / WIDTH) / 2
    first.set_position((box.x0, box.y0, width, box.height))
    second = figure.add_axes((box.x1 - width, box.y0, width, box.height), sharey=first)
    first.set_ylim(len(rows) - 0.4, -0.6)
    first.set_yticks(range(len(rows)), texts, color=INK)
    second.tick_params(axis="y", labelleft=False)
    return figure, first, second


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic, with plain numbers at few ticks."""
    axes.set_xscale("log")
    positive = [value for value in values if value > 0]
    is_wide = bool(positive) and max(positive) > 30 * min(positive)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _dots(
    axes: Axes, place: int, values: Mapping[str, float | None], tints: Mapping[str, str],
    hollow: str = "",
) -> None:  # fmt: skip
    """A dot a column, joined by a thin line."""
    known = {name: values.get(name) for name in tints if values.get(name) is not None}
    axes.plot(list(known.values()), [place] * len(known), color=MUTED, linewidth=0.9, zorder=1)
    for name, value in known.items():
        is_hollow = bool(hollow) and name.startswith(hollow)
        axes.plot(
            [value], [place], "o", markersize=5, markeredgewidth=1.3, color=tints[name],
            markerfacecolor="white" if is_hollow else tints[name], clip_on=False, zorder=3,
        )  # fmt: skip
