"""Which of our networks a file of weights is of, by its names and shapes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import torch

from score_jax import artifact, interop, models
from score_jax.interop_read import describe_tensors
from score_jax.types import BatchStats, Params, UserError

_BLOCKS = re.compile(r"(?:layer\.0\.block|block1\.layer)\.(\d+)\.")


def template(section: Mapping[str, Any]) -> tuple[Params, BatchStats]:
    """The shapes of the network that a `model` section describes."""
    return jax.eval_shape(artifact.build_classifier(section).init, jax.random.key(0))


def head(
    lines: Iterable[tuple[str, str]], state: Mapping[str, torch.Tensor]
) -> tuple[int, int] | None:
    """Classes and features of the last layer of a file; None where it has none by that name.

    Args:
      lines: `interop.rules` of a model.
    """
    names = [theirs for ours, theirs in lines if ours == "logits"]
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
        classes, _ = head(interop.rules(name), state)
        try:
            expected = template({**section, "name": name, "num_classes": classes})
        except UserError:  # A network that does not take images of this size.
            continue
        matched = interop.match(name, state, expected)
        if not matched.problems:
            fitting.append(name)
        count = len(matched.missing) + len(matched.unexpected) + len(matched.reshaped)
        if nearest is None or count < nearest[0]:
            nearest = count, name, matched.problems
    if fitting:
        return fitting
    close = f"; the nearest is {nearest[1]}: {nearest[2]}" if nearest else ""
    raise UserError(
        f"{where} is of no network that is known ({describe_tensors(state)}){close}; give "
        f"--model, one of: {', '.join(models.known_names())}."
    )


def _candidates(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The networks that most of the modules' names speak for; twins come together."""
    modules = {name.rpartition(".")[0] for name in state}
    numbers = [int(found.group(1)) for found in map(_BLOCKS.match, state) if found]
    if max(numbers, default=0) > len(state):
        return []  # Blocks are counted from 0: such a file was not written by a network.
    scores = {}
    for form in models.known_names():
        lines = interop.rules(form.replace("D-W", "10-1"))
        size = head(lines, state)
        if size is None or (form.startswith("wrn") and (not numbers or size[1] % 64)):
            continue
        name = form.replace("D-W", f"{6 * max(numbers, default=0) + 10}-{size[1] // 64}")
        # The first of the blocks stands for all; where a shortcut is needed differs.
        expected = {
            theirs.format(g=0, g1=1, i=0)
            for ours, theirs in lines
            if "shortcut" not in ours and ours != "logits"
        }
        scores[name] = 2 * len(expected & modules) - len(expected)
    return [name for name, score in scores.items() if score == max(scores.values())]
