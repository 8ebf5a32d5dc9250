"""The separation of classes against scikit-learn's and SciPy's exact distances, on the same work.

    python benchmarks/separation.py [--data_dir=DIR] [--data=mnist,cifar10] [--queries=1000]
                                    [--references=5000] [--repeats=2]

Each training image of a part is compared with those of other classes. In the maximum norm the other
side is what the notebook of Yang et al. (2020) does: a class at a time, scikit-learn's
NearestNeighbors fitted on the images of the other classes; in L2 and p = 3 it is the minimum over
SciPy's `cdist`, on an eighth of the queries and of the references. A line of JSON each: seconds on
the clock and of the processor (which a busy machine leaves as they are), the least of the repeats,
taken in turns; how many times ours is as fast; the largest difference of the distances found. Ours
is compiled before, which takes a second or two once. Both use all cores where they can.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from score_jax.analysis.separation import Examples, compare
from score_jax.data import sources

METRICS = {"l2": (2.0, "euclidean", {}), "p=3": (3.0, "minkowski", {"p": 3})}
PART = 8  # The powers of p = 3 take cdist long.
EQUAL = 1e-6


def ours(queries: Examples, references: Examples, p: float) -> np.ndarray:
    """Distances to the nearest of another class, f64[m]."""
    return compare(queries, references, p=p).nearest.distances


def class_by_class(queries: Examples, references: Examples) -> np.ndarray:
    """The same in the maximum norm, as the notebook has it."""
    rows, columns = _flat(queries), _flat(references)
    found = np.zeros(len(queries))
    for label in np.unique(queries.labels):
        own = queries.labels == label
        index = NearestNeighbors(n_neighbors=1, metric="chebyshev", n_jobs=-1)
        index.fit(columns[references.labels != label])
        found[own] = index.kneighbors(rows[own])[0][:, 0]
    return found


def all_distances(queries: Examples, references: Examples, norm: str) -> np.ndarray:
    """The same in another norm, from the matrix of all distances."""
    _, metric, options = METRICS[norm]
    pairs = cdist(_flat(queries), _flat(references), metric, **options)
    pairs[queries.labels[:, None] == references.labels[None]] = np.inf
    return pairs.min(1)


def _flat(examples: Examples) -> np.ndarray:
    return (examples.images.reshape(len(examples), -1) / 255).astype(np.float32)


def timed(function: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    """(seconds on the clock, seconds of the processor, result)."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - clock, time.process_time() - processor, result


def measure(
    data: str, norm: str, queries: Examples, references: Examples, repeats: int
) -> dict[str, float | int | str | bool]:
    """Facts of one line."""
    p = METRICS[norm][0] if norm in METRICS else math.inf
    sides: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: ours(queries, references, p),
        "theirs": lambda: (
            all_distances(queries, references, norm)
            if norm in METRICS
            else class_by_class(queries, references)
        ),
    }
    sides["ours"]()
    runs: dict[str, list[tuple[float, float, np.ndarray]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(timed(side))
    facts: dict[str, float | int | str | bool] = dict(
        data=data, norm=norm, queries=len(queries), references=len(references),
        against="scipy cdist" if norm in METRICS else "scikit-learn NearestNeighbors",
    )  # fmt: skip
    least = {name: np.min([run[:2] for run in found], axis=0) for name, found in runs.items()}
    for place, kind in enumerate(("seconds", "cpu_seconds")):
        for name in sides:
            facts[f"{name}_{kind}"] = round(float(least[name][place]), 3)
        facts[f"{kind}_ratio"] = round(float(least["theirs"][place] / least["ours"][place]), 1)
    difference = float(np.abs(runs["ours"][0][2] - runs["theirs"][0][2]).max())
    return facts | dict(largest_difference=difference, equal=difference < EQUAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--data", default="mnist,cifar10")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--references", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(dict(load=os.getloadavg()[0], cores=os.cpu_count(), **vars(arguments))))
    for data in arguments.data.split(","):
        split = sources.train_split(data, arguments.data_dir)
        for norm in ("linf", *METRICS):
            part = PART if norm in METRICS else 1
            sides = [
                Examples(split.images[: count // part], split.labels[: count // part])
                for count in (arguments.queries, arguments.references)
            ]
            found = measure(data, norm, *sides, repeats=arguments.repeats)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
