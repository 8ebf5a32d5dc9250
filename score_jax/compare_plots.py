"""The pictures of a comparison: module by module, decision by decision, policy by policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_jax.report_style import INK, MUTED, STYLE, color, panel, percent_axis, to_png, to_svg

LOWEST = 1e-9  # Where a difference of exactly 0 is drawn on a logarithmic axis.
MOST_NAMED = 14  # Modules whose names fit beside each other.


def write(result: Mapping[str, Any]) -> list[Path]:
    """Writes every picture that there is something for into the comparison's folder.

    Args:
      result: what `compare.compare` returns.
    """
    written = []
    for name, figure in draw(result).items():
        path = Path(result["folder"]) / name
        path.with_suffix(".png").write_bytes(to_png(figure))
        path.with_suffix(".svg").write_text(to_svg(figure))
        written += [path.with_suffix(".png"), path.with_suffix(".svg")]
    return written


def draw(result: Mapping[str, Any]) -> dict[str, Figure]:
    """Name -> figure."""
    with matplotlib.rc_context(STYLE):
        figures = {"precision": _precision(result)}
        if result.get("layers") and result["layers"]["modules"]:
            figures["layers"] = _layers(result["layers"])
        attacks = {
            name: result[key]["robust"]
            for key, name in (("pgd", "PGD"), ("autoattack", "AutoAttack"))
            if key in result
        }
        if attacks:
            figures["agreement"] = _agreement(attacks)
    return figures


def _layers(layers: Mapping[str, Any]) -> Figure:
    modules, parted = layers["modules"], layers["parted_at"]
    few = len(modules) <= MOST_NAMED
    height = 0.85 + 0.17 * len(modules) if few else 2.9
    left = 0.25 + 0.062 * max(len(row["path"]) for row in modules) if few else 0.5
    figure, axes = panel(
        "Where A and B part: relative difference of each module", {}, height, left=left
    )
    values = [max(row["relative_difference"], LOWEST) for row in modules]
    tints = [color(1 if value > layers["tolerance"] else 0) for value in values]
    places = range(len(modules))
    if few:
        axes.scatter(values, places, c=tints, s=22, zorder=3)
        axes.set_xscale("log")
        axes.set_yticks(list(places), [row["path"] for row in modules])
        axes.set_ylim(len(modules) - 0.5, -0.5)
        axes.tick_params(axis="y", colors=INK)
        axes.axvline(layers["tolerance"], color=MUTED, linewidth=0.8)
        _limit(axes.set_xlim, values, layers["tolerance"])
    else:
        axes.scatter(places, values, c=tints, s=9, zorder=3)
        axes.set_yscale("log")
        axes.set_xlabel("modules in the order of the computation", loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.axhline(layers["tolerance"], color=MUTED, linewidth=0.8)
        _limit(axes.set_ylim, values, layers["tolerance"])
    axes.minorticks_off()
    if parted and not few:
        index = next(i for i, row in enumerate(modules) if row["path"] == parted)
        near = index < len(modules) / 2
        axes.annotate(
            f"first: {parted}", (index, values[index]), xytext=(6 if near else -6, -9),
            ha="left" if near else "right", textcoords="offset points", color=color(1),
        )  # fmt: skip
    return figure


def _limit(set_limits: Any, values: list[float], tolerance: float) -> None:
    set_limits(min([*values, tolerance]) / 4, max([*values, tolerance]) * 4)


def _agreement(attacks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One bar an attack: who withstands it."""
    parts = {
        "both": ("■ robust in both", color(0)),
        "only_a": ("■ only in A", color(1)),
        "only_b": ("■ only in B", color(3)),
        "neither": ("■ in neither", "#8b959e"),
    }
    names = {words: tint for words, tint in parts.values()}
    height = 1.1 + 0.42 * len(attacks)
    figure, axes = panel(
        "The same images under attack", names, height, left=0.3 + 0.065 * max(map(len, attacks))
    )
    for row, counts in enumerate(attacks.values()):
        total, start = sum(counts[part] for part in parts), 0.0
        for part, (_, tint) in parts.items():
            share = counts[part] / total
            axes.barh(row, share, left=start, height=0.6, color=tint)
            if share > 0.08:
                axes.text(
                    start + share / 2, row, str(counts[part]), ha="center", va="center",
                    color="white",
                )  # fmt: skip
            start += share
    axes.set_xlim(0, 1)
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.set_yticks(range(len(attacks)), list(attacks))
    axes.tick_params(axis="y", colors=INK)
    axes.grid(False, axis="y")
    percent_axis(axes.xaxis)
    return figure


def _precision(result: Mapping[str, Any]) -> Figure:
    """The largest relative difference of logits: B from A, and each policy from float32."""
    rows = {"B from A": result["logits"]}
    for row in result["precisions"]:
        rows[f"{row['side'].upper()}, {row['precision']}"] = row["logits"]
    left = 0.25 + 0.065 * max(map(len, rows))
    figure, axes = panel(
        "Largest relative difference of logits", {}, 0.75 + 0.24 * len(rows), left=left, right=0.75
    )
    values = [max(entry["max_relative_difference"], LOWEST) for entry in rows.values()]
    axes.scatter(values, range(len(rows)), color=[color(i > 0) for i in range(len(rows))], s=24)
    axes.set_xscale("log")
    axes.minorticks_off()
    _limit(axes.set_xlim, values, max(values))
    _label(axes, values)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", colors=INK)
    axes.grid(False, axis="y")
    return figure


def _label(axes: Axes, values: list[float]) -> None:
    for place, value in enumerate(values):
        words = "equal bit by bit" if value == LOWEST else f"{value:.1g}"
        axes.annotate(
            words, (value, place), xytext=(6, 0), textcoords="offset points", va="center",
            color=MUTED, annotation_clip=False,
        )  # fmt: skip
