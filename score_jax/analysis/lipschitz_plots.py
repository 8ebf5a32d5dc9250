"""Pictures of local Lipschitz constants."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from score_jax.report_style import COLORS, INK, panel

NUM_BINS = 48
ROWS = {
    "official": "official: as released",
    "ascent": "ascent: steepest found",
    "gradient": "gradient: at the image itself",
}
SPLITS = {"train": COLORS[1], "test": COLORS[0]}


def distributions(found: Mapping[str, Mapping[str, np.ndarray]], eps: float) -> Figure:
    """One row an estimate, over one logarithmic axis; train and test images in each.

    Args:
      found: split -> estimate -> f[n].
    """
    shown = {split: SPLITS[split] for split in SPLITS if split in found}
    names = {f"■ {split} images": tint for split, tint in shown.items()}
    title = "How fast do the logits change near an image?"
    figure, first = panel(title, names, height=4.1, left=0.62)
    box = first.get_position()
    first.remove()
    values = np.concatenate([of[name] for of in found.values() for name in ROWS])
    values = values[values > 0]
    low, high = (values.min(), values.max()) if len(values) else (1.0, 10.0)
    edges = np.geomspace(low / 1.1, high * 1.1, NUM_BINS + 1)
    gap, height = 0.055, box.height / len(ROWS)
    for row, (name, words) in enumerate(ROWS.items()):
        bottom = box.y1 - (row + 1) * height
        axes = figure.add_axes((box.x0, bottom, box.width, height - gap))
        for split, tint in shown.items():
            of = found[split][name]
            counts, _ = np.histogram(of, edges)
            shares = counts / len(of)
            is_filled = split == "train"  # Both stay visible where they coincide.
            style = {"fill": True, "alpha": 0.35} if is_filled else {"linewidth": 1.5}
            axes.stairs(shares, edges, color=tint, **style)
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        axes.yaxis.get_major_locator().set_params(nbins=3)
        steps = (1.0, 2.0, 5.0) if high < 200 * low else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        means = ", ".join(f"{of[name].mean():.4g} {split}" for split, of in found.items())
        axes.set_title(f"{words}; mean {means}", loc="left", fontsize=8, color=INK, pad=3)
        if row == 1:
            axes.set_ylabel("images")
        if row + 1 < len(ROWS):
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel(
                f"change of the logits (L1) per unit of L∞ distance, within eps {eps:.3g}",
                loc="left",
            )
    return figure
