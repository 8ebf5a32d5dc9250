"""The errors of SCORE and the bounds between them (Pang et al. 2022, "Upper and lower bounds").

For the truth p, a model q, a ball B(x) and a divergence D:
  R_Standard = E D(p(x), q(x))               R_Madry = E max D(p(x), q(x'))
  R_SCORE = E max D(p(x'), q(x'))            C = E max D(p(x), p(x'))
and where D is a metric |R_Madry - C| <= R_SCORE <= R_Madry + C, by the triangle inequality at each
x'. That holds for the maxima over any one set of points x'. So all maxima here are taken over the
same points: every point that any ascent went through, and those of a grid where there is one. The
estimates then obey the theorem as the errors do, whatever the ascents missed.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import divergences
from score_jax.attacks import PGD
from score_jax.divergences import Distribution
from score_jax.threat_models import ThreatModel
from score_jax.types import Array

# Those that obey the triangle inequality.
METRICS = ("l1", "l2", "linf", "sqrt_js")
# Roots of means: sqrt(E max d²) is a norm over x of the metric d, so by Minkowski's inequality the
# theorem holds for it too. Of the paper's squared error d is 'l2'.
ROOT = "root_squared_error"
MADRY, SCORE, CHANGE = range(3)  # What is maximised, as a position in arrays.
QUANTITIES = ("standard", "madry", "score", "change")
NUM_STEPS, NUM_RESTARTS = 20, 2
# Long steps that cross the ball, then short ones; of 4 eps / steps.
STEP_SCHEDULE, REACH = (1.0, 0.3, 0.1), 4.0
# What float32 leaves: of JS about 1e-8, so 1e-4 of its root. Below it there is 0.
ROUNDING = {"sqrt_js": 2e-4}
SMALLEST = 1e-3


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("params",), meta_fields=("apply",)
)
@dataclasses.dataclass(frozen=True)
class Predictor:
    """p(y|x) or q(y|x): (params, x f[n, ...]) -> the classes' probabilities [n, k]."""

    apply: Callable[[Any, Array], Distribution]
    params: Any = ()

    def __call__(self, x: Array) -> Distribution:
        return self.apply(self.params, x)


def constant(targets: Distribution) -> Predictor:
    """A truth that does not change within a ball: the same [n, k] wherever the n points go."""
    return Predictor(_constant, targets)


