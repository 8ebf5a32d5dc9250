"""`score-jax analyze separation`: how far apart images of different classes lie."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import overrides
from score_jax.analysis import separation, separation_words
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.separation_pass import Points
from score_jax.analysis.separation_words import PUBLISHED, SIDES, Measured
from score_jax.command_line import Call, UsageError
from score_jax.command_line_run import radius_of
from score_jax.data import sources
from score_jax.workdir import Workdir
from score_jax.writers_progress import counted

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
MILLION = 10**6


@dataclass(frozen=True)
class First:
    """The first so many examples of a source."""

    source: sources.Source
    count: int

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels[: self.count]

    def __len__(self) -> int:
        return self.count

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.source.take(indices)


def run(call: Call) -> Iterator[Finding]:
    """Train-train and test-train separation."""
    norm, p = norm_of(call)
    dataset = dataset_of(call)
    eps = radius_of(call, "", norm)
    published = PUBLISHED.get(dataset) if p == math.inf and not call.num_examples else None
    if eps is None and p == math.inf and dataset in PUBLISHED:
        eps = PUBLISHED[dataset].eps
    splits = splits_of(dataset, call.data_dir)
    points = {
        name: First(source, min(call.num_examples or len(source), len(source)))
        for name, source in splits.items()
    }
    if call.outliers >= len(points["train"]):
        raise UsageError(
            f"--outliers={call.outliers} leaves nothing of {len(points['train'])} training images; "
            "give fewer"
        )
    measured = Measured(
        dataset=dataset,
        compared=_compare(dataset, points, p, call.seed),
        labels={name: of.labels for name, of in points.items()},
        class_names=sources.class_names(dataset, call.data_dir),
        p=p,
        eps=eps,
        published=published,
        outliers=call.outliers,
        seed=call.seed,
    )
    part = f"_{call.num_examples}" if call.num_examples else ""
    yield Finding(
        name=f"separation_{dataset}_{norm}{part}",
        title=f"Separation of {dataset}, {separation_words.norm_name(p)}",
        summary=separation_words.summary(measured),
        facts={
            "norm": norm,
            **separation_words.facts(measured),
            "data_sha256": {name: source.fingerprint for name, source in splits.items()},
        },
        table=separation_words.table(measured),
        pictures=_pictures(measured, points),
        arrays=_arrays(measured),
    )


def norm_of(call: Call) -> tuple[str, float]:
    """'linf' and infinity, as --norm or --p say."""
    if not call.p:
        norm = call.norm or "linf"
        return norm, NORMS[norm]
    if call.norm:
        raise UsageError(f"--norm={call.norm} and --p={call.p} both name a norm; give one")
    try:
        p = overrides.parse_number(call.p)
    except ValueError:
        raise UsageError(f"--p={call.p} is not a number; give such as 3, or inf") from None
    if not p >= 1:
        raise UsageError(f"--p={call.p} is not a norm; give 1 or more, or inf")
    short = f"{p:g}"  # Names files, so that near ones must differ.
    return f"l{short if float(short) == p else repr(p)}", p


def dataset_of(call: Call) -> str:
    """--data, or else that of the run.

    Raises:
      UserError: the config of the run is damaged.
    """
    workdir = Workdir(Path(call.workdir))
    if call.values["data"].present or not call.workdir or not workdir.config.exists():
        return call.data
    return str(workdir.read_config().data.name)


def splits_of(dataset: str, data_dir: str) -> dict[str, sources.Source]:
    """'train', and 'test' where the dataset has such a split."""
    splits = {"train": sources.train_source(dataset, data_dir)}
    if "test" in sources.spec(dataset, data_dir).split_sizes:
        splits["test"] = sources.test_source(dataset, data_dir)
    return splits


def _compare(
    dataset: str, points: dict[str, First], p: float, seed: int
) -> dict[str, separation.Compared]:
    random = np.random.default_rng(seed)
    classes = np.unique(points["train"].labels)
    controls = {name: random.choice(classes, len(of)) for name, of in points.items()}
    found = {}
    for side in SIDES:
        name = side.removesuffix("_train")
        if name not in points:
            continue
        total = len(points[name]) * len(points["train"]) // MILLION
        with counted(f"{dataset} {SIDES[side]}: million pairs", total) as tell:
            found[side] = separation.compare(
                points[name],
                points["train"],
                p=p,
                controls=(controls[name], controls["train"]),
                tell=lambda done, tell=tell: tell(done // MILLION),
            )
    return found


def _pictures(measured: Measured, points: dict[str, First]) -> dict[str, Picture]:
    """Drawn only where matplotlib is."""

    def draw(name: str, *arguments: Any) -> Any:
        from score_jax.analysis import separation_plots

        return getattr(separation_plots, name)(measured, *arguments)

    def pairs(side: str, split: str, queries: Points) -> Picture:
        return Picture(
            f"The nearest {split} and training images of different classes",
            lambda: draw("pairs", side, queries, points["train"]),
        )

    return {
        "histogram": Picture(
            "Distance of each image to the nearest of another class", lambda: draw("histogram")
        ),
        **{
            f"pairs_{split}": pairs(side, split, points[split])
            for side in measured.compared
            for split in [side.removesuffix("_train")]
        },
        "classes": Picture(
            "Distance of the nearest training images of every two classes",
            lambda: draw("classes"),
        ),
    }


def _arrays(measured: Measured) -> dict[str, np.ndarray]:
    """Numbers of single examples and of pairs of classes, by 'train_train_distances' and such."""
    arrays = {}
    for side, compared in measured.compared.items():
        arrays |= {
            f"{side}_distances": compared.nearest.distances,
            f"{side}_indices": compared.nearest.indices,
            f"{side}_control_distances": compared.control.distances,
            f"{side}_control_indices": compared.control.indices,
        }
    return arrays
