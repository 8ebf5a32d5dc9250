"""Which images of the training split a run was trained on, and with what labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from score_jax.data import relabelling
from score_jax.data.mixing import balanced


def count(data: Mapping[str, Any], size: int) -> int:
    """How many of the `size` labelled images a run trains on, by its `config.data`."""
    return data.get("take", 0) or size - data.get("validation_size", 0)


def indices(data: Mapping[str, Any], labels: np.ndarray) -> np.ndarray:
    """Which of the labelled images a run trains on, int64[k], ascending.

    Args:
      data: `config.data` of the run; what is absent is not set.
      labels: i32[n], of the training split.

    Raises:
      UserError: `take` asks for more images of a class than there are.
    """
    held_out, take = data.get("validation_size", 0), data.get("take", 0)
    return balanced(labels, held_out, take) if take else np.arange(held_out, len(labels))


def given_labels(data: Mapping[str, Any], labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The labels i32[n] that a run was given for the training split; see `indices`."""
    if not data.get("label_noise", 0):
        return labels
    chosen = indices(data, labels)
    relabel = relabelling.noise(data, chosen, len(labels), num_classes)
    return relabel(np.arange(len(labels)), labels)


def facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run's training images and labels others than the split without validation."""
    names = ["take"] if data.get("take", 0) else []
    names += ["label_noise", "label_noise_seed"] if data.get("label_noise", 0) else []
    return {name: data.get(name, 0) for name in names}
