"""Training methods: what the attack ascends and what the optimizer descends."""

import dataclasses
from typing import Any

from score_jax.objectives.interface import Objective, Views
from score_jax.objectives.madry import Madry
from score_jax.objectives.standard import Standard
from score_jax.objectives.trades import Score, Trades
from score_jax.types import UserError, lookup, nearest

__all__ = ["OBJECTIVES", "Objective", "Views", "create"]

OBJECTIVES: dict[str, type] = {
    "standard": Standard,
    "madry": Madry,
    "trades": Trades,
    "score": Score,
}


def create(name: str, **fields: Any) -> Objective:
    """The objective of config.objective.

    Raises:
      UserError: unknown name, unknown field, or a value the objective refuses.
    """
    kind = lookup(OBJECTIVES, "config.objective.name", name)
    known = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        if field not in known:
            close = nearest(field, known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise UserError(
                f"config.objective (name={name!r}) has no field {field!r}; it has "
                f"{', '.join(known)}{hint}"
            )
    return kind(**fields)
