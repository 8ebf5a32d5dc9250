"""Optax chains and schedules that equal the published PyTorch recipes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax.types import Array, UserError, lookup

Schedule = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Rates:
    """The two scheduled numbers, as functions of the optimizer step i32[], counted from 0."""

    learning_rate: Schedule
    momentum: Schedule


def _cosine(start: float, end: float, fraction: Array) -> Array:
    """From start to end along half a cosine as the fraction goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * fraction))


def one_cycle(
    time: Callable[[Array], Array], total: float, *, learning_rate: float, momentum: float,
    warmup_fraction: float, cycle_momentum: bool = True, initial_divisor: float = 25.0,
    final_divisor: float = 1e4, momentum_range: tuple[float, float] = (0.85, 0.95),
) -> Rates:  # fmt: skip
    """PyTorch's OneCycleLR with its momentum cycle (`cosinew` of the SCORE code).

    With P = warmup_fraction·total - 1 and time e: up to P the rate rises along a cosine from
    learning_rate/25 to learning_rate, then falls to learning_rate/250000 at total - 1, while the
    momentum runs .95 → .85 → .95. Where P <= 0 the rise is skipped (PyTorch divides by zero at
    P = 0).
    """
    peak = warmup_fraction * total - 1
    low, high = momentum_range

    def phases(start, top, end):
        def value(step):
            e = time(step)
            rise = _cosine(start, top, e / peak if peak > 0 else 1.0)
            fall = _cosine(top, end, (e - peak) / max(total - 1 - peak, 1e-9))
            return jnp.where(e <= peak, rise, fall) if peak > 0 else fall

        return value

    initial = learning_rate / initial_divisor
    rates = phases(initial, learning_rate, initial / final_divisor)
    return Rates(rates, phases(high, low, high) if cycle_momentum else _constant(momentum))


def _constant(value: float) -> Schedule:
    return lambda step: jnp.float32(value)


def cosine(
    time: Callable[[Array], Array], total: float, *, learning_rate: float, momentum: float,
    warmup: float = 0.0,
) -> Rates:  # fmt: skip
    """½(1 + cos(πe/E))·learning_rate, after `warmup` units of linear rise from 0."""

    def value(step):
        e = time(step)
        fall = _cosine(learning_rate, 0.0, (e - warmup) / (total - warmup))
        return jnp.where(e < warmup, learning_rate * e / warmup, fall) if warmup > 0 else fall

    return Rates(value, _constant(momentum))


def step_decay(
    time: Callable[[Array], Array], total: float, *, learning_rate: float, momentum: float,
    boundaries: tuple[float, ...], factor: float = 0.1, factors: tuple[float, ...] = (),
) -> Rates:  # fmt: skip
    """learning_rate times `factor` for each boundary reached, or times the last one's of `factors`.

    Raises:
      UserError: not as many factors as boundaries.
    """
    del total
    factors = tuple(factors) or tuple(factor**n for n in range(1, len(boundaries) + 1))
    if len(factors) != len(boundaries):
        raise UserError(
            f"config.schedule.factors={factors} must have one entry for each of boundaries="
            f"{tuple(boundaries)}"
        )
    values = [learning_rate, *(learning_rate * each for each in factors)]

    def value(step):
        reached = jnp.sum(time(step)[None] >= jnp.asarray(boundaries, jnp.float32))
        return jnp.asarray(values, jnp.float32)[reached]

    return Rates(value, _constant(momentum))


def constant(
    time: Callable[[Array], Array], total: float, *, learning_rate: float, momentum: float
) -> Rates:
    """The same rate throughout."""
    del time, total
    return Rates(_constant(learning_rate), _constant(momentum))


SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "step": step_decay, "constant": constant}
UNITS = ("epoch", "fractional_epoch", "step")


def create_rates(
    *, name: str, unit: str, num_epochs: int, steps_per_epoch: int, momentum: float, **fields: Any
) -> Rates:
    """Builds the schedules of config.schedule.

    Args:
      name: one of `SCHEDULES`.
      unit: 'epoch' (constant within an epoch, as PyTorch's per-epoch schedulers), 'step', or
        'fractional_epoch' (Rice et al.: the epochs done when the step ends, so that a rate falls
        with the last step of an epoch).
      fields: the schedule's own.

    Raises:
      UserError: unknown name, unit or field.
    """
    lookup(dict.fromkeys(UNITS), "config.schedule.unit", unit)
    schedule = lookup(SCHEDULES, "config.schedule.name", name)
    if unit == "epoch":
        total = num_epochs

        def time(step):
            return (jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)
    elif unit == "fractional_epoch":
        total = num_epochs

        def time(step):
            return (jnp.asarray(step) + 1).astype(jnp.float32) / steps_per_epoch
    else:
        total = num_epochs * steps_per_epoch

        def time(step):
            return jnp.asarray(step).astype(jnp.float32)

    if name == "step" and not fields.get("boundaries"):
        raise UserError("config.schedule.boundaries is missing: when does the rate fall?")
    try:
        return schedule(time, total, momentum=momentum, **fields)
    except TypeError as error:
        raise UserError(f"config.schedule (name={name!r}): {error}") from None


def create(
    rates: Rates, roles: Any, *, name: str = "sgd", nesterov: bool = True,
    weight_decay: float = 0.0, weight_decay_roles: tuple[str, ...] = ("kernel", "bias"),
    clip_norm: float = 0.0, trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:  # fmt: skip
    """SGD or Adam as PyTorch's: coupled weight decay first, the rate last.

    Args:
      rates: schedules of the learning rate and the momentum.
      roles: the classifier's, a tree like the parameters.
      weight_decay: coefficient of the parameters added to the gradient.
      weight_decay_roles: which roles decay; the SCORE code spares 'batchnorm' only.
      clip_norm: global norm the gradient is clipped to first; 0 for none.

    Raises:
      UserError: unknown optimizer or role.
    """
    lookup({"sgd": 0, "adam": 0}, "config.optimizer.name", name)
    for role in weight_decay_roles:
        lookup(
            dict.fromkeys(("kernel", "bias", "batchnorm")),
            "config.optimizer.weight_decay_roles", role,
        )  # fmt: skip
    if not math.isfinite(weight_decay) or weight_decay < 0:
        raise UserError(f"config.optimizer.weight_decay={weight_decay} must be 0 or more")
    mask = jax.tree.map(lambda role: role in weight_decay_roles, roles)
    if name == "adam":
        rule = optax.inject_hyperparams(optax.adam)(learning_rate=rates.learning_rate)
    else:
        sgd = optax.inject_hyperparams(optax.sgd, static_args=("nesterov",))
        rule = sgd(learning_rate=rates.learning_rate, momentum=rates.momentum, nesterov=nesterov)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask),
        rule,
    )
