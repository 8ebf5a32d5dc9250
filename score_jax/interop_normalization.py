"""Which mean and standard deviation a network out of a file takes its input with."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from score_jax import models, torch_models
from score_jax.types import UserError

Values = tuple[float, ...]


def normalizes(section: Mapping[str, Any], name: str) -> bool:
    """Whether a network normalises its input; the others take images as they are."""
    with torch.device("meta"):
        return torch_models.create(**{**section, "name": name}).mean is not None


def choose(
    section: Mapping[str, Any], constants: Mapping[str, Values], asked: str, where: str
) -> tuple[Values, Values, str]:
    """Mean and standard deviation, one value a channel, and in words where they come from.

    Args:
      section: of the model; its mean and std are those of the dataset.
      constants: what the file holds: 'mean' and 'std', or nothing.
      asked: 'dataset', 'none', 'MEAN;STD' with a number a channel, or '': the file's, else the
        dataset's.

    Raises:
      UserError: no normalisation, another than the file's, or one that the network does not do.
    """
    channels, name = section["image_shape"][-1], section["name"]
    usual = section["mean"], section["std"]
    held = (constants["mean"], constants["std"]) if constants else None
    if held and not asked:
        # Stored in single precision: as the dataset's own numbers where it is those.
        is_usual = np.allclose(_spread(held, channels, where), usual, atol=1e-6)
        chosen = usual if is_usual else held
        words = "of the file, which are the dataset's" if is_usual else "of the file"
    elif asked in ("dataset", ""):
        chosen, words = usual, "of the dataset"
    elif asked == "none":
        chosen, words = ((0.0,), (1.0,)), "none"
    else:
        chosen, words = _parse(asked), "given"
    mean, std = _spread(chosen, channels, where)
    values = f"mean {_write(mean)} std {_write(std)}"
    if asked and held and not np.allclose((mean, std), _spread(held, channels, where), atol=1e-4):
        raise UserError(
            f"{where} normalises its input by mean {_write(held[0])} std {_write(held[1])}, which "
            f"--normalization={asked} is not; leave the flag out."
        )
    if normalizes(section, name):
        return mean, std, f"{words}: {values}"
    if (asked or held) and (any(mean) or set(std) != {1.0}):
        other = f"{name}-normalized"
        known = any(other == form.replace("D-W", _numbers(name)) for form in models.known_names())
        remedy = f"give --model={other}" if known else "no form of it that does is known"
        raise UserError(
            f"{where} is to take its input normalised by {values}, and {name} takes images as they "
            f"are; {remedy}."
        )
    return *usual, "none: this network takes images as they are"


def _numbers(name: str) -> str:
    """The D-W of `wrn-D-W-relu`."""
    return "-".join(word for word in name.split("-") if word.isdecimal())


def _parse(text: str) -> tuple[Values, Values]:
    try:
        mean, std = (tuple(float(word) for word in part.split(",")) for part in text.split(";"))
    except ValueError:
        raise UserError(
            f"--normalization={text} is neither dataset, none, nor MEAN;STD, such as "
            "'0.49,0.48,0.45;0.25,0.24,0.26'."
        ) from None
    return mean, std


def _spread(pair: tuple[Values, Values], channels: int, where: str) -> tuple[Values, Values]:
    mean, std = (part * channels if len(part) == 1 else part for part in pair)
    fits = len(mean) == len(std) == channels and all(map(math.isfinite, mean + std))
    if not fits or min(std) <= 0:
        raise UserError(
            f"mean {_write(mean)} std {_write(std)} is no normalisation of the {channels} "
            f"channel(s) that {where} takes; give --normalization=dataset, none or MEAN;STD."
        )
    return mean, std


def _write(values: Values) -> str:
    return ",".join(f"{value:.4g}" for value in values)
