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


def scaled(rates: Rates, factor: float, warmup_steps: float) -> Rates:
    """The linear rule for large batches (Goyal et al. 2017): the rate grows with the batch.

    The learning rate is the schedule's own at step 0 and `factor` times it from `warmup_steps` on;
    between them the multiplier follows a line, changing with every step.

    Args:
      factor: batch size over the batch size that the schedule was made for.
      warmup_steps: 0: `factor` times the schedule's rate at once.
    """

    def learning_rate(step):
        done = jnp.asarray(step).astype(jnp.float32) / warmup_steps if warmup_steps > 0 else 1.0
        return rates.learning_rate(step) * (1 + (factor - 1) * jnp.minimum(done, 1.0))

    return dataclasses.replace(rates, learning_rate=learning_rate)


Parts = tuple[optax.GradientTransformation, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What an optimizer is made of, beside its rates.

    Attributes:
      decay: adds weight_decay times the parameters, of the roles that decay.
      kernels: a tree like the parameters: is it a kernel? Others have no layer-wise rate.
      nesterov: momentum as Nesterov's; of SGD and LARS.
      trust_coefficient: of LARS.
    """

    decay: optax.GradientTransformation
    kernels: Any
    nesterov: bool
    trust_coefficient: float


def sgd(rates: Rates, choices: Choices) -> Parts:
    """Gradient descent with momentum and coupled weight decay, as PyTorch's."""
    rule = optax.inject_hyperparams(optax.sgd, static_args=("nesterov",))
    return choices.decay, rule(
        learning_rate=rates.learning_rate, momentum=rates.momentum, nesterov=choices.nesterov
    )


def adam(rates: Rates, choices: Choices) -> Parts:
    """Adam with coupled weight decay and moments of 0.9 and 0.999, as PyTorch's."""
    return choices.decay, optax.inject_hyperparams(optax.adam)(learning_rate=rates.learning_rate)


def lars(rates: Rates, choices: Choices) -> Parts:
    """LARS (You, Gitman, Ginsburg 2017), for large batches: each kernel has a rate of its own.

    With g the gradient plus the coupled weight decay, a kernel w has λ = trust_coefficient·‖w‖/‖g‖
    (1 where a norm is 0), BatchNorm and biases have λ = 1; v ← momentum·v + rate·λ·g; w ← w - v.
    The paper's λ divides by the sum of both parts' norms; by the norm of their sum in Optax and in
    the code of SimCLR.
    """

    def rule(learning_rate, momentum):
        return optax.chain(
            optax.masked(optax.scale_by_trust_ratio(
                trust_coefficient=choices.trust_coefficient), choices.kernels),
            optax.scale_by_learning_rate(learning_rate),
            optax.trace(decay=momentum, nesterov=choices.nesterov),
        )  # fmt: skip

    rule = optax.inject_hyperparams(rule)
    return choices.decay, rule(learning_rate=rates.learning_rate, momentum=rates.momentum)


def lamb(rates: Rates, choices: Choices) -> Parts:
    """LAMB (You et al. 2020), for large batches: Adam, and each kernel has a rate of its own.

    With r Adam's step (moments of 0.9 and 0.999, eps 1e-6) and u = r + weight_decay·w, a kernel
    moves by rate·‖w‖/‖u‖·u (rate·u where a norm is 0), BatchNorm and biases by rate·u. The decay
    is not coupled: Adam does not divide it.
    """

    def rule(learning_rate):
        return optax.chain(
            optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-6),
            choices.decay,
            optax.masked(optax.scale_by_trust_ratio(), choices.kernels),
            optax.scale_by_learning_rate(learning_rate),
        )

    return (optax.inject_hyperparams(rule)(learning_rate=rates.learning_rate),)


OPTIMIZERS: dict[str, Callable[[Rates, Choices], Parts]] = {
    "sgd": sgd, "adam": adam, "lars": lars, "lamb": lamb
}  # fmt: skip


def create(
    rates: Rates, roles: Any, *, name: str = "sgd", nesterov: bool = True,
    weight_decay: float = 0.0, weight_decay_roles: tuple[str, ...] = ("kernel", "bias"),
    clip_norm: float = 0.0, trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:  # fmt: skip
    """The optimizer of config.optimizer; its update is to be added to the parameters.

    Args:
      rates: schedules of the learning rate and the momentum.
      roles: the classifier's, a tree like the parameters.
      name: one of `OPTIMIZERS`.
      nesterov, trust_coefficient: as in `Choices`.
      weight_decay: coefficient of the parameters added to the gradient (LAMB: to Adam's step).
      weight_decay_roles: which roles decay; the SCORE code spares 'batchnorm' only.
      clip_norm: global norm the gradient is clipped to first; 0 for none.

    Raises:
      UserError: unknown optimizer or role.
    """
    parts = lookup(OPTIMIZERS, "config.optimizer.name", name)
    for role in weight_decay_roles:
        lookup(
            dict.fromkeys(("kernel", "bias", "batchnorm")),
            "config.optimizer.weight_decay_roles", role,
        )  # fmt: skip
    if not math.isfinite(weight_decay) or weight_decay < 0:
        raise UserError(f"config.optimizer.weight_decay={weight_decay} must be 0 or more")
    mask = jax.tree.map(lambda role: role in weight_decay_roles, roles)
    choices = Choices(
        decay=optax.add_decayed_weights(weight_decay, mask),
        kernels=jax.tree.map(lambda role: role == "kernel", roles),
        nesterov=nesterov,
        trust_coefficient=trust_coefficient,
    )
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        *parts(rates, choices),
    )
