"""Several runs side by side: one program for all of one architecture, images for their sheets."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from score_jax.analysis.finding import Picture
from score_jax.analysis.geometry_kappa import class_name
from score_jax.analysis.subject import Compute, Subject, compiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def runs_of(subject: Subject) -> tuple[Subject, ...]:
    """The subject and those beside it, whose names differ."""
    return (subject, *subject.beside)


def measured(runs: Sequence[Subject], compute: Compute, what: str) -> list[Any]:
    """What `compute` gives for each image of the first run, under every run's weights.

    It is compiled once for all runs of one architecture.

    Args:
      what: for the progress, such as 'gradients taken'.
    """
    programs: dict[str, Callable] = {}
    found = []
    for run in runs:
        model = json.dumps(run.artifact.spec["model"], sort_keys=True)
        if model not in programs:
            like = dataclasses.replace(runs[0], artifact=run.artifact)
            programs[model] = compiled(like, compute)
        found.append(programs[model](run.variables, f"{run.name}: {what}"))
    return found


def some(runs: Sequence[Subject], rows: Sequence[int], points: int = 1) -> list[Subject]:
    """The runs on some of the images, in passes that leave room for so many points of each."""
    rows = list(rows)
    return [
        dataclasses.replace(
            run,
            images=run.images[rows],
            labels=run.labels[rows],
            indices=run.indices[rows],
            batch_size=max(1, run.batch_size // points),
        )
        for run in runs
    ]


def rows_for(runs: Sequence[Subject]) -> int:
    """Images that a sheet has room for."""
    return {1: 6, 2: 4}.get(len(runs), 3)


def titles(subject: Subject) -> list[str]:
    """Class and place in the split of each image that is shown."""
    return [
        f"{class_name(subject, subject.labels[row])} #{subject.indices[row]}"
        for row in subject.chosen
    ]


def places(subject: Subject, count: int | None = None) -> list[int]:
    """Places in the split of the first images that are shown."""
    return subject.indices[list(subject.chosen[:count])].tolist()


def picture(caption: str, drawing: str, *arguments: Any) -> Picture:
    """A picture by the function of `landscape_plots` with that name."""

    def draw() -> "Figure":
        from score_jax.analysis import landscape_plots

        return getattr(landscape_plots, drawing)(*arguments)

    return Picture(caption, draw)


def mean(values: np.ndarray) -> float | None:
    """Of those that are numbers; None where none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def written(value: float | None) -> str:
    """A number to three decimals, '-' for none."""
    return "-" if value is None else f"{value:.3f}"


def ratio(value: float | None, of: float) -> str:
    """How many times, to two decimals; '-' where that is no number."""
    return "-" if value is None or not of > 0 else f"{value / of:.2f}"
