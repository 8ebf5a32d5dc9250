"""How the pictures of a report look: palette, panels, end labels, and the formats they go to."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Told apart with every common colour blindness, and by lightness; after Okabe and Ito.
COLORS = ("#0068a8", "#c05200", "#00805a", "#a3508a", "#7a6a00")
DARK_COLORS = ("#58b1ec", "#f59a57", "#3fd0a4", "#e59bcb", "#d8c34a")
INK, MUTED, GRID = "#1c2126", "#66707a", "#e0e4e8"
WIDTH, DOTS = 4.4, 100  # Inches, and dots an inch: 440 units wide.
STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "score_jax",
}


@dataclass(frozen=True)
class Line:
    """One curve, labelled at its end."""

    x: Sequence[float]
    y: Sequence[float]
    label: str
    color: str
    is_attacked: bool = False
    marker: str = ""


def color(index: int) -> str:
    """The colour of the run of that index."""
    return COLORS[index % len(COLORS)]


def shorten(name: str, length: int) -> str:
    """A name that fits; its end is what tells runs apart."""
    return name if len(name) <= length else f"...{name[3 - length :]}"


def to_png(figure: Figure) -> bytes:
    """The figure on white, twice the size of a page's pixels."""
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        FigureCanvasAgg(figure)
        figure.savefig(file, format="png", dpi=2 * DOTS, facecolor="white", metadata={})
        return file.getvalue()


def to_svg(figure: Figure) -> str:
    """The figure with text as text, and no date in it."""
    with matplotlib.rc_context(STYLE), io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return file.getvalue()


def to_inline(svg: str, label: str) -> str:
    """An SVG for the inside of a page: its colours follow the page, it names no address."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # The same in every figure, and no one refers to it.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    names = {INK: "ink", MUTED: "muted", GRID: "grid"}
    names |= {hex_: f"run-{index}" for index, hex_ in enumerate(COLORS)}
    for hex_, name in names.items():
        svg = svg.replace(hex_, f"var(--{name})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def panel(
    title: str,
    names: Mapping[str, str],
    height: float = 2.9,
    left: float = 0.46,
    right: float = 0.2,
) -> tuple[Figure, Axes]:
    """A figure with a title, words in colours that tell the runs apart, and axes; inches."""
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    figure.text(0.05 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=9.5, fontweight="bold")
    top, x = 0.36, 0.05
    for words, tint in names.items():
        width = 0.063 * len(words) + 0.15
        if x > 0.05 and x + width > WIDTH:
            top, x = top + 0.17, 0.05
        figure.text(x / WIDTH, 1 - top / height, words, va="top", color=tint)
        x += width
    top += 0.28 if names else 0.1
    bottom = 0.46
    axes = figure.add_axes(
        (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    )
    axes.spines["bottom"].set_zorder(1)  # A line at 0% stays visible.
    return figure, axes


def percent_axis(axis: Axis) -> None:
    """Ticks of fractions, as percentages; all with the digits that they need, at most three."""

    def write(value: float, _: int | None) -> str:
        percents = [100 * float(place) for place in axis.get_majorticklocs()]
        digits = next(
            (n for n in range(3) if all(abs(p - round(p, n)) < 1e-6 for p in percents)), 3
        )
        return f"{round(100 * value, digits) + 0.0:.{digits}f}%"  # + 0.0: never "-0%".

    axis.set_major_formatter(FuncFormatter(write))


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Dashed where attacked; a single point has a marker."""
    for line in lines:
        axes.plot(
            line.x, line.y, color=line.color, linestyle=(0, (4, 1.6)) if line.is_attacked else "-",
            marker=line.marker or ("o" if len(line.x) == 1 else None), markersize=3.5,
            clip_on=False,
        )  # fmt: skip


def label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Writes each label right of its line's last point, pushed apart where they would touch."""
    low, high = axes.get_ylim()
    axes_height = axes.get_position().height * axes.figure.get_figheight()
    gap = 0.15 / axes_height * (high - low)
    lines = sorted(lines, key=lambda line: line.y[-1])
    places = spread([line.y[-1] for line in lines], gap, low, high)
    right = max(line.x[-1] for line in lines)
    for line, place in zip(lines, places, strict=True):
        axes.annotate(
            line.label, (right, place), xytext=(6, 0), textcoords="offset points", va="center",
            color=line.color, annotation_clip=False,
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted values moved as little as needed to lie `gap` apart, within [low, high] if they can.

    Groups that touch are merged and centred on their mean, until none touch.
    """
    groups = [[value] for value in values]

    def edges(group):
        half = gap * (len(group) - 1) / 2
        middle = min(max(sum(group) / len(group), low + half), max(high - half, low + half))
        return middle - half, middle + half

    index = 0
    while index + 1 < len(groups):
        if edges(groups[index])[1] + gap > edges(groups[index + 1])[0] + 1e-12:
            groups[index : index + 2] = [groups[index] + groups[index + 1]]
            index = max(index - 1, 0)
        else:
            index += 1
    return [edges(group)[0] + gap * i for group in groups for i in range(len(group))]
