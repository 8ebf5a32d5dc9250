"""The one-dimensional problem of SCORE (Pang et al. 2022), whose truth is known in closed form.

Class 0 is N(-1, 2²), class 1 is N(1, 1), five to one. The truth p(y|x) itself serves as soft label,
so a method that does not find it fails by its own definition of robustness, not by lack of data.

Every average over x is given twice: as the official script estimates it, by draws and a sign
attack from one start, and by quadrature with the maximum over a dense grid.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import divergences
from score_jax.attacks import PGD
from score_jax.divergences import Distribution
from score_jax.threat_models import Linf
from score_jax.types import Array, Key

MEANS, SCALES = (-1.0, 1.0), (2.0, 1.0)
COUNTS = (50_000, 10_000)
EPS, STEP_SIZE, NUM_STEPS = 1.0, 0.1, 10
# The values that mean something on two classes, in the words of `divergences.DIVERGENCES`.
DIVERGENCES = ("kl", "squared_error", "l1", "l2", "linf", "sqrt_js")
# Nearly all of the mass, by steps of 0.01; offsets by steps of 0.005.
SUPPORT, NUM_PLACES, NUM_OFFSETS = (-14.0, 12.0), 2601, 401
RESOLUTION = 0.01
NUM_BATCHES = 10
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval(Linf):
    """|x' - x| <= eps on the whole line: the points are no images, there is no [0, 1]."""

    def project(self, adversarial, images):
        return jnp.clip(adversarial, images - self.eps, images + self.eps)


ATTACK = PGD(threat=Interval(eps=EPS), step_size=STEP_SIZE, num_steps=NUM_STEPS)


def truth(x: Array) -> Distribution:
    """p(y|x), [n, 2], at x f[n, 1]."""
    return Distribution.of_logits(_log_joint(x))


def density(x: Array) -> Array:
    """p(x), f[n], at x f[n, 1]; not normalised."""
    return jnp.exp(_log_joint(x)).sum(-1)


def _log_joint(x: Array) -> Array:
    means, scales, counts = (
        jnp.asarray(values, x.dtype)[None] for values in (MEANS, SCALES, COUNTS)
    )
    return -jnp.square((x - means) / scales) / 2 - jnp.log(scales) + jnp.log(counts)


def draw(key: Key, num_draws: int) -> Array:
    """x f32[num_draws, 1], the share of each class exact."""
    second = num_draws * COUNTS[1] // sum(COUNTS)
    sizes = (num_draws - second, second)
    parts = [
        mean + scale * jax.random.normal(part_key, (size, 1), jnp.float32)
        for mean, scale, size, part_key in zip(
            MEANS, SCALES, sizes, jax.random.split(key), strict=True
        )
    ]
    return jnp.concatenate(parts)


def spread(key: Key, num_draws: int) -> tuple[Array, Array]:
    """x f32[num_draws, 1] as `draw`, but spread evenly, and starts of the attack beside it.

    A lattice in the square of (quantile of x, start), shifted at random: each point alone has the
    law of an independent draw, and their average is nearer to the expectation than that of ten
    times as many independent ones. Source: Cranley and Patterson 1976.

    Returns:
      x, and offsets f32[num_draws, 1] in [-EPS, EPS].
    """
    second = num_draws * COUNTS[1] // sum(COUNTS)
    x, starts = [], []
    for mean, scale, size, part_key in zip(
        MEANS, SCALES, (num_draws - second, second), jax.random.split(key), strict=True
    ):
        shift, turn = jax.random.uniform(part_key, (2, 1, 1), jnp.float32)
        number = np.arange(size)[:, None]
        quantile = (jnp.asarray(number, jnp.float32) + shift) / size
        # The ends are infinite; beyond them lies a millionth of the mass.
        quantile = jnp.clip(quantile, 1e-6, 1 - 1e-6)
        x.append(mean + scale * jax.scipy.special.ndtri(quantile))
        place = jnp.asarray(number * GOLDEN_RATIO % 1, jnp.float32) + turn
        starts.append(EPS * (2 * (place % 1) - 1))
    return jnp.concatenate(x), jnp.concatenate(starts)


def average(name: str, output: Distribution, target: Distribution) -> Array:
    """D(output, target) of a batch, f[]; 'sqrt_js' is the root of the mean, as in the script."""
    if name == "sqrt_js":
        return jnp.sqrt(divergences.divergence("js")(output, target).mean())
    return divergences.divergence(name)(output, target).mean()


