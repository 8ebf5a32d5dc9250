"""What `config.data` may hold: which images a batch is made of."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from score_jax.types import UserError

MOST_SETS = 100  # Of generated images; a selection numbers them in a byte.


def generated_sets(text: str) -> dict[str, float]:
    """The sets of `config.data.generated` and their weights: 'a:1,b:3', or 'a' alone.

    A set without a weight has 1.

    Raises:
      UserError: no name, one that comes twice, or a weight that is no number above 0.
    """
    found: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        name, has_weight, weight = (word.strip() for word in part.partition(":"))
        field = f"config.data.generated={text!r}"
        if not name:
            raise UserError(f"{field} names no set before {part!r}; write NAME or NAME:WEIGHT,...")
        if name in found:
            raise UserError(f"{field} names {name!r} twice; give it one weight")
        try:
            found[name] = float(weight) if has_weight else 1.0
        except ValueError:
            found[name] = math.nan
        if not (0 < found[name] < math.inf):
            raise UserError(f"{field} has the weight {weight!r}; give a number above 0, such as 3")
    if len(found) > MOST_SETS:
        raise UserError(f"config.data.generated names {len(found)} sets; give up to {MOST_SETS}")
    return found


def check(fields: Mapping[str, Any]) -> None:
    """Refuses choices of `config.data` that exclude each other.

    Args:
      fields: of the config, flattened.

    Raises:
      UserError: the first pair that cannot be.
    """
    generated = fields["data.generated"]
    generated_sets(generated)
    workers, repeats = fields["data.emulated_workers"], fields["data.repeats"]
    if workers and repeats > 1:
        raise UserError(
            f"config.data.emulated_workers={workers} repeats the labelled images by itself; set "
            "config.data.repeats=1"
        )
    if fields["data.pseudo_labels"] and not generated:
        raise UserError(
            "config.data.pseudo_labels labels generated images and there are none; set "
            "config.data.generated"
        )
    if fields["data.mixing"] == "pool":
        _check_pool(fields)


def warnings(fields: Mapping[str, Any]) -> Iterator[str]:
    """Tells of fields of `config.data` that have no effect.

    Args:
      fields: of the config, flattened; one that `check` accepts.
    """

    def unused(reason: str, **usual: Any) -> Iterator[str]:
        for name, value in usual.items():
            if fields[f"data.{name}"] != value:
                yield f"config.data.{name}={fields[f'data.{name}']} is not used: {reason}"

    if not fields["data.generated"]:
        yield from unused(
            "there are no generated images; set config.data.generated",
            generated_take=0, generated_sampling="replacement", generated_fraction=0.7,
        )  # fmt: skip
    elif fields["data.mixing"] == "pool":
        yield from unused(
            "config.data.mixing=pool takes all images alike; set config.data.mixing=batch",
            generated_fraction=0.7,
        )
    if not fields["data.label_noise"]:
        yield from unused("no label is wrong; set config.data.label_noise", label_noise_seed=0)


def _check_pool(fields: Mapping[str, Any]) -> None:
    generated = fields["data.generated"]
    if not generated:
        raise UserError(
            "config.data.mixing=pool pools labelled with generated images and there are none; set "
            "config.data.generated"
        )
    if ":" in generated:
        raise UserError(
            f"config.data.generated={generated!r} has weights and config.data.mixing=pool takes "
            "all images alike; write the names alone, or set config.data.mixing=batch"
        )
    for name, usual in (
        ("repeats", 1),
        ("emulated_workers", 0),
        ("generated_sampling", "replacement"),
    ):
        if fields[f"data.{name}"] != usual:
            raise UserError(
                f"config.data.{name}={fields[f'data.{name}']} has no meaning with "
                f"config.data.mixing=pool; set it to {usual}, or config.data.mixing=batch"
            )
