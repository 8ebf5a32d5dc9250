"""SCORE's errors and bounds: golden values on the toy, the theorem on random models, n pairs.

Source: Pang et al. 2022, "Upper and lower bounds"; C of the toy by quadrature in float64.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_jax import divergences
from score_jax.analysis import score_bounds, score_bounds_finite, score_bounds_problems, toy
from score_jax.analysis.score_bounds import CHANGE, METRICS, ROOT, Predictor
from score_jax.divergences import Distribution

NAMES = toy.DIVERGENCES


@pytest.fixture(scope="module")
def problem():
    return score_bounds_problems.create_toy()


def measured(names, truth, model, problem, **options):
    options = {"ball": problem.ball, "offsets": problem.offsets, "restarts": 0, **options}
    return score_bounds.measure(names, truth, model, jnp.asarray(problem.x), **options)


def test_the_truth_of_the_toy_has_no_error_but_madrys_which_is_c(problem):
    errors = measured(NAMES, problem.truth, problem.truth, problem)
    found = score_bounds.bounds(NAMES, errors, problem.weights)
    golden = {"kl": 0.07708, "squared_error": 0.04126, "l1": 0.24422, "l2": 0.17269}
    assert {name: found[name].change for name in golden} == pytest.approx(golden, abs=6e-6)
    for bound in found.values():
        assert bound.standard == bound.score == bound.lower == 0
        assert bound.madry == bound.change > 0 and bound.upper == 2 * bound.madry


def _random(params, x):
    return Distribution.of_logits(3 * jnp.sin(x @ params["inner"]) @ params["outer"])


def random_predictor(seed, num_classes=4):
    inner, outer = jax.random.split(jax.random.key(seed))
    params = {
        "inner": 2 * jax.random.normal(inner, (2, 8)),
        "outer": jax.random.normal(outer, (8, num_classes)),
    }
    return Predictor(_random, params)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_for_metrics_whatever_points_are_searched(seed):
    key = jax.random.key(100 + seed)
    x = jax.random.normal(key, (50, 2))
    offsets = np.random.default_rng(seed).uniform(-0.5, 0.5, (5, 2)).astype(np.float32)
    truth, model = random_predictor(2 * seed), random_predictor(2 * seed + 1)
    errors = score_bounds.measure(
        NAMES, truth, model, x, ball=toy.Interval(eps=0.5), offsets=offsets, restarts=0
    )
    found = score_bounds.bounds(NAMES, errors)
    for name in (*METRICS, ROOT):
        assert found[name].is_theorem and found[name].holds, name
        assert found[name].score >= found[name].standard > 0
    # And at every single point.
    madry, score, change = errors.grid.transpose(1, 0, 2)
    for name in METRICS:
        of = NAMES.index(name)
        assert (np.abs(madry - change)[:, of] <= score[:, of] + 1e-5).all()
        assert (score[:, of] <= (madry + change)[:, of] + 1e-5).all()
    assert not (found["kl"].is_theorem or found["squared_error"].is_theorem)


def _near(params, x):
    return Distribution.of_probs(toy.truth(x).probs * (1 - params) + params / 2)


@pytest.mark.slow
def test_squared_error_breaks_the_interval_and_its_root_does_not(problem):
    errors = measured(NAMES, problem.truth, Predictor(_near, jnp.float32(0.01)), problem)
    found = score_bounds.bounds(NAMES, errors, problem.weights)
    assert not found["squared_error"].holds
    assert found["squared_error"].score < found["squared_error"].lower
    assert found[ROOT].holds and found["l2"].holds
    assert found[ROOT].score == pytest.approx(found["squared_error"].score ** 0.5)


@pytest.mark.slow
def test_ascents_find_c_from_both_sides_and_not_from_one(problem):
    shares = {}
    for restarts in (1, 2):
        errors = measured(("l1",), problem.truth, problem.truth, problem, restarts=restarts)
        shares[restarts] = float(score_bounds.found_share(errors, problem.weights)[CHANGE, 0])
        assert (errors.ascent <= errors.grid + 2e-3).all()
    assert shares[1] < 0.93 and shares[2] > 0.995


def test_each_objective_is_ascended_and_a_constant_truth_has_one(problem):
    found = score_bounds.objectives(NAMES, problem.truth)
    assert len(found) == 3 * 5 and all(weights.sum() == 1 for weights in found)
    assert sum(found)[:, NAMES.index("l2")].sum() == 0  # 'squared_error' climbs the same way.
    assert sum(score_bounds.objectives(("l2",), problem.truth)).tolist() == [[1], [1], [1]]
    labels = score_bounds.constant(Distribution.of_probs(jnp.eye(2)))
    assert len(score_bounds.objectives(NAMES, labels)) == 5


@pytest.mark.slow
def test_a_truth_that_is_constant_in_the_ball_has_no_c():
    x = jax.random.normal(jax.random.key(0), (20, 2))
    labels = score_bounds.constant(Distribution.of_probs(jnp.eye(4)[np.arange(20) % 4]))
    found = score_bounds.bounds(
        ("l1",),
        score_bounds.measure(
            ("l1",), labels, random_predictor(1), x, ball=toy.Interval(eps=0.3), num_steps=5
        ),
    )
    for bound in found.values():
        assert bound.change == 0 and bound.score == bound.madry > bound.standard and bound.holds


def test_the_mixtures_truth_is_bayes_rule_and_only_two_coordinates_tell():
    x = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    joint = [
        share * scipy.stats.multivariate_normal(centre, scale**2 * np.eye(2)).pdf(x[:, :2])
        for centre, scale, share in zip(
            score_bounds_problems.CENTRES,
            score_bounds_problems.SCALES,
            score_bounds_problems.SHARES,
            strict=True,
        )
    ]
    mixture = score_bounds_problems.create_mixture(5, num_draws=40, seed=0)
    expected = np.stack(joint, -1) / np.sum(joint, 0)[:, None]
    np.testing.assert_allclose(mixture.truth(jnp.asarray(x)).probs, expected, atol=2e-6)
    _, labels = mixture.draw(jax.random.key(0), 40)
    assert np.bincount(labels).tolist() == [20, 12, 8]
    assert np.abs(mixture.offsets).max() == 0.5


@pytest.mark.slow
def test_the_disc_keeps_its_points(key):
    disc = score_bounds_problems.ball_of("l2", 0.5)
    x = jax.random.normal(key, (200, 3))
    draw = jax.jit(jax.vmap(lambda k: disc.noise(k, (3,), jnp.float32)))
    noise = draw(jax.random.split(key, 200))
    lengths = disc.distance(disc.random_start(noise, x), x)
    assert 0.47 < float(lengths.max()) < 0.5001 and float((lengths < 0.25).mean()) < 0.25
    far = disc.project(x + 10 * noise, x)
    assert float(disc.distance(far, x).max()) < 0.5001
    assert float(jnp.linalg.norm(disc.ascend(x, key), axis=-1).min()) == pytest.approx(1, abs=1e-5)
    assert float(jnp.abs(disc.ascend(jnp.zeros_like(x), key)).max()) == 0
    edge = np.linalg.norm(score_bounds_problems.offsets_of("l2", 0.5, 4), axis=1)
    assert edge.max() == pytest.approx(0.5, abs=1e-6)


def cheapest(x, labels, norm, eps):
    """The fewest pairs to drop so that no two balls of different labels meet, by trying all."""
    meeting = (score_bounds_finite.distances(x, x, norm) <= 2 * eps) & (labels[:, None] != labels)
    for size in range(len(x) + 1):
        for dropped in itertools.combinations(range(len(x)), size):
            kept = np.setdiff1d(np.arange(len(x)), dropped)
            if not meeting[np.ix_(kept, kept)].any():
                return size / len(x)
    raise AssertionError


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_least_error_of_n_pairs_is_the_cheapest_way_to_part_them(norm):
    for seed in range(6):
        random = np.random.default_rng(seed)
        x = random.normal(size=(9, 2)).astype(np.float32)
        for num_classes in (2, 3):
            labels = random.integers(0, num_classes, 9)
            found = score_bounds_finite.minimum(x, labels, norm=norm, eps=0.4)
            best = cheapest(x, labels, norm, 0.4)
            assert found.reached == pytest.approx(best)
            for lower in found.lower.values():
                assert lower == pytest.approx(best) or num_classes == 3
                assert lower <= best + 1e-9
    apart = score_bounds_finite.minimum(10 * x, labels, norm=norm, eps=0.1)
    assert (apart.lower["l1"], apart.reached, len(apart.kept)) == (0, 0, 9)


# Three points at distance 1 of each other: cubes and discs of 0.55 meet in pairs, and the discs
# have a common point only from 3**-0.5 on. Shares that the three labels pay: in L1, in L2.
@pytest.mark.parametrize(
    ("norm", "eps", "shares"),
    [("linf", 0.55, (2, 3**0.5)), ("l2", 0.55, (1.5, 1.5)), ("l2", 0.58, (2, 3**0.5))],
)
def test_three_labels_at_a_common_point_pay_more_than_their_pairs(norm, eps, shares):
    x = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]], np.float32)
    found = score_bounds_finite.minimum(x, np.arange(3), norm=norm, eps=eps)
    assert (3 * found.lower["l1"], 3 * found.lower["l2"]) == pytest.approx(shares)
    assert 3 * found.reached == pytest.approx(2) and len(found.kept) == 1


def test_what_three_labels_pay_together_is_the_least_of_all_answers():
    first, second = np.meshgrid(*2 * [np.linspace(0, 1, 61, dtype=np.float32)])
    inside = first + second <= 1 + 1e-6
    q = np.stack([first[inside], second[inside], 1 - first[inside] - second[inside]], -1)
    answers = Distribution.of_probs(jnp.asarray(q.clip(0)))
    labels = [Distribution.of_probs(jnp.eye(3)[np.full(len(q), i)]) for i in range(3)]
    for name, together in score_bounds_finite.TOGETHER.items():
        apart = divergences.divergence(name)
        least = float(sum(apart(answers, label) for label in labels).min())
        shares = least / score_bounds_finite.between_labels(name)
        assert shares == pytest.approx(together, abs=1e-4), name


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_whole_ball_is_searched_in_three_dimensions(norm):
    """The pair of the other label can be reached in the third coordinate alone."""
    mixture = score_bounds_problems.create_mixture(3, norm=norm, num_draws=12, seed=0)
    assert np.linalg.norm(mixture.offsets, np.inf if norm == "linf" else 2, axis=1).max() <= 0.5001
    here = jnp.zeros((1, 3))
    places = np.array([[0, 0, -0.45], [0, 0, 0.5]], np.float32)
    model = score_bounds_finite.nearest(places, np.array([0, 1]), mixture)
    truth = score_bounds.constant(Distribution.of_probs(jnp.eye(3)[:1]))
    for offsets, towards in ((mixture.offsets, None), (np.zeros((1, 3), np.float32), places)):
        errors = score_bounds.measure(
            ("l1",), truth, model, here, ball=mixture.ball, offsets=offsets,
            towards=None if towards is None else jnp.asarray(towards), restarts=0,
        )  # fmt: skip
        assert errors.standard[0, 0] == 0
        assert errors.largest[0, :2, 0].tolist() == [2, 2]
    assert "its first two coordinates and random points of all of it" in mixture.searched


@pytest.mark.slow
def test_the_nearest_kept_pair_reaches_that_error(problem, key):
    x, labels = map(np.asarray, problem.draw(key, 30))
    assert labels.sum() == 5
    least = score_bounds_finite.minimum(x, labels, norm="linf", eps=0.2)
    model = score_bounds_finite.nearest(x[least.kept], labels[least.kept], problem)
    pairs = score_bounds.constant(Distribution.of_probs(jnp.eye(2)[labels]))
    errors = score_bounds.measure(
        METRICS, pairs, model, jnp.asarray(x), ball=problem.ball,
        offsets=score_bounds_problems.offsets_of("linf", 0.2, 1), restarts=0,
    )  # fmt: skip
    assert 0 < least.lower["l1"] == pytest.approx(least.reached)
    for name, bound in score_bounds.bounds(METRICS, errors).items():
        expected = least.reached * score_bounds_finite.between_labels(name)
        assert bound.madry == pytest.approx(expected, abs=1e-6), name