def widest_changes(name: str, low: float = -EPS, high: float = EPS) -> tuple[Array, Array]:
    """max D(p(x'), p(x)) over low <= x' - x <= high, on a dense grid; for 'kl' KL(p(x) ‖ p(x')).

    Returns:
      x, and its largest change, f[`NUM_PLACES`] both.
    """
    places = jnp.linspace(*SUPPORT, NUM_PLACES)[:, None]
    change = divergences.divergence(name)

    def widest(largest, offset):
        return jnp.maximum(largest, change(truth(places + offset), truth(places))), None

    nothing = jnp.zeros(NUM_PLACES)
    largest, _ = jax.lax.scan(widest, nothing, jnp.linspace(low, high, NUM_OFFSETS))
    return places[:, 0], largest


def dense_change(name: str, low: float = -EPS, high: float = EPS) -> float:
    """C = E max D(p(x'), p(x)) over low <= x' - x <= high, on a dense grid.

    SCORE bounds |R_Madry - R_SCORE| by C, where D is a metric. For 'kl' D is KL(p(x) ‖ p(x')).
    """
    places, largest = widest_changes(name, low, high)
    return _expected(largest, places[:, None])


def _expected(values, places):
    weights = density(places)
    return float((weights * values).sum() / weights.sum())


def attacked_changes(name: str, key: Key, num_draws: int = sum(COUNTS)) -> np.ndarray:
    """C by the official estimator: the one-start sign attack of the training, f[`NUM_BATCHES`] of
    independent draws. Too small: it climbs on the side of x on which it starts, so that it finds
    the mean of the two one-sided maxima.
    """
    change = divergences.divergence(name)

    @jax.jit
    def attacked(batch_key):
        draw_key, attack_key = jax.random.split(batch_key)
        x = draw(draw_key, num_draws)
        moved = ATTACK(lambda moved: change(truth(moved), truth(x)), attack_key, x)
        return average(name, truth(moved), truth(x))

    return np.array([float(attacked(part)) for part in jax.random.split(key, NUM_BATCHES)])


def attacked_change(name: str, key: Key, num_draws: int = sum(COUNTS)) -> float:
    """The mean of `attacked_changes`, as the script logs it."""
    return float(attacked_changes(name, key, num_draws).mean())


Model = Callable[[Array], Distribution]


@functools.partial(jax.jit, static_argnames=("model", "metric", "num_draws"))
def _risks(params, key, *, model, metric, num_draws):
    x, starts = spread(key, num_draws)
    answers = functools.partial(model, params)
    change = divergences.divergence(metric)
    moved = ATTACK(lambda moved: change(answers(moved), truth(moved)), key, x, starts)
    return average(metric, answers(x), truth(x)), average(metric, answers(moved), truth(moved))


def risks(model, params, key: Key, *, metric: str, num_draws: int) -> dict[str, float]:
    """R_Standard = E D(q(x), p(x)) and R_SCORE = E max D(q(x'), p(x')), as the script logs them:
    by its attack, too small as in `attacked_changes`; over `NUM_BATCHES` times `spread`.

    Args:
      model: (params, x f[n, 1]) -> q(y|x).
      metric: D, one of `DIVERGENCES`.
    """
    batches = [
        _risks(params, part, model=model, metric=metric, num_draws=num_draws)
        for part in jax.random.split(key, NUM_BATCHES)
    ]
    standard, score = (
        sum(map(float, column)) / NUM_BATCHES for column in zip(*batches, strict=True)
    )
    return {"standard_risk": standard, "score_risk": score}


@functools.partial(jax.jit, static_argnames=("model", "metric"))
def _dense_risks(params, *, model, metric):
    ball = round(EPS / RESOLUTION)
    places = (np.arange(-ball, NUM_PLACES + ball) * RESOLUTION + SUPPORT[0])[:, None]
    places = jnp.asarray(places, jnp.float32)
    apart = divergences.divergence(metric)(model(params, places), truth(places))
    widest = jax.lax.reduce_window(
        apart, jnp.zeros((), apart.dtype), jax.lax.max, (2 * ball + 1,), (1,), "VALID"
    )
    inner = slice(ball, ball + NUM_PLACES)
    weights = density(places[inner])
    weights = weights / weights.sum()
    return (weights * apart[inner]).sum(), (weights * widest).sum()


def dense_risks(model: Model, params, *, metric: str) -> dict[str, float]:
    """R_Standard and R_SCORE by quadrature, the maximum over each ball on the grid, not attacked.

    For 'sqrt_js' the mean of the roots, which are a metric.
    """
    standard, score = _dense_risks(params, model=model, metric=metric)
    return {"dense_standard_risk": float(standard), "dense_score_risk": float(score)}
