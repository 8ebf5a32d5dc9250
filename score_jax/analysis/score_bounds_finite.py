"""The finite-sample form of R_Madry: n pairs with one-hot labels, and what it costs at least.

R_Madry(q; n) = 1/n Σ_i max D(e_{y_i}, q(x')) over x' in B(x_i). For a metric D two pairs of other
labels whose balls meet cost D(e_i, e_j) together whatever q says where they meet, and three of
three labels with a common point cost `TOGETHER`. The linear program over those pairs and triples
is what no q is below. Answering with the label of the nearest pair, of as many as can be kept with
no two balls of other labels meeting, costs one share for every pair dropped: an integer program.
With two classes both agree (a minimum vertex cover of a bipartite graph), and the nearest kept
pair is a minimiser. Compare Bhagoji et al. 2019 and Dohmatob 2020, for the 0-1 loss.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

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
# The least D(e_1, q) + D(e_2, q) + D(e_3, q) of any q, in shares of D(e_1, e_2). In L1 and L∞ it is
# (1 - q_1) + (1 - q_2) + (1 - q_3); in L2 that of the middle; of root JS that of a corner.
TOGETHER: Mapping[str, float] = {"l1": 2.0, "l2": 3**0.5, "linf": 2.0, "sqrt_js": 2.0}
# Triples enter the linear program where it breaks them; each program is a bound.
NUM_ROUNDS, NUM_TRIPLES = 20, 500
# Of the integer program, seconds; what it has then is kept.
TIME_LIMIT = 5.0
SLACK = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Minimum:
    """The least R_Madry(q; n), as a share of D between two labels.

    Attributes:
      lower: metric -> no q is below.
      reached: what the nearest of the kept pairs costs; equal to `lower` with two classes.
      kept: indices of the pairs that it answers by, i64[m].
    """

    lower: Mapping[str, float]
    reached: float
    kept: np.ndarray


def distances(x: np.ndarray, others: np.ndarray, norm: str) -> np.ndarray:
    """f64[n, m] between points f[n, d] and f[m, d]."""
    apart = x[:, None].astype(np.float64) - others[None]
    return np.linalg.norm(apart, np.inf if norm == "linf" else 2, axis=-1)


def minimum(x: np.ndarray, labels: np.ndarray, *, norm: str, eps: float) -> Minimum:
    """The least empirical robust error of pairs f[n, d], i[n]."""
    apart = distances(x, x, norm)
    pairs = np.argwhere((apart <= 2 * eps) & (labels[:, None] < labels[None]))
    if not len(pairs):
        return Minimum(lower=dict.fromkeys(METRICS, 0.0), reached=0.0, kept=np.arange(len(x)))
    triples = _triples(apart, labels, norm, eps)
    costs = {
        together: _relaxed(len(x), pairs, triples, together) for together in set(TOGETHER.values())
    }
    lower = {name: float(costs[TOGETHER[name]].sum()) / len(x) for name in METRICS}
    meets = _rows(pairs, len(x))
    solved = scipy.optimize.milp(
        np.ones(len(x)), integrality=np.ones(len(x)), bounds=(0, 1),
        constraints=scipy.optimize.LinearConstraint(meets, lb=1),
        options={"time_limit": TIME_LIMIT},
    )  # fmt: skip
    # Without an answer in time: half a share and more is rounded up, which parts all pairs too.
    dropped = costs[2.0] if solved.x is None else solved.x
    kept = np.flatnonzero(dropped < 0.5 - SLACK)
    return Minimum(lower=lower, reached=1 - len(kept) / len(x), kept=kept)


def _rows(members, count):
    """One row for each set of pairs, 1 at its members."""
    rows = np.repeat(np.arange(len(members)), members.shape[1])
    return scipy.sparse.csr_array(
        (np.ones(members.size), (rows, members.ravel())), shape=(len(members), count)
    )


def _relaxed(count, pairs, triples, together):
    """What each pair pays at least, in shares: a linear program, its triples added as it breaks
    them."""
    rows, bounds = _rows(pairs, count), np.ones(len(pairs))
    for _ in range(NUM_ROUNDS):
        paid = scipy.optimize.linprog(
            np.ones(count), A_ub=-rows, b_ub=-bounds, bounds=(0, 1), method="highs-ds"
        ).x
        sums = paid[triples].sum(-1)
        order = np.argsort(sums)[:NUM_TRIPLES]
        broken = triples[order[sums[order] < together - SLACK]]
        if not len(broken):
            break
        rows = scipy.sparse.vstack([rows, _rows(broken, count)])
        bounds = np.concatenate([bounds, np.full(len(broken), together)])
    return paid


def _triples(apart, labels, norm, eps):
    """Three pairs of three labels whose balls have a common point, i64[m, 3].

    Cubes that meet pairwise have one. Of Euclidean balls the least ball around the three centres
    tells: half the longest side, or the circumradius where no angle is obtuse.
    """
    found = [np.zeros((0, 3), int)]
    for classes in itertools.combinations(np.unique(labels), 3):
        a, b, c = (np.flatnonzero(labels == label) for label in classes)
        sides = np.stack(np.broadcast_arrays(
            apart[np.ix_(a, b)][:, :, None], apart[np.ix_(a, c)][:, None], apart[np.ix_(b, c)][None]
        ), -1)  # fmt: skip
        places = np.argwhere((sides <= 2 * eps).all(-1))
        if norm == "l2":
            short, middle, long = np.sort(sides[tuple(places.T)], -1).T
            half = (short + middle + long) / 2
            area = np.sqrt(np.maximum(
                half * (half - short) * (half - middle) * (half - long), 1e-300
            ))  # fmt: skip
            is_obtuse = short**2 + middle**2 <= long**2
            radius = np.where(is_obtuse, long / 2, short * middle * long / (4 * area))
            places = places[radius <= eps]
        found.append(np.stack([a[places[:, 0]], b[places[:, 1]], c[places[:, 2]]], -1))
    return np.concatenate(found)


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
      kept: share of the pairs that the nearest of them answers by.
      nearest_kept: its errors on all of the distribution, estimates from below.
    """

    num_pairs: int
    lower: float
    reached: float
    kept: float
    nearest_kept: Bound

    @property
    def is_minimum(self) -> bool:
        """The nearest kept pair is a minimiser of R_Madry(q; n)."""
        return self.reached - self.lower < SLACK


