"""Where two networks of one architecture part: module by module, and parameter by parameter."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from score_jax import interop
from score_jax.artifact import flatten
from score_jax.types import BatchStats, Params

# Of a relative difference. Sums of float32 in another order leave 1e-6 after dozens of layers.
PARTED = 1e-4


def module_names(model_name: str, params: Params, batch_stats: BatchStats) -> dict[str, str]:
    """Our module paths and their names in PyTorch, in the stored order; a block after its parts.

    Raises:
      UserError: the model has no PyTorch form.
    """
    modules = interop.module_names(model_name, params, batch_stats)
    last = {ours.rpartition("/")[0]: ours for ours in modules}
    names: dict[str, str] = {}
    for ours, theirs in modules.items():
        names[ours] = theirs
        block = ours.rpartition("/")[0]
        if block and last[block] == ours:
            first = next(part for part in modules if part.rpartition("/")[0] == block)
            names[block] = modules[first].rpartition(".")[0]
    return names


def relative_difference(one: np.ndarray, other: np.ndarray) -> float:
    """||one - other|| / max(||one||, ||other||), in float64, at most 2; 0 where both are 0."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    difference = np.linalg.norm(one - other)
    return float(difference and difference / max(np.linalg.norm(one), np.linalg.norm(other)))


def compare_activations(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Both networks' activations of the same images, in the order of the computation.

    Returns:
      'modules': path, relative difference and largest absolute difference of each; 'parted_at':
      the first whose relative difference exceeds `PARTED`, or None.
    """
    modules = [
        {
            "path": path,
            "relative_difference": relative_difference(values, other[path]),
            "max_difference": float(np.abs(values - other[path]).max()),
        }
        for path, values in one.items()
        if path in other and values.shape == other[path].shape
    ]
    parted = (row["path"] for row in modules if not row["relative_difference"] <= PARTED)
    return {"modules": modules, "parted_at": next(parted, None), "tolerance": PARTED}


def compare_parameters(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Relative and largest difference of each leaf of {'params': ..., 'batch_stats': ...}."""
    theirs = dict(_leaves(other))
    return [
        {
            "path": path,
            "relative_difference": relative_difference(values, theirs[path]),
            "max_difference": float(np.abs(values - theirs[path]).max()),
        }
        for path, values in _leaves(one)
    ]


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in flatten(tree, ""):
        yield path.removeprefix("/"), np.asarray(leaf)
