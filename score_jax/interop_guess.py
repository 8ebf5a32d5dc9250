"""Which of our networks a file of weights is of, by its names and shapes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import torch

from score_jax import artifact, interop, models
from score_jax.interop_names import NAMES
from score_jax.interop_read import describe_tensors
from score_jax.types import BatchStats, Params, UserError

_BLOCKS = re.compile(r"(?:layer\.0\.block|block1\.layer)\.(\d+)\.")


def template(section: Mapping[str, Any]) -> tuple[Params, BatchStats]:
    """The shapes of the network that a `model` section describes."""
    return jax.eval_shape(artifact.build_classifier(section).init, jax.random.key(0))


def head(model_name: str, state: Mapping[str, torch.Tensor]) -> tuple[int, int] | None:
    """Classes and features of the last layer of a file; None where it has none by that name."""
    names = [theirs for ours, theirs in interop.rules(model_name) if ours == "logits"]
    names += [there for there in ("fc", "linear") if names[0] in ("fc", "linear")]
    for name in names:
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.ndim == 2:
            return tuple(weight.shape)
    return None


def guess(state: Mapping[str, torch.Tensor], section: Mapping[str, Any], where: str) -> list[str]:
    """The names of all networks whose names and shapes are those of the file.

    Args:
      section: num_classes, image_shape, mean, std; any number of classes in the file will do.

    Raises:
      UserError: none fits, with the nearest one and what parts it from the file.
    """
    fitting, nearest = [], None
    for name in _candidates(state):
        classes, _ = head(name, state)
        expected = template({**section, "name": name, "num_classes": classes})
        matched = interop.match(name, state, expected)
        if not matched.problems:
            fitting.append(name)
        count = len(matched.missing) + len(matched.unexpected) + len(matched.reshaped)
        if nearest is None or count < nearest[0]:
            nearest = count, name, matched.problems
    if fitting:
        return fitting
    close = f"; the nearest, {nearest[1]}, lacks a fit: {nearest[2]}" if nearest else ""
    raise UserError(
        f"{where} is of no network that is known ({describe_tensors(state)}){close}; give "
        f"--model, one of: {', '.join(models.known_names())}."
    )


def _candidates(state: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """The names that the first layer, the last one and the number of blocks allow."""
    numbers = [int(found.group(1)) for found in map(_BLOCKS.match, state) if found]
    for form in models.known_names():
        name = re.sub("D-W", "10-1", form)
        stem = NAMES[next(pattern for pattern in NAMES if re.fullmatch(pattern, name))][0][1]
        size = head(name, state)
        if f"{stem}.weight" not in state or size is None:
            continue
        if form == name:
            yield name
        elif numbers and size[1] % 64 == 0:
            yield form.replace("D-W", f"{6 * (max(numbers) + 1) + 4}-{size[1] // 64}")
