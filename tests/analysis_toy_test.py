"""SCORE's toy problem: the truth in closed form, C, and who finds the truth.

Source: the official script (Pang et al. 2022), run on a CPU with 5,000 and 1,000 draws; C also by
quadrature in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analysis import toy, toy_training
from score_jax.divergences import Distribution
from score_jax.types import UserError


def test_the_truth():
    with jax.enable_x64(True):
        x = jnp.array([[-5], [-1], [0], [1], [2], [5], [5 / 3]], jnp.float64)
        found = np.asarray(toy.truth(x).probs[:, 0])
    expected = [0.99999995, 0.94864590, 0.78436558, 0.60259531, 0.57231210, 0.98806521, 0.56208397]
    np.testing.assert_allclose(found, expected, atol=6e-9)


def test_the_draws_follow_the_density(key):
    x = jax.jit(toy.draw, static_argnums=1)(key, 60_000)
    places = jnp.linspace(-14, 12, 2601)[:, None]
    weights = toy.density(places) / toy.density(places).sum()
    assert x.shape == (60_000, 1)
    assert float((x < 0).mean()) == pytest.approx(float(weights[:1401].sum()), abs=0.01)
    # Exact shares: of six draws one is of the second class.
    second = jax.vmap(lambda k: toy.draw(k, 6)[5])(jax.random.split(key, 300))
    assert float(second.mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_spread_points_follow_the_density_and_vary_less(key):
    def seen(draw, number, num_draws):
        x, starts = draw(jax.random.fold_in(key, number), num_draws)
        return [(x < 0).mean(), (x > 2).mean(), jnp.sin(3 * x + 2 * starts).mean(), starts.mean()]

    def independent(key, num_draws):
        starts = jax.random.uniform(key, (num_draws, 1), minval=-1, maxval=1)
        return toy.draw(jax.random.fold_in(key, 1), num_draws), starts

    even, other = (
        np.array([jax.jit(seen, static_argnums=(0, 2))(draw, n, size) for n in range(60)])
        for draw, size in ((toy.spread, 600), (independent, 6000))
    )
    error = other.std(0) / 60**0.5
    assert (np.abs(even.mean(0) - other.mean(0)) < 4 * error).all()
    assert (even.std(0) < other.std(0)).all()
    x, starts = toy.spread(key, 7)
    assert x.shape == starts.shape == (7, 1) and float(jnp.abs(starts).max()) <= toy.EPS


@pytest.mark.parametrize(
    ("name", "dense"),
    [("kl", 0.07708), ("squared_error", 0.04126), ("l1", 0.24422), ("l2", 0.17269)],
)
def test_c_on_a_dense_grid(name, dense):
    assert toy.dense_change(name) == pytest.approx(dense, abs=6e-6)


@pytest.mark.parametrize(("name", "official"), [("kl", 0.0551), ("squared_error", 0.0265)])
def test_the_official_c_is_the_mean_of_the_two_one_sided_maxima(name, official, key):
    found = toy.attacked_change(name, key)
    sides = (toy.dense_change(name, high=0.0) + toy.dense_change(name, low=0.0)) / 2
    assert found == pytest.approx(official, abs=3e-4)
    assert sides == pytest.approx(official, abs=1.5e-4)


def test_the_root_of_js_is_taken_of_the_mean():
    output, target = (
        Distribution.of_probs(jnp.array(p))
        for p in ([[1.0, 0], [0.5, 0.5]], [[0, 1.0], [0.5, 0.5]])
    )
    assert float(toy.average("sqrt_js", output, target)) == pytest.approx((np.log(2) / 2) ** 0.5)
    assert float(toy.average("l1", output, target)) == 1


def test_the_network_has_its_shape_and_pytorchs_first_values(key):
    params = toy_training.init(key)
    shapes = {name: leaf["kernel"].shape for name, leaf in params.items()}
    assert shapes == {"dense_0": (1, 100), "dense_1": (100, 100), "dense_2": (100, 2)}
    for layer in params.values():
        bound = len(layer["kernel"]) ** -0.5
        for leaf in layer.values():
            assert bound * 0.9 < float(jnp.abs(leaf).max()) < bound or leaf.size == 2
            assert abs(float(leaf.mean())) < bound
    answers = toy_training.model(params, jnp.array([[0.5]]))
    hidden = np.array([[0.5]])
    for name, layer in params.items():
        hidden = np.tanh(hidden) if name != "dense_0" else hidden
        hidden = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    np.testing.assert_allclose(answers.probs, np.exp(hidden) / np.exp(hidden).sum(), rtol=1e-5)


def test_dense_risks_are_the_largest_on_the_grid():
    """Against a model that is off by a constant in the logits, by brute force in numpy."""

    def shifted(params, x):
        return Distribution.of_logits(toy.truth(x).log_probs + jnp.array([[0.0, params]]))

    found = toy.dense_risks(shifted, 1.0, metric="l2")
    x = np.linspace(-14, 12, 1301)[:, None]
    near = x + np.linspace(-1, 1, 201)[None]
    flat = near.reshape(-1, 1)
    truth, other = (
        np.asarray(answers.probs).reshape(*near.shape, 2)
        for answers in (toy.truth(flat), shifted(1.0, flat))
    )
    apart = np.linalg.norm(truth - other, axis=-1)
    weights = np.asarray(toy.density(x))
    expected = (weights * apart.max(1)).sum() / weights.sum()
    assert found["dense_score_risk"] == pytest.approx(expected, rel=1e-4)
    expected = (weights * apart[:, 100]).sum() / weights.sum()
    assert found["dense_standard_risk"] == pytest.approx(expected, rel=1e-4)
    attacked = toy.risks(shifted, 1.0, jax.random.key(0), metric="l2", num_draws=600)
    assert attacked["standard_risk"] == pytest.approx(found["dense_standard_risk"], rel=2e-3)
    assert 0.5 < attacked["score_risk"] / found["dense_score_risk"] < 1


def test_what_each_method_compares():
    """Where the network is the truth, SCORE sees no error however far x has moved."""
    x, moved = jnp.array([[0.0]]), jnp.array([[0.8]])

    def compared(comparison):
        return float(
            jnp.abs(
                jnp.subtract(*(d.probs for d in comparison(toy.truth, toy.truth, x, moved)))[0, 0]
            )
        )

    change = float(jnp.abs(toy.truth(x).probs - toy.truth(moved).probs)[0, 0])
    demos = toy_training.DEMOS
    assert compared(demos["score"].inner) == compared(demos["score"].outer[0]) == 0
    assert compared(demos["pgdat"].inner) == compared(demos["trades"].inner) == change > 0.1
    assert [compared(term) for term in demos["trades"].outer] == [0, change]
    assert compared(demos["standard"].outer[0]) == 0 and demos["standard"].inner is None


@pytest.mark.slow
def test_six_points_are_kept_and_the_seed_decides():
    def losses(seed, sampling):
        return toy_training.fit(
            "standard", sampling=sampling, num_steps=12, num_draws=6, seed=seed
        ).losses

    kept, again, redrawn = losses(0, "kept"), losses(0, "kept"), losses(0, "redrawn")
    np.testing.assert_array_equal(kept, again)
    assert kept[0] == redrawn[0] and kept[1] != redrawn[1]
    assert losses(1, "kept")[0] != kept[0]
    assert (np.diff(kept) < 0).all()  # The same points: the loss falls at each step.
    points = toy_training.kept_points(0, 6)
    init_key, _ = jax.random.split(jax.random.key(0))
    at = toy_training.model(toy_training.init(init_key), points)
    expected = toy.average("kl", at, toy.truth(points))
    assert kept[0] == pytest.approx(float(expected), rel=1e-5)


# Train loss, R_SCORE and R_Standard in L1, and the largest error on [-5, 8], of one seed of the
# script; how far two seeds lie apart here is what is allowed.
SCRIPT = {
    ("standard", "kl"): ((0.0002, 0.0003), (0.0054, 0.005), (0.0034, 0.003), (0.042, 0.03)),
    ("pgdat", "kl"): ((0.0463, 0.001), (0.1163, 0.006), (0.0763, 0.005), (0.258, 0.05)),
    ("score", "kl"): ((0.0003, 0.0004), (0.0048, 0.005), (0.0030, 0.003), (0.028, 0.03)),
    ("pgdat", "squared_error"): (
        (0.0245, 0.001), (0.1162, 0.006), (0.0794, 0.006), (0.254, 0.06),
    ),
    ("trades", "kl"): ((0.0436, 0.001), (0.0756, 0.005), (0.0494, 0.004), (0.121, 0.04)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("demo", "divergence"), SCRIPT)
def test_the_table_of_the_script(demo, divergence):
    trained = toy_training.fit(demo, divergence=divergence)
    found = toy_training.measure(trained.params)
    names = ("score_risk", "standard_risk", "largest_error")
    values = [trained.loss, *(found[name] for name in names)]
    for value, (expected, apart) in zip(values, SCRIPT[demo, divergence], strict=True):
        assert value == pytest.approx(expected, abs=apart)
    assert sorted(trained.snapshots) == list(range(0, 501, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demo": "mart"}, "unknown demo 'mart'; known: pgdat, score, standard, trades"),
        ({"divergence": "l3"}, "unknown divergence 'l3'"),
        ({"sampling": "odd"}, "unknown sampling 'odd'"),
        ({"num_steps": 0}, "0 steps on 600 draws train nothing"),
        ({"num_draws": 5}, "500 steps on 5 draws train nothing"),
    ],
)
def test_what_trains_nothing_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        toy_training.fit(**{"demo": "score", **options})
