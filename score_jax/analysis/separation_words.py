"""What a dataset's separation means, in words and beside the paper's numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from score_jax.analysis.separation import Compared, Nearest, keep_from

NUM_PAIRS = 10  # Told of the nearest.
NUM_LISTED = 100  # Told of the outliers; all are counted.
NUM_NAMED = 3  # In a sentence.
SIDES = {"train_train": "train-train", "test_train": "test-train"}
NORM_NAMES = {1: "L1", 2: "L2", math.inf: "L∞"}


@dataclass(frozen=True)
class Published:
    """Yang et al. 2020, Table 1: ε, and the two separations in the maximum norm.

    outliers: training images that they left out by hand.
    """

    eps: float
    train_train: float
    test_train: float
    outliers: int = 0


PUBLISHED = {
    "mnist": Published(0.1, 0.737, 0.812),
    "cifar10": Published(0.031, 0.212, 0.220),
    "svhn": Published(0.031, 0.094, 0.110, outliers=4),
    "restricted_imagenet": Published(0.005, 0.180, 0.224, outliers=6),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The separation of a dataset.

    Attributes:
      compared: 'train_train', and 'test_train' where there is a test split -> what was found.
      labels: 'train', 'test' -> i[n].
      class_names: by label; empty where nobody knows.
      p: of the norm.
      eps: radius to compare with; None without.
      published: where the paper measured this dataset in this norm.
      outliers: training examples to leave out, those of the smallest distances.
      seed: of the labels drawn at random.
    """

    dataset: str
    compared: Mapping[str, Compared]
    labels: Mapping[str, np.ndarray]
    class_names: Sequence[str]
    p: float
    eps: float | None
    published: Published | None
    outliers: int
    seed: int

    def class_name(self, split: str, index: int) -> str:
        """Of an example."""
        label = int(self.labels[split][index])
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def kept(self, side: str) -> np.ndarray:
        """The distances without outliers, as the paper drops them: of train-train alone."""
        distances = self.compared[side].nearest.distances
        if side != "train_train" or not self.outliers:
            return distances
        return distances[keep_from(distances, self.outliers + 1)]


def norm_name(p: float) -> str:
    """'L∞', 'L3'."""
    return NORM_NAMES.get(p, f"L{p:g}")


def distinct(nearest: Nearest, count: int, is_one_set: bool) -> list[tuple[int, int]]:
    """The nearest pairs (query, reference) in which no example comes twice."""
    pairs: list[tuple[int, int]] = []
    seen: set[tuple[bool, int]] = set()
    for query in nearest.distances.argsort(kind="stable"):
        pair = int(query), int(nearest.indices[query])
        names = {(False, pair[0]), (not is_one_set, pair[1])}
        if not names & seen:
            pairs.append(pair)
            seen |= names
        if len(pairs) == count:
            break
    return pairs


def facts(measured: Measured) -> dict[str, Any]:
    """Everything, for JSON."""
    found: dict[str, Any] = {
        "dataset": measured.dataset,
        "p": measured.p if math.isfinite(measured.p) else "inf",
        "eps": measured.eps,
        "outliers": measured.outliers,
        "seed": measured.seed,
        **{f"num_{name}": len(labels) for name, labels in measured.labels.items()},
    }
    for side, compared in measured.compared.items():
        published = measured.published
        found[side] = {
            **_spread(compared.nearest.distances),
            "radius": float(measured.kept(side).min() / 2),
            "published": getattr(published, side) if published else None,
            "nearest_pairs": _pairs(measured, side, NUM_PAIRS),
            "num_at_0": int((compared.nearest.distances == 0).sum()),
            "control": _spread(compared.control.distances),
            "classes": _matrix(compared),
        }
        if measured.eps is not None:
            near = int((compared.nearest.distances < 2 * measured.eps).sum())
            found[side] |= {
                "num_closer_than_2_eps": near,
                "closer_than_2_eps": _pairs(measured, side, min(near, NUM_LISTED)),
            }
    if measured.outliers:
        kept = measured.kept("train_train")
        found["train_train"]["without_outliers"] = {
            **_spread(kept),
            "num_left_out": len(measured.labels["train"]) - len(kept),
            "left_out": _pairs(measured, "train_train", len(measured.labels["train"]) - len(kept)),
        }
    return found


def _spread(distances: np.ndarray) -> dict[str, float | None]:
    low, middle = np.quantile(distances, [0.01, 0.5])
    values = dict(smallest=distances.min(), percentile_1=low, median=middle, mean=distances.mean())
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _pairs(measured: Measured, side: str, count: int) -> list[dict[str, Any]]:
    """The examples of the smallest distances, each with what it is nearest to."""
    nearest, split = measured.compared[side].nearest, side.removesuffix("_train")
    return [
        {
            "query": int(i),
            "train": int(nearest.indices[i]),
            "distance": float(nearest.distances[i]),
            "query_class": measured.class_name(split, i),
            "train_class": measured.class_name("train", nearest.indices[i]),
        }
        for i in nearest.distances.argsort(kind="stable")[:count]
    ]


def _matrix(compared: Compared) -> dict[str, Any]:
    """The nearest pair of every two classes; None for a class and itself."""
    is_pair = np.isfinite(compared.pair_distances)

    def rows(values: np.ndarray) -> list[list[Any]]:
        return np.where(is_pair, values.astype(object), None).tolist()

    return {
        "query_classes": compared.query_classes.tolist(),
        "train_classes": compared.reference_classes.tolist(),
        "distances": rows(compared.pair_distances),
        "queries": rows(compared.pair_queries),
        "train": rows(compared.pair_references),
    }