def _constant(targets, x):
    del x
    return targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """Per example and divergence.

    Attributes:
      standard: D(p(x), q(x)), f[n, m].
      ascent: the largest found by ascents of D(p(x), q(x')), D(p(x'), q(x')) and D(p(x), p(x')),
        f[n, 3, m]: estimates from below.
      grid: the same on a grid of x', None without one.
    """

    standard: np.ndarray
    ascent: np.ndarray
    grid: np.ndarray | None

    @property
    def largest(self) -> np.ndarray:
        """Over all points, f[n, 3, m]."""
        return self.ascent if self.grid is None else np.maximum(self.ascent, self.grid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
    """One divergence's four errors, the interval for R_SCORE, and whether it lies inside.

    Attributes:
      is_theorem: the interval is one for this divergence; else the same formula, to compare.
      rounding: how far outside the interval a value may lie.
    """

    standard: float
    madry: float
    score: float
    change: float
    is_theorem: bool
    rounding: float = 1e-6

    @property
    def lower(self) -> float:
        return abs(self.madry - self.change)

    @property
    def upper(self) -> float:
        return self.madry + self.change

    @property
    def holds(self) -> bool:
        slack = self.rounding * max(1.0, self.upper)
        return self.lower - slack <= self.score <= self.upper + slack

    def facts(self) -> dict[str, Any]:
        names = (*QUANTITIES, "lower", "upper", "holds", "is_theorem")
        return {name: getattr(self, name) for name in names}


def bound_of(name: str, values: Mapping[str, float]) -> Bound:
    """The bound of a divergence, or of `ROOT`, from its `QUANTITIES`."""
    is_theorem = name in METRICS or name == ROOT
    return Bound(**values, is_theorem=is_theorem, rounding=ROUNDING.get(name, 1e-6))


def bounds(
    names: Sequence[str], errors: Errors, weights: np.ndarray | None = None
) -> dict[str, Bound]:
    """The expectations over examples: divergence -> its bound; `ROOT` follows 'squared_error'.

    Args:
      weights: of the examples, f[n]; None: all alike.
    """
    columns = np.concatenate([errors.standard[:, None], errors.largest], axis=1)
    means = np.average(columns.astype(np.float64), axis=0, weights=weights)
    found = {}
    for name, column in zip(names, means.T, strict=True):
        values = dict(zip(QUANTITIES, map(float, column), strict=True))
        found[name] = bound_of(name, values)
        if name == "squared_error":
            roots = {of: value**0.5 for of, value in values.items()}
            found[ROOT] = bound_of(ROOT, roots)
    return found


def compare(
    names: Sequence[str], truth: Predictor, model: Predictor, here: Distribution, moved: Array
) -> Array:
    """Each D(p(x), q(x')), D(p(x'), q(x')), D(p(x), p(x')), f[n, 3, m].

    Args:
      here: p(x).
      moved: x'.
    """
    p, q = truth(moved), model(moved)
    pairs = ((q, here), (q, p), (p, here))
    columns = []
    for name in names:
        values = jnp.stack([divergences.divergence(name)(*pair) for pair in pairs], -1)
        columns.append(jnp.where(values > ROUNDING.get(name, 0), values, 0))
    return jnp.stack(columns, -1)


def measure(
    names: Sequence[str],
    truth: Predictor,
    model: Predictor,
    x: Array,
    *,
    ball: ThreatModel,
    offsets: np.ndarray | None = None,
    towards: Array | None = None,
    numbers: Array | None = None,
    num_steps: int = NUM_STEPS,
    restarts: int = NUM_RESTARTS,
    seed: int = 0,
    tell: Callable[[int], None] = lambda done: None,
) -> Errors:
    """Every error of every point.

    Args:
      names: divergences of `divergences.DIVERGENCES`.
      x: f[n, ...].
      offsets: x' - x of a grid over the ball, f[m, ...].
      towards: f[l, ...], beside offsets: of each ball the point nearest to each of these, too.
      numbers: i32[n], what each point's starts are drawn from; None: its place in x.
      restarts: ascents from a random start, of each objective; 0 for the grid alone.
      tell: gets the number of ascents that are done.
    """
    names = tuple(names)
    standard, start = _start(truth, model, x, names=names)
    grid = None
    if offsets is not None:
        grid = _sweep(truth, model, x, start, jnp.asarray(offsets), names=names, ball=None)
        if towards is not None:
            grid = _sweep(truth, model, x, grid, towards, names=names, ball=ball)
        grid = np.asarray(grid)
    numbers = jnp.arange(len(x), dtype=jnp.int32) if numbers is None else numbers
    found, done = start, 0
    for restart in range(restarts):
        # Starts in pairs, one opposite the other: an ascent stays on the side where it starts.
        key = jax.random.fold_in(jax.random.key(seed), restart // 2)
        side = jnp.float32(1 - 2 * (restart % 2))
        for weights in objectives(names, truth):
            found = _climb(
                truth, model, x, numbers, key, side, found, jnp.asarray(weights),
                names=names, ball=ball, num_steps=num_steps,
            )  # fmt: skip
            done += 1
            tell(done)
        jax.block_until_ready(found)
    return Errors(standard=np.asarray(standard), ascent=np.asarray(found), grid=grid)


def objectives(names: Sequence[str], truth: Predictor) -> list[np.ndarray]:
    """What is ascended, one after the other: one-hot f32[3, m]. The sign of a gradient is the same
    for 'squared_error' and its root 'l2'; of a constant truth there is nothing but R_Madry to seek.
    """
    places = [
        place for place, name in enumerate(names) if name != "l2" or "squared_error" not in names
    ]
    kinds = (MADRY,) if truth.apply is _constant else (MADRY, SCORE, CHANGE)
    found = []
    for kind in kinds:
        for place in places:
            weights = np.zeros((3, len(names)), np.float32)
            weights[kind, place] = 1
            found.append(weights)
    return found


@functools.partial(jax.jit, static_argnames=("names",))
def _start(truth, model, x, *, names):
    """Standard errors, and all maxima at x' = x."""
    at_x = compare(names, truth, model, truth(x), x)
    return at_x[:, MADRY], at_x


@functools.partial(jax.jit, static_argnames=("names", "ball"))
def _sweep(truth, model, x, found, points, *, names, ball):
    """Over points as offsets, or where there is a ball, over its nearest to each."""
    here = truth(x)

    def widest(largest, point):
        moved = x + point[None]
        if ball is not None:
            moved = ball.project(jnp.broadcast_to(point[None], x.shape), x)
        return jnp.maximum(largest, compare(names, truth, model, here, moved)), None

    return jax.lax.scan(widest, found, points)[0]


@functools.partial(jax.jit, static_argnames=("names", "ball", "num_steps"))
def _climb(truth, model, x, numbers, key, side, found, weights, *, names, ball, num_steps):
    """One ascent; `found` grows by whatever it goes through."""
    here = truth(x)
    attack = PGD(
        threat=ball, step_size=REACH * ball.eps / max(num_steps, 1), num_steps=num_steps,
        step_schedule=STEP_SCHEDULE,
    )  # fmt: skip

    def watched(moved, step, largest):
        del step
        values = compare(names, truth, model, here, moved)
        largest = jnp.maximum(largest, jax.lax.stop_gradient(values))
        return (values * weights[None]).sum((1, 2)), (jnp.ones(x.shape[:1], bool), largest)

    def draw(number):
        # Of each point its own, so that it starts alike in every batch.
        return ball.noise(jax.random.fold_in(key, number), x.shape[1:], x.dtype)

    attacked = attack.watch(watched, key, x, side * jax.vmap(draw)(numbers), carry=found)
    last = compare(names, truth, model, here, attacked.images)
    return jnp.maximum(attacked.carry, last)


def found_share(errors: Errors, weights: np.ndarray | None = None) -> np.ndarray:
    """What the ascents found of all that is found, f[3, m], fractions; 1 of next to nothing."""
    by_ascent, largest = (
        np.average(values.astype(np.float64), axis=0, weights=weights)
        for values in (errors.ascent, errors.largest)
    )
    is_there = largest > SMALLEST
    return np.where(is_there, by_ascent / np.where(is_there, largest, 1), 1.0)


def standard_errors(names: Sequence[str], errors: Errors) -> Mapping[str, float]:
    """Of R_SCORE, by divergence: how far the mean of other draws may lie off, one sigma."""
    spread = errors.largest[:, SCORE].std(axis=0) / max(len(errors.largest), 1) ** 0.5
    return {name: float(value) for name, value in zip(names, spread, strict=True)}
