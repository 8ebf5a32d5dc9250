"""`score-jax analyze separation`: how far apart images of different classes lie."""

import math
from collections.abc import Iterator
from typing import Any

from score_jax.analysis.finding import Finding
from score_jax.analysis.separation import Nearest, nearest_other
from score_jax.command_line import Call
from score_jax.data import sources
from score_jax.writers import LOGGER

NUM_SMALLEST = 10
NORMS = {"linf": math.inf, "l2": 2, "l1": 1}


def run(call: Call) -> Iterator[Finding]:
    """Train-train and test-train separation."""
    norm = call.norm or "linf"
    splits = {
        "train": sources.train_split(call.data, call.data_dir),
        "test": sources.test_split(call.data, call.data_dir),
    }
    images = {
        name: (split.images[:count], split.labels[:count])
        for name, split in splits.items()
        for count in [call.num_examples or len(split)]
    }
    facts: dict[str, Any] = {
        "dataset": call.data,
        "norm": norm,
        **{f"num_{name}": len(labels) for name, (_, labels) in images.items()},
        "data_sha256": {name: split.fingerprint for name, split in splits.items()},
    }
    summary = []
    for name in ("test", "train"):
        pair = f"{name}_train"
        LOGGER.info("%s: %d x %d images", pair, *(len(images[n][1]) for n in (name, "train")))
        facts[pair] = _distances(nearest_other(*images[name], *images["train"], p=NORMS[norm]))
        summary.append(f"{pair.replace('_', '-')} separation {facts[pair]['smallest']:.4f}.")
    yield Finding(
        name=f"separation_{call.data}_{norm}",
        title=f"Separation of {call.data}, {norm}",
        summary=summary,
        facts=facts,
    )


def _distances(found: Nearest) -> dict[str, Any]:
    """What tells a dataset's separation, and which few pairs it hangs on."""
    order = found.distances.argsort(kind="stable")[:NUM_SMALLEST]
    return {
        "smallest": float(found.distances.min()),
        "mean": float(found.distances.mean()),
        "nearest_pairs": [
            {"query": int(i), "train": int(found.indices[i]), "distance": float(found.distances[i])}
            for i in order
        ],
    }