def measure(problem: Problem, num_pairs: int, seed: int) -> dict[str, Sample]:
    """Metric -> what `num_pairs` pairs give. The nearest pair is constant almost everywhere,
    so it has no gradient to ascend: searched are the offsets of the problem and, where they are no
    grid over all of the ball, its points nearest to each pair.
    """
    lower, reached, kept = [], [], []
    errors = []
    for number in range(NUM_DRAWS):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), num_pairs), number)
        x, labels = map(np.asarray, problem.draw(key, num_pairs))
        least = minimum(x, labels, norm=problem.norm, eps=problem.eps)
        lower.append([least.lower[name] for name in METRICS])
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
                towards=jnp.asarray(places) if problem.dimensions > 2 else None,
            )
        )  # fmt: skip
    together = [score_bounds.bounds(METRICS, found, problem.weights) for found in errors]
    samples = {}
    for place, name in enumerate(METRICS):
        apart = between_labels(name)
        means = {
            of: float(np.mean([getattr(bound[name], of) for bound in together]))
            for of in QUANTITIES
        }
        samples[name] = Sample(
            num_pairs=num_pairs,
            lower=apart * float(np.mean(lower, axis=0)[place]),
            reached=apart * float(np.mean(reached)),
            kept=float(np.mean(kept)),
            nearest_kept=score_bounds.bound_of(name, means),
        )
    return samples
