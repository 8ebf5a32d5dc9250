"""Training methods: what the attack ascends and what the optimizer descends."""

import dataclasses
from typing import Any

from score_jax.objectives.distance import DistanceMadry, DistanceTrades
from score_jax.objectives.gairat import Gairat, GairTrades
from score_jax.objectives.interface import FORWARDS, Moving, Objective, Views
from score_jax.objectives.madry import Madry, Rst
from score_jax.objectives.mart import Mart
from score_jax.objectives.regularizers import GradientRegularization, LocalLinearity
from score_jax.objectives.standard import Standard
from score_jax.objectives.trades import Score, Trades
from score_jax.types import UserError, lookup, nearest

__all__ = ["FORWARDS", "OBJECTIVES", "Moving", "Objective", "Views", "create", "defaults"]

OBJECTIVES: dict[str, type[Objective]] = {
    "standard": Standard,
    "madry": Madry,
    "rst": Rst,
    "trades": Trades,
    "score": Score,
    "distance_madry": DistanceMadry,
    "distance_trades": DistanceTrades,
    "mart": Mart,
    "gairat": Gairat,
    "gair_trades": GairTrades,
    "gr": GradientRegularization,
    "llr": LocalLinearity,
}


def defaults(kind: type[Objective]) -> dict[str, Any]:
    """The fields of config.objective that a method has, with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def create(name: str, **fields: Any) -> Objective:
    """The objective of config.objective.

    Raises:
      UserError: unknown name, unknown field, or a value the objective refuses.
    """
    kind = lookup(OBJECTIVES, "config.objective.name", name)
    known = defaults(kind)
    for field in fields:
        if field not in known:
            close = nearest(field, known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise UserError(
                f"config.objective (name={name!r}) has no field {field!r}; it has "
                f"{', '.join(known)}{hint}"
            )
    return kind(**fields)