def table(measured: Measured) -> list[list[str]]:
    """Rows of text, the head first."""
    published, eps = measured.published, measured.eps
    head = ["", "smallest", *(["paper"] if published else []), "r", "1% below", "half below"]
    rows = [[*head, "mean", *(["smallest / 2ε"] if eps else [])]]

    def add(name: str, distances: np.ndarray, paper: float | None) -> None:
        low, middle = np.quantile(distances, [0.01, 0.5])
        smallest = distances.min()
        row = [name, f"{smallest:.4f}"]
        row += [f"{paper:.3f}" if paper else ""] if published else []
        row += [f"{number:.4f}" for number in (smallest / 2, low, middle, distances.mean())]
        rows.append([*row, *([f"{smallest / (2 * eps):.2f}"] if eps else [])])

    for side, compared in measured.compared.items():
        paper = getattr(published, side) if published else None
        distances, kept = compared.nearest.distances, measured.kept(side)
        left_out = len(distances) - len(kept)
        # The paper's number is beside what it was measured on.
        without = published.outliers if published and side == "train_train" else 0
        add(SIDES[side], distances, None if without else paper)
        if left_out:
            add(f"  without {left_out}", kept, paper if left_out == without else None)
    for side, compared in measured.compared.items():
        add(f"{SIDES[side]}, random labels", compared.control.distances, None)
    return rows


def summary(measured: Measured) -> list[str]:
    """Sentences that answer whether the dataset is separated."""
    compared = measured.compared["train_train"]
    distances, name = measured.kept("train_train"), measured.dataset
    smallest, norm = float(distances.min()), norm_name(measured.p)
    left_out = len(compared.nearest.distances) - len(distances)
    told = [
        _twins(measured, side)
        for side in measured.compared
        if (measured.compared[side].nearest.distances == 0).any()
    ]
    if measured.outliers:
        still = " Distances of the others to them still count." if left_out else ""
        told.append(f"Left out: {left_out_words(left_out, measured.outliers)}.{still}")
    besides = f" but {left_out_words(left_out, left_out)}" if left_out else ""
    which = "its training images" + (" without them" if left_out else "")
    if smallest > 0:
        told.append(
            f"All training images of {name}{besides} lie {smallest:.4f} or more ({norm}) from "
            f"those of other classes: {which} are r-separated for r up to {smallest / 2:.4f}"
            f"{' at least' if left_out else ''}."
        )
    else:
        told.append(
            f"The training images of {name} are not r-separated for any r above 0; --outliers=N "
            "leaves out the N training images of the smallest distances."
        )
    if measured.eps:
        told.append(_at_eps(measured, smallest))
    if "test_train" in measured.compared:
        nearest = measured.compared["test_train"].nearest.distances.min()
        told.append(f"Test images lie {nearest:.4f} or more from training images of other classes.")
    control = compared.control.distances
    told.append(
        f"With labels drawn at random (seed {measured.seed}) the training images would be "
        f"{control.min():.4f} apart, and half of them within {np.median(control):.4f} of another "
        f"label instead of {np.median(compared.nearest.distances):.4f}."
    )
    return told


def _at_eps(measured: Measured, smallest: float) -> str:
    eps = measured.eps or 0.0
    source = " of the paper" if measured.published and eps == measured.published.eps else ""
    if smallest > 2 * eps:  # At 2ε two balls have a point in common.
        return (
            f"That is {smallest / (2 * eps):.2f} times 2ε = {2 * eps:g} (ε = {eps:g}{source}): a "
            "classifier exists that is right on these images and robust at ε."
        )
    near = int((measured.kept("train_train") <= 2 * eps).sum())
    return (
        f"{near} training images lie within 2ε = {2 * eps:g} (ε = {eps:g}{source}) of one of "
        "another class: no classifier is right and robust at ε on all of them."
    )


def left_out_words(count: int, asked: int) -> str:
    """'2 outliers (ties stay, so 2 of 3 asked)'."""
    ties = f" (ties stay, so {count} of {asked} asked)" if count < asked else ""
    return f"{count or 'no'} outlier{'' if count == 1 else 's'}{ties}"


def _twins(measured: Measured, side: str) -> str:
    """Which images of a split are training images too, of another label."""
    nearest, split = measured.compared[side].nearest, side.removesuffix("_train")
    pairs = {(int(i), int(nearest.indices[i])) for i in np.flatnonzero(nearest.distances == 0)}
    count, is_test = len(pairs), split != "train"
    if not is_test:
        pairs = {(min(pair), max(pair)) for pair in pairs}

    def name(split: str, index: int) -> str:
        of = f"{split} " if is_test else ""
        return f"{of}{index} ({measured.class_name(split, index)})"

    named = ", ".join(
        f"{name(split, one)} = {name('train', other)}" for one, other in sorted(pairs)[:NUM_NAMED]
    )
    more = ", ..." if len(pairs) > NUM_NAMED else ""
    where = "among the training images" if is_test else "there"
    what = f"{'test' if is_test else 'training'} {'image is' if count == 1 else 'images are'}"
    return f"{count} {what} also {where} under another label: {named}{more}."
