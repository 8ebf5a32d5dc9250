"""SCORE's toy problem: the truth in closed form, C, and who finds the truth.

Source: the official script (Pang et al. 2022); C also by quadrature in float64.
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


def trained(demo, **options):
    """Parameters, loss and risks in L1 after a run of the script with fewer draws and steps."""
    options = {"num_steps": 300, "num_draws": 600, **options}
    params, loss = toy_training.train(demo, **options)
    return loss, toy_training.measure(params, num_draws=600)


def test_score_finds_the_truth_where_adversarial_training_cannot():
    loss, score = trained("score")
    assert loss < 0.005 and score["score_risk"] < 0.02 and score["largest_error"] < 0.15
    assert score["class_0_at"]["-1"] == pytest.approx(0.9486, abs=0.02)
    loss, madry = trained("pgdat")
    assert 0.03 < loss < 0.07 and madry["score_risk"] > 0.08
    assert 0.2 < madry["largest_error"] < 0.35


def test_standard_training_finds_it_too_and_trades_lies_between():
    loss, standard = trained("standard")
    assert loss < 0.005 and standard["score_risk"] < 0.03
    assert standard["standard_risk"] < standard["score_risk"]
    loss, trades = trained("trades")
    assert 0.03 < loss < 0.06 and 0.05 < trades["score_risk"] < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demo": "mart"}, "unknown demo 'mart'; known: pgdat, score, standard, trades"),
        ({"divergence": "l3"}, "unknown divergence 'l3'"),
        ({"num_steps": 0}, "0 steps on 600 draws train nothing"),
        ({"num_draws": 5}, "300 steps on 5 draws train nothing"),
    ],
)
def test_what_trains_nothing_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        trained(**{"demo": "score", **options})
