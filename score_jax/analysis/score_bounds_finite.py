"""The finite-sample form of R_Madry: n pairs with one-hot labels, and what minimises it.

R_Madry(q; n) = 1/n Σ_i max D(e_{y_i}, q(x')) over x' in B(x_i). For a metric D two pairs of other
labels whose balls meet cost D(e_i, e_j) together whatever q says where they meet, and nothing else
costs anything. So the minimum is a linear program over pairs (with two classes: a minimum vertex
cover, integral), and a minimiser answers with the label of the nearest pair that it keeps.
Compare Bhagoji et al. 2019 and Dohmatob 2020, who match such pairs for the 0-1 loss.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse

from score_jax import divergences
from score_jax.analysis import score_bounds
from score_jax.analysis.score_bounds import METRICS, QUANTITIES, Bound, Predictor
from score_jax.analysis.score_bounds_problems import Problem
from score_jax.divergences import Distribution

NUM_DRAWS = 5
SIZES = (6, 20, 60, 200)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Minimum:
    """The least R_Madry(q; n), as a share of D between two labels.

    Attributes:
      lower: no q is below.
      reached: what the nearest of the kept pairs costs; equal to `lower` with two classes.
      kept: indices of the pairs that it answers by, i64[m].
    """

    lower: float
    reached: float
    kept: np.ndarray


def distances(x: np.ndarray, others: np.ndarray, norm: str) -> np.ndarray:
    """f64[n, m] between points f[n, d] and f[m, d]."""
    apart = x[:, None].astype(np.float64) - others[None]
    return np.linalg.norm(apart, np.inf if norm == "linf" else 2, axis=-1)


def minimum(x: np.ndarray, labels: np.ndarray, *, norm: str, eps: float) -> Minimum:
    """The least empirical robust error of pairs f[n, d], i[n]."""
    meeting = (distances(x, x, norm) <= 2 * eps) & (labels[:, None] < labels[None])
    first, second = np.nonzero(meeting)
    if not len(first):
        return Minimum(lower=0.0, reached=0.0, kept=np.arange(len(x)))
    rows = np.arange(len(first))
    meets = scipy.sparse.csr_array(
        (np.ones(2 * len(first)), (np.tile(rows, 2), np.concatenate([first, second]))),
        shape=(len(first), len(x)),
    )
    # A basic solution, which is half-integral: each pair pays nothing, half, or all.
    solved = scipy.optimize.linprog(
        np.ones(len(x)), A_ub=-meets, b_ub=-np.ones(len(first)), bounds=(0, 1), method="highs-ds"
    )
    kept = np.flatnonzero(solved.x < 0.25)
    return Minimum(lower=float(solved.fun) / len(x), reached=1 - len(kept) / len(x), kept=kept)


def between_labels(name: str) -> float:
    """D between two one-hot labels."""
    first, second = (Distribution.of_probs(jnp.eye(2)[i : i + 1]) for i in (0, 1))
    return float(divergences.divergence(name)(first, second)[0])


def nearest(x: np.ndarray, labels: np.ndarray, problem: Problem) -> Predictor:
    """The label of the nearest of the given pairs, with certainty."""
    onehot = np.eye(problem.num_classes, dtype=np.float32)[labels]
    apply = _nearest_linf if problem.norm == "linf" else _nearest_l2
    return Predictor(apply, (jnp.asarray(x), jnp.asarray(onehot)))


def _nearest(order, params, x):
    places, onehot = params
    apart = x[:, None] - places[None]
    size = jnp.abs(apart).max(-1) if order == "linf" else jnp.square(apart).sum(-1)
    return Distribution.of_probs(onehot[size.argmin(-1)])


_nearest_linf = functools.partial(_nearest, "linf")
_nearest_l2 = functools.partial(_nearest, "l2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What n pairs give, mean over `NUM_DRAWS` samples, for one metric.

    Attributes:
      lower, reached: the least R_Madry(q; n) lies between them.
      kept: share of the pairs that the minimiser answers by.
      minimiser: its errors on all of the distribution.
    """

    num_pairs: int
    lower: float
    reached: float
    kept: float
    minimiser: Bound


def measure(problem: Problem, num_pairs: int, seed: int) -> dict[str, Sample]:
    """Metric -> what `num_pairs` pairs give. Of the ball only the grid is searched: the minimiser
    is constant almost everywhere, so it has no gradient to ascend.
    """
    lower, reached, kept = [], [], []
    errors = []
    for number in range(NUM_DRAWS):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), num_pairs), number)
        x, labels = map(np.asarray, problem.draw(key, num_pairs))
        least = minimum(x, labels, norm=problem.norm, eps=problem.eps)
        lower.append(least.lower)
        reached.append(least.reached)
        kept.append(len(least.kept) / num_pairs)
        # Far away copies, so that one program serves every number of kept pairs.
        places = np.full_like(x, 1e9)
        places[: len(least.kept)] = x[least.kept]
        answers = np.zeros_like(labels)
        answers[: len(least.kept)] = labels[least.kept]
        errors.append(
            score_bounds.measure(
                METRICS, problem.truth, nearest(places, answers, problem),
                jnp.asarray(problem.x), ball=problem.ball, offsets=problem.offsets, restarts=0,
            )
        )  # fmt: skip
    together = [score_bounds.bounds(METRICS, found, problem.weights) for found in errors]
    samples = {}
    for name in METRICS:
        apart = between_labels(name)
        means = {
            of: float(np.mean([getattr(bound[name], of) for bound in together]))
            for of in QUANTITIES
        }
        samples[name] = Sample(
            num_pairs=num_pairs,
            lower=apart * float(np.mean(lower)),
            reached=apart * float(np.mean(reached)),
            kept=float(np.mean(kept)),
            minimiser=score_bounds.bound_of(name, means),
        )
    return samples
