"""Four ways to train a small network on SCORE's toy problem, from the same truth and attack."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import divergences
from score_jax.analysis import toy
from score_jax.divergences import Distribution
from score_jax.types import Array, Key, Params, UserError, lookup

WIDTHS = (1, 100, 100, 2)
LEARNING_RATE = 1e-3
PLACES = (-5.0, -1.0, 0.0, 1.0, 5 / 3, 2.0, 5.0)
PLOTTED = (-5.0, 8.0)
# (q, x, x') -> output and target of a divergence.
Comparison = Callable[[Callable[[Array], Distribution], Array, Array], tuple]


def _plain(q, x, moved):
    del moved
    return q(x), toy.truth(x)


def _madry(q, x, moved):
    return q(moved), toy.truth(x)


def _score(q, x, moved):
    return q(moved), toy.truth(moved)


def _trades(q, x, moved):
    return q(moved), jax.lax.stop_gradient(q(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """What the attack ascends, None without one, and the sum that training descends."""

    inner: Comparison | None
    outer: tuple[Comparison, ...]


# In the script's words: Standard, PGDAT, PGDATconsistent and TRADES with λ = 1, whose second
# summand compares with the truth at the clean point.
DEMOS = {
    "standard": Demo(inner=None, outer=(_plain,)),
    "pgdat": Demo(inner=_madry, outer=(_madry,)),
    "score": Demo(inner=_score, outer=(_score,)),
    "trades": Demo(inner=_trades, outer=(_plain, _madry)),
}


def init(key: Key) -> Params:
    """Dense layers drawn as PyTorch draws them: U(±1/√fan_in), biases too."""
    params = {}
    for number, (fan_in, width) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, number))
        uniform = functools.partial(
            jax.random.uniform, minval=-(fan_in**-0.5), maxval=fan_in**-0.5, dtype=jnp.float32
        )
        kernel, bias = uniform(kernel_key, (fan_in, width)), uniform(bias_key, (width,))
        params[f"dense_{number}"] = {"kernel": kernel, "bias": bias}
    return params


def model(params: Params, x: Array) -> Distribution:
    """q(y|x), [n, 2], at x f32[n, 1]; tanh between the layers."""
    for number in range(len(params)):
        layer = params[f"dense_{number}"]
        x = (jnp.tanh(x) if number else x) @ layer["kernel"] + layer["bias"][None]
    return Distribution.of_logits(x)


def train(
    demo: str,
    *,
    divergence: str = "kl",
    num_steps: int = 500,
    num_draws: int = sum(toy.COUNTS),
    seed: int = 2,
) -> tuple[Params, float]:
    """Trains with Adam on new draws at every step.

    Args:
      demo: one of `DEMOS`.
      divergence: one of `toy.DIVERGENCES`, of attack and loss.

    Returns:
      The parameters, and the mean loss of the last ten steps.

    Raises:
      UserError: unknown demo or divergence, or a number that trains nothing.
    """
    method = lookup(DEMOS, "demo", demo)
    lookup(dict.fromkeys(toy.DIVERGENCES), "divergence", divergence)
    if num_steps < 1 or num_draws < 6:
        raise UserError(
            f"{num_steps} steps on {num_draws} draws train nothing; give 1 step and 6 draws or more"
        )
    optimizer = optax.adam(LEARNING_RATE)
    init_key, data_key = jax.random.split(jax.random.key(seed))
    params = init(init_key)
    state = optimizer.init(params)
    apart = divergences.divergence(divergence)

    def loss_fn(params, x, moved):
        q = functools.partial(model, params)
        return sum(toy.average(divergence, *term(q, x, moved)) for term in method.outer)

    @jax.jit
    def step(params, state, number):
        draw_key, attack_key = jax.random.split(jax.random.fold_in(data_key, number))
        x = moved = toy.draw(draw_key, num_draws)
        if method.inner:
            q = functools.partial(model, params)
            moved = toy.ATTACK(lambda moved: apart(*method.inner(q, x, moved)), attack_key, x)
        loss, gradients = jax.value_and_grad(loss_fn)(params, x, moved)
        # Optax raises a float to an integer power, which strict dtypes refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for number in range(num_steps):
        params, state, loss = step(params, state, number)
        losses.append(loss)
    last = losses[-10:]
    return params, sum(map(float, last)) / len(last)


def measure(
    params: Params, *, metric: str = "l1", num_draws: int = sum(toy.COUNTS), seed: int = 0
) -> dict[str, Any]:
    """Both risks under `metric`, the largest error of q(Y=0|x) on [-5, 8], and some of its values.

    Raises:
      UserError: unknown metric.
    """
    lookup(dict.fromkeys(toy.DIVERGENCES), "metric", metric)
    x = jnp.linspace(*PLOTTED, 1301)[:, None]
    places = jnp.asarray(PLACES)[:, None]
    error = jnp.abs(model(params, x).probs - toy.truth(x).probs)[:, 0].max()
    found = toy.risks(model, params, jax.random.key(seed), metric=metric, num_draws=num_draws)
    return {
        **found,
        "metric": metric,
        "largest_error": float(error),
        "class_0_at": by_place(model(params, places)),
    }


def by_place(answers: Distribution) -> dict[str, float]:
    """The probability of class 0 at each of `PLACES`."""
    return {f"{place:.4g}": float(p) for place, p in zip(PLACES, answers.probs[:, 0], strict=True)}
