"""`score-jax analyze theorem`: a smooth classifier, right all around the training images."""

import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from score_jax import overrides
from score_jax.analysis import theorem, theorem_words
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.jobs import folder_of
from score_jax.analysis.separation import Nearest, compare, keep_from
from score_jax.analysis.separation_job import First, dataset_of, norm_of, splits_of
from score_jax.analysis.theorem import DistanceClassifier, Part
from score_jax.analysis.theorem_words import Shown
from score_jax.command_line import Call, UsageError
from score_jax.data import sources
from score_jax.types import UserError
from score_jax.writers import LOGGER
from score_jax.writers_progress import counted

LEVELS = 255
TIGHTEST = {False: "the tightest balls", True: "the tightest of the balls probed"}


def run(call: Call) -> Iterator[Finding]:
    """Builds the classifier from the training images, probes it, and judges it on test images."""
    norm, p = norm_of(call)
    dataset = dataset_of(call)
    asked = _radius(call)
    splits = {
        name: First(source, min(call.num_examples or len(source), len(source)))
        for name, source in splits_of(dataset, call.data_dir).items()
    }
    train = splits["train"]
    if call.outliers >= len(train):
        raise UsageError(f"--outliers={call.outliers} leaves nothing; give fewer")
    rows, nearest = np.arange(len(train)), _known(call, train, dataset, norm, p)
    if nearest is None and (asked is None or call.outliers):
        nearest = _compared(train, train, p, "train-train")
    if nearest is not None:
        rows = np.flatnonzero(keep_from(nearest.distances, call.outliers + 1))
    separation = None if nearest is None else float(nearest.distances[rows].min())
    if asked is None and not separation:
        raise UserError(
            f"two training images of {dataset} are the same and have two labels: no radius around "
            "them; leave them out with --outliers=N, or give --radius"
        )
    radius = asked if asked is not None else separation / 2
    probed = _probed(call, Part(train, rows, is_levels=True), rows, nearest, radius, p)
    if separation is None and len(probed["center_rows"]) == len(rows):
        separation = probed["nearest"]
    shown = Shown(
        dataset=dataset, p=p, radius=radius, separation=separation, num_points=len(rows),
        outliers=len(train) - len(rows), outliers_asked=call.outliers, seed=call.seed,
        class_names=sources.class_names(dataset, call.data_dir), **probed,
        **_judged(Part(train, rows), splits.get("test"), radius, p),
        train_certified=None if nearest is None else np.sort(nearest.distances[rows]) / 2,
    )  # fmt: skip
    part = f"_{call.num_examples}" if call.num_examples else ""
    yield Finding(
        name=f"theorem_{dataset}_{norm}{part}",
        title=f"A classifier of slope 1/r for {dataset}, {shown.norm}",
        summary=theorem_words.summary(shown),
        facts=theorem_words.facts(shown) | {"data_sha256": train.source.fingerprint},
        table=theorem_words.table(shown),
        pictures=_pictures(shown),
        arrays={
            "train_rows": shown.center_rows, "probe_kinds": shown.kinds,
            "probe_own": shown.own, "probe_other": shown.other,
            **({} if shown.test_own is None else {
                "test_own": shown.test_own, "test_other": shown.test_other,
            }),
        },
    )  # fmt: skip


def _radius(call: Call) -> float | None:
    if not call.radius:
        return None
    try:
        radius = overrides.parse_number(call.radius)
    except ValueError:
        radius = 0.0
    if not 0 < radius < float("inf"):
        raise UsageError(f"--radius={call.radius} is no radius; give a number such as 0.1")
    return radius


