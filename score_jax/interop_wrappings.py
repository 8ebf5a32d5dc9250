"""What the field's files wrap around a network's entries: names of dicts, prefixes, constants."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from score_jax.types import UserError

# Names of dicts that hold the averaged weights, those of the optimizer, or the only ones.
AVERAGED = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema")
LIVE = ("unaveraged_model_state_dict",)
# The SCORE code's `model_state_dict` stands beside `unaveraged_model_state_dict`: it is averaged.
PLAIN = (
    "model_state_dict", "state_dict", "net_state_dict", "best_state_dict", "model", "net",
    "network", "weights", "shadow", "module",
)  # fmt: skip
MEANS, STDS = ("mean", "means", "mu", "new_mean"), ("std", "stds", "sd", "sds", "sigma", "new_std")
MAX_CHANNELS = 4
MAX_WRAPPINGS = 8  # A forged file may hold itself.


def unwrap(loaded: Any, weights: str, where: str) -> tuple[dict[str, Any], list[str]]:
    """The innermost dict of arrays in what a file holds, and the names it was found under.

    Args:
      weights: 'ema', the averaged weights where a file has two sets, or 'live', the others.

    Raises:
      UserError: there is no such dict.
    """
    names = (*AVERAGED, *PLAIN) if weights == "ema" else (*LIVE, *PLAIN)
    found: list[str] = []
    while isinstance(loaded, Mapping) and len(found) < MAX_WRAPPINGS:
        inner = next((name for name in names if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        found.append(inner)
        loaded = loaded[inner]
    if isinstance(loaded, Mapping) and loaded:
        if all(isinstance(n, str) and hasattr(v, "shape") for n, v in loaded.items()):
            return dict(loaded), found
        sets = [str(name) for name, value in loaded.items() if isinstance(value, Mapping)]
        if set(sets) & {*AVERAGED, *LIVE}:
            raise UserError(
                f"{where} holds no {weights!r} weights, only {', '.join(sets[:4])}; "
                f"give --weights={'live' if weights == 'ema' else 'ema'}."
            )
        kind = f"its entries are {', '.join(str(name)[:40] for name in list(loaded)[:4])}"
    else:
        kind = f"it holds a {type(loaded).__name__}" + (" without entries" if not loaded else "")
    raise UserError(
        f"{where} holds no state_dict ({kind}); save `model.state_dict()` and give that."
    )


def split_constants(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries without those of input normalisation, and those: 'mean' and 'std'.

    They stand at any depth (`mean`, `normalize.mean`, `module.0.sigma`), one value a channel.

    Raises:
      UserError: two that differ, or only one of the two.
    """
    rest: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for name, value in state.items():
        last = name.rpartition(".")[2]
        kind = "mean" if last in MEANS else "std" if last in STDS else None
        if kind is None or np.prod(value.shape, dtype=object) > MAX_CHANNELS:
            rest[name] = value
            continue
        values = tuple(float(entry) for entry in value.reshape(-1))
        if constants.setdefault(kind, values) != values:
            raise UserError(f"the file holds two input normalisations; {name} is the second.")
    if len(constants) == 1:
        (kind,) = constants
        raise UserError(f"the file holds an input {kind}, and not both of mean and std.")
    return rest, constants


def strip_prefixes(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The entries without what all their names begin with, such as `module.0.`, and that.

    No network of ours has one child alone, so a first component that all share wraps it.
    """
    prefix = ""
    current = dict(state)
    while current:
        first = next(iter(current)).partition(".")[0] + "."
        if not all(name.startswith(first) for name in current):
            break
        current = {name.removeprefix(first): value for name, value in current.items()}
        prefix += first
    return current, prefix
