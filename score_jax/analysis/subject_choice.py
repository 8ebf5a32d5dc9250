"""What of a call makes a subject: the attack, the images to show one by one, the runs' names."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score_jax.artifact import Artifact
from score_jax.command_line import UsageError


def attack(artifact: Artifact, eps: float, steps: int) -> tuple[int, float]:
    """Steps and step size: of training, its step scaled as the radius is; or as asked.

    Args:
      steps: -1 for those of training, or 10 where the model does not tell them.
    """
    trained: Mapping[str, Any] = (artifact.spec.get("config") or {}).get("attack") or {}
    if steps == -1 and trained.get("num_steps") and trained.get("eps"):
        return int(trained["num_steps"]), float(trained["step_size"]) * eps / float(trained["eps"])
    steps = 10 if steps == -1 else steps
    return steps, 2.5 * eps / steps


def rows(
    asked: Sequence[str], indices: np.ndarray, labels: np.ndarray, split: str
) -> tuple[int, ...]:
    """The rows of --images, else the first image of each class.

    Args:
      asked: places in the split, as written.
      indices: i64[n], places in the split of the images that there are; labels i32[n].

    Raises:
      UsageError: an image that is not among them.
    """
    if not asked:
        return tuple(np.unique(labels, return_index=True)[1].tolist())
    place = {str(index): row for row, index in enumerate(indices.tolist())}
    unknown = [index for index in asked if index not in place]
    if unknown:
        raise UsageError(
            f"--images={unknown[0]} is not among the first {len(place)} {split} images "
            f"({min(place, key=int)} to {max(place, key=int)}); give another, or a larger "
            "--num_examples"
        )
    return tuple(place[index] for index in asked)


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of which no two are alike: a second 'score' is 'score (2)'."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        found.append(next(one for one in itertools.chain([name], numbered) if one not in found))
    return found