def _known(call: Call, train: First, dataset: str, norm: str, p: float) -> Nearest | None:
    """What `analyze separation` found of the same images, where it wrote beside this finding."""
    part = f"_{call.num_examples}" if call.num_examples else ""
    path = folder_of(call) / f"separation_{dataset}_{norm}{part}.json"
    try:
        facts = json.loads(path.read_text())
        is_same = facts["data_sha256"]["train"] == train.source.fingerprint
        if not is_same or float(facts["p"]) != p:
            return None
        with np.load(path.with_suffix(".npz")) as arrays:
            found = Nearest(
                distances=arrays["train_train_distances"], indices=arrays["train_train_indices"]
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    if found.distances.shape != (len(train),):
        return None
    LOGGER.info("the distances of training images are those of %s", path)
    return found


def _compared(queries: Any, references: Any, p: float, what: str) -> Nearest:
    million = 10**6
    with counted(f"{what}: million pairs", len(queries) * len(references) // million) as tell:
        return compare(queries, references, p=p, tell=lambda done: tell(done // million)).nearest


def _probed(
    call: Call, points: Part, rows: np.ndarray, nearest: Nearest | None, radius: float, p: float
) -> dict[str, Any]:
    """The fields of `Shown` that tell of the balls; half of them are the tightest there are."""
    random = np.random.default_rng(call.seed)
    count = min(-(-call.probes // len(theorem.KINDS)), len(points))
    chosen = every = random.permutation(len(points))
    if nearest is not None:
        tightest = nearest.distances[rows].argsort(kind="stable")[: -(-count // 2)]
        chosen = np.concatenate([tightest, every[~np.isin(every, tightest)]])
    chosen = chosen[:count]
    centers, labels = points.take(chosen)
    own_places = Part(points.points, points.rows)  # Integers: the exact and fast comparison.
    near = _compared(Part(own_places, chosen), own_places, p, "around the balls")
    others = points.take(near.indices)[0]
    sets = [
        theorem.probe(kind, random, centers, others, LEVELS * radius, p) for kind in theorem.KINDS
    ]
    classifier = DistanceClassifier(points=points, radius=LEVELS * radius, p=p)
    images = np.concatenate([centers, *sets])
    with counted("probes compared", len(images)) as tell:
        distances = classifier.distances(images, lambda share: tell(int(share * len(images))))
    at_centers, at_probes = distances[: len(chosen)], distances[len(chosen) :]
    probes, repeated = images[len(chosen) :], np.tile(labels, len(sets))
    own, other = theorem.own_and_other(at_probes, repeated, classifier.classes)
    again = np.tile(np.arange(len(chosen)), len(sets))
    pairs = {"a center and a point of its ball": (centers[again], at_centers[again])}
    for name, moved in (
        ("two points of one ball", np.roll(np.arange(len(probes)), len(chosen))),
        ("points of two balls", random.permutation(len(probes))),
    ):
        pairs[name] = probes[moved], at_probes[moved]
    left = (other - own)[-len(chosen) :]  # Of those towards another class.
    hardest = left.argsort(kind="stable")
    return {
        "center_rows": rows[chosen],
        "kinds": np.repeat(list(theorem.KINDS), len(chosen)),
        "own": own / LEVELS,
        "other": other / LEVELS,
        "nearest": float(near.distances.min()),
        "slopes": {
            name: theorem.steepness(probes, at_probes, *pair, p) for name, pair in pairs.items()
        },
        "slack": {name: theorem.slack(probes, at_probes, *pair, p) for name, pair in pairs.items()},
        "rounding": theorem.rounding(probes[0].size, p),
        "hardest": tuple(
            (
                int(labels[place]),
                bool(left[place] > 0),
                centers[place],
                sets[-1][place],
                others[place],
            )
            for place in hardest[: theorem_words.NUM_SHOWN]
        ),
    }


def _judged(points: Part, test: First | None, radius: float, p: float) -> dict[str, Any]:
    """The fields of `Shown` that tell of test images."""
    if test is None:
        return {"test_own": None, "test_other": None}
    images, labels = test.take(np.arange(len(test)))
    classifier = DistanceClassifier(points=points, radius=radius, p=p)
    with counted("test images compared", len(test)) as tell:
        distances = classifier.distances(images, lambda share: tell(int(share * len(test))))
    own, other = theorem.own_and_other(distances, labels, classifier.classes)
    return {"test_own": own, "test_other": other}


def _pictures(shown: Shown) -> dict[str, Picture]:
    def draw(name: str):
        def drawn():
            from score_jax.analysis import theorem_plots

            return getattr(theorem_plots, name)(shown)

        return drawn

    captions = {
        "probes": "Each point probed inside a ball of radius r around a training image: its "
        "distance to the image's own class, and to the nearest other class, in units of r.",
        "certified": "The share of images around which the classifier is proven right, over the "
        "radius of the proof: half the difference of the distances to two classes.",
        "hardest": f"Training images of {TIGHTEST[shown.train_certified is None]}, the point at "
        "0.999 r towards the nearest image of another class, and that image.",
    }
    return {name: Picture(caption, draw(name)) for name, caption in captions.items()}
