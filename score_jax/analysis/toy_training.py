"""Four ways to train a small network on SCORE's toy problem, from the same truth and attack."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_jax import divergences
from score_jax.analysis import toy
from score_jax.divergences import Distribution
from score_jax.types import Array, Key, Params, UserError, lookup

WIDTHS = (1, 100, 100, 2)
LEARNING_RATE = 1e-3
SEED, EVERY, NUM_DRAWS = 2, 10, 600
PLACES = (-5.0, -1.0, 0.0, 1.0, 5 / 3, 2.0, 5.0)
PLOTTED = (-5.0, 8.0)
Answers = Callable[[Array], Distribution]
# (q, p, x, x') -> output and target of a divergence.
Comparison = Callable[[Answers, Answers, Array, Array], tuple]


def _plain(q, p, x, moved):
    del moved
    return q(x), p(x)


def _madry(q, p, x, moved):
    return q(moved), p(x)


def _score(q, p, x, moved):
    return q(moved), p(moved)


def _trades(q, p, x, moved):
    del p
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


def init(key: Key, widths: Sequence[int] = WIDTHS) -> Params:
    """Dense layers drawn as PyTorch draws them: U(±1/√fan_in), biases too."""
    params = {}
    for number, (fan_in, width) in enumerate(zip(widths, widths[1:], strict=False)):
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


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Where the points of a step come from.

    Attributes:
      batch: (key of the step's draw, key of its attack, number) -> points x f32[n, 1], and starts
        of the attack f32[n, 1].
      is_kept: the first draw is that of every step.
    """

    batch: Callable[[Key, Key, int], tuple[Array, Array]]
    is_kept: bool = False


def _even(draw_key, start_key, num_draws):
    del start_key
    return toy.spread(draw_key, num_draws)


def _independent(draw_key, start_key, num_draws):
    x = toy.draw(draw_key, num_draws)
    return x, jax.random.uniform(start_key, x.shape, x.dtype, -toy.EPS, toy.EPS)


# The expectation is 'even' (the paper: 60,000 pairs), the finite sample 'kept' (the paper's slide:
# "6 training pairs") or 'redrawn', as the released script has it with the counts 5 and 1.
SAMPLINGS = {
    "even": Sampling(_even),
    "kept": Sampling(_independent, is_kept=True),
    "redrawn": Sampling(_independent),
}


def kept_points(seed: int, num_draws: int) -> Array:
    """The points that a training with that seed keeps, f32[num_draws, 1]."""
    return toy.draw(jax.random.fold_in(_keys(seed)[1], 0), num_draws)


def _keys(seed):
    return jax.random.split(jax.random.key(seed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network.

    Attributes:
      losses: f32[steps].
      snapshots: steps done -> the parameters then.
    """

    params: Params
    losses: np.ndarray
    snapshots: dict[int, Params]

    @property
    def loss(self) -> float:
        """Of the last ten steps."""
        return float(self.losses[-10:].mean())


_OPTIMIZER = optax.adam(LEARNING_RATE)


def _apart(index, output, target):
    """D by its place in `toy.DIVERGENCES`, so that one program serves them all."""
    branches = [divergences.divergence(name) for name in toy.DIVERGENCES]
    return jax.lax.switch(index, branches, output, target)


def _average(index, output, target):
    branches = [functools.partial(toy.average, name) for name in toy.DIVERGENCES]
    return jax.lax.switch(index, branches, output, target)


@functools.partial(jax.jit, static_argnames=("demo", "batch", "num_draws"))
def _walk(state, key, index, is_kept, start, stop, *, demo, batch, num_draws):
    """The steps from start to stop."""
    method = DEMOS[demo]

    def loss_fn(params, x, moved):
        q = functools.partial(model, params)
        return sum(_average(index, *term(q, toy.truth, x, moved)) for term in method.outer)

    def step(number, state):
        params, moments, losses = state
        draw_key = jax.random.fold_in(key, jnp.where(is_kept, 0, number))
        attack_key = jax.random.fold_in(jax.random.fold_in(key, number), 1)
        x, starts = batch(draw_key, attack_key, num_draws)
        moved = x
        if method.inner:
            q = functools.partial(model, params)
            moved = toy.ATTACK(
                lambda moved: _apart(index, *method.inner(q, toy.truth, x, moved)),
                attack_key, x, starts,
            )  # fmt: skip
        loss, gradients = jax.value_and_grad(loss_fn)(params, x, moved)
        # Optax raises a float to an integer power, which strict dtypes refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = _OPTIMIZER.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, losses.at[number].set(loss)

    return jax.lax.fori_loop(start, stop, step, state)


def fit(
    demo: str,
    *,
    divergence: str = "kl",
    sampling: str = "even",
    num_steps: int = 500,
    num_draws: int = NUM_DRAWS,
    seed: int = SEED,
    tell: Callable[[int], None] = lambda steps: None,
) -> Trained:
    """Trains with Adam; a snapshot every `EVERY` steps.

    Args:
      demo: one of `DEMOS`.
      divergence: one of `toy.DIVERGENCES`, of attack and loss.
      sampling: one of `SAMPLINGS`.
      num_draws: points of a step.
      tell: told the steps done, every `EVERY`.

    Raises:
      UserError: unknown demo, divergence or sampling, or a number that trains nothing.
    """
    lookup(DEMOS, "demo", demo)
    lookup(dict.fromkeys(toy.DIVERGENCES), "divergence", divergence)
    how = lookup(SAMPLINGS, "sampling", sampling)
    if num_steps < 1 or num_draws < 6:
        raise UserError(
            f"{num_steps} steps on {num_draws} draws train nothing; give 1 step and 6 draws or more"
        )
    index, is_kept = jnp.int32(toy.DIVERGENCES.index(divergence)), jnp.bool_(how.is_kept)
    init_key, key = _keys(seed)
    params = jax.jit(init)(init_key)
    state = params, _OPTIMIZER.init(params), jnp.zeros(num_steps, jnp.float32)
    snapshots = {0: params}
    for start in range(0, num_steps, EVERY):
        stop = min(start + EVERY, num_steps)
        state = _walk(
            state, key, index, is_kept, jnp.int32(start), jnp.int32(stop), demo=demo,
            batch=how.batch, num_draws=num_draws,
        )  # fmt: skip
        snapshots[stop] = jax.block_until_ready(state)[0]
        tell(stop)
    return Trained(params=state[0], losses=np.asarray(state[2]), snapshots=snapshots)


def train(demo: str, **options: Any) -> tuple[Params, float]:
    """The parameters and the last loss of `fit`."""
    trained = fit(demo, **options)
    return trained.params, trained.loss


def measure(
    params: Params, *, metric: str = "l1", num_draws: int = NUM_DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Both risks under `metric`, attacked and dense; the largest error of q(Y=0|x) on [-5, 8], and
    some of its values.

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
        **toy.dense_risks(model, params, metric=metric),
        "metric": metric,
        "largest_error": float(error),
        "class_0_at": by_place(model(params, places)),
    }


def by_place(answers: Distribution) -> dict[str, float]:
    """The probability of class 0 at each of `PLACES`."""
    return {f"{place:.4g}": float(p) for place, p in zip(PLACES, answers.probs[:, 0], strict=True)}
