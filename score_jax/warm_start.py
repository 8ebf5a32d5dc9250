"""Training that begins with the weights of an artifact: `config.init_from`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_jax import artifact
from score_jax.data import sources
from score_jax.types import BatchStats, Params, UserError
from score_jax.workdir import Workdir


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with instead of random weights.

    Attributes:
      facts: the folder, the sha256 of its weights, and what it was made from, for `run.json`.
    """

    params: Params
    batch_stats: BatchStats
    facts: dict[str, Any]


def load(config: ConfigDict) -> Start | None:
    """The weights that `config.init_from` names; None where it names none.

    Raises:
      UserError: not an artifact, or one of another network, other classes or another input.
    """
    if not config.init_from:
        return None
    path = Path(config.init_from).expanduser()
    if path.is_file():
        raise UserError(
            f"config.init_from={config.init_from} is a file; make an artifact of it first: "
            f"score-jax import {path} --out=DIR"
        )
    loaded = artifact.load(path)
    spec = sources.spec(config.data.name, config.data.dir)
    wanted = {
        "name": config.model.name,
        "num_classes": spec.num_classes,
        "image_shape": spec.image_shape,
        "mean": spec.mean,
        "std": spec.std,
    }
    for field, value in wanted.items():
        there = loaded.spec["model"][field]
        same = there == value if field == "name" else _close(there, value)
        if not same:
            raise UserError(
                f"config.init_from={config.init_from} has {field} {there}, this run has {value} "
                f"({config.model.name} on {config.data.name}); only the same network can go on"
            )
    facts = {
        "path": str(loaded.path),
        "sha256": loaded.spec["sha256"][artifact.WEIGHTS],
        "origin": loaded.spec.get("origin"),
    }
    return Start(params=loaded.params, batch_stats=loaded.batch_stats, facts=facts)


def _close(there: Any, here: Any) -> bool:
    return np.shape(there) == np.shape(here) and np.allclose(there, here, atol=1e-6)


def remember(place: Workdir, start: Start, *, primary: bool) -> None:
    """Notes in `run.json` what the run begins with.

    Raises:
      UserError: the run began before, with other weights from the same place.
    """
    before = json.loads(place.run.read_text()).get("init_from") if place.run.is_file() else None
    if before and before["sha256"] != start.facts["sha256"]:
        raise UserError(
            f"config.init_from={start.facts['path']} was changed since this run began; bring it "
            "back, or use a new --workdir"
        )
    if primary:
        place.record(init_from=start.facts)
