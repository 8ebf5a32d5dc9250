"""The local Lipschitz estimator against the official code (Yang et al. 2020, float64)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analysis import lipschitz, lipschitz_tangent
from score_jax.analysis.lipschitz import local_lipschitz
from score_jax.types import UserError
from tests import toy_mlp

OFFICIAL = [
    5.2768261892, 2.96035, 2.22826, 0.59381, 1.72449, 0.91607, 1.39411, 0.89918, 1.28501,
    0.89918, 1.2850145021,
]  # fmt: skip
CORRECTED = [
    5.2768261892, 4.71164, 5.36867, 5.06546, 5.32475, 5.61824, 7.84284, 7.22733, 6.95969,
    6.75719, 6.6046801665,
]  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def estimator(lip_sign, **options):
    """Jitted number of steps -> estimates f[3] on the toy network."""
    params, images = toy_mlp.params(jnp.float64), toy_mlp.images(jnp.float64)
    noise = jnp.asarray(toy_mlp.eta())
    options = {"eps": 0.031, **options}

    def estimate(steps):
        return local_lipschitz(
            lambda x: toy_mlp.apply(params, x), jax.random.key(0), images,
            lip_sign=lip_sign, steps=steps, noise=noise, **options,
        )  # fmt: skip

    return jax.jit(estimate)


@pytest.mark.parametrize(
    ("lip_sign", "trace"), [("official", OFFICIAL), ("ascent", CORRECTED)], ids=lambda x: str(x)[:8]
)
def test_the_walk_of_the_official_code_and_the_corrected_one(lip_sign, trace):
    estimate = estimator(lip_sign)
    found = [float(estimate(steps).mean()) for steps in range(11)]
    assert found == pytest.approx(trace, abs=1e-5)
    assert (found[0], found[-1]) == pytest.approx((trace[0], trace[-1]), abs=1e-9)


def network(images):
    return toy_mlp.apply(toy_mlp.params(jnp.float64), images)


def slopes_by_hand(images):
    """The largest ‖J s‖₁ over every s that the images can go, by all of them: f[3]."""
    jacobians = jax.vmap(jax.jacobian(lambda x: network(x[None])[0]))(images)
    jacobians = np.asarray(jacobians).reshape(3, 4, 6)
    pixels = np.asarray(images).reshape(3, 6)
    steps = np.array(list(itertools.product([-1, 0, 1], repeat=6)))
    goes = (pixels[:, None] + 1e-9 * steps >= 0) & (pixels[:, None] + 1e-9 * steps <= 1)
    slopes = np.abs(np.einsum("nkd,sd->nsk", jacobians, steps)).sum(-1)
    return np.where(goes.all(-1), slopes, 0).max(1)


def tangent(images):
    keys = jax.random.split(jax.random.key(0), 3)
    return jax.jit(lambda x: lipschitz_tangent.tangent_slope(network, keys, x))(images)


def test_the_slope_of_the_tangent_is_the_largest_over_all_signs():
    images = toy_mlp.images(jnp.float64)
    slopes, corners = tangent(images)
    np.testing.assert_allclose(slopes, [11.7117, 9.6139, 5.3862], atol=5e-5)
    np.testing.assert_allclose(slopes, slopes_by_hand(images), rtol=1e-12)
    moved = network(images + 1e-7 * corners) - network(images)
    np.testing.assert_allclose(np.abs(moved).sum(1) / 1e-7, slopes, rtol=1e-5)


@pytest.mark.parametrize("most", [10, 3], ids=["every sign", "alternating"])
def test_a_pixel_at_the_edge_goes_one_way_only(monkeypatch, most):
    monkeypatch.setattr(lipschitz_tangent, "EXACT_CLASSES", most)
    images = jnp.round(toy_mlp.images(jnp.float64) * 2 - 0.5).clip(0, 1) * 0.5
    images = images.at[:, 0].set(1.0)
    slopes, corners = tangent(images)
    np.testing.assert_allclose(slopes, slopes_by_hand(images), rtol=1e-9)
    reached = np.asarray(images + 1e-3 * corners)
    assert reached.min() >= 0 and reached.max() <= 1 and np.abs(corners).max() == 1


def test_ascent_reaches_the_tangent_in_a_small_ball_and_more_in_a_large_one():
    images = toy_mlp.images(jnp.float64)
    slopes, corners = tangent(images)
    keys = jax.random.split(jax.random.key(1), 3)

    def search(eps, restarts):
        return lipschitz.steepest(network, keys, images, corners, eps=eps, restarts=restarts)

    found = jax.jit(search, static_argnums=1)
    # In so small a ball the network is its tangent.
    np.testing.assert_allclose(found(1e-5, 1), slopes, rtol=1e-3)
    large, larger = np.asarray(found(0.3, 3)), np.asarray(found(0.3, 9))
    assert (larger >= large).all() and (larger > slopes).any()
    # Never above the steepest tangent of the ball, here bounded by the whole space: |tanh'| <= 1.
    params = toy_mlp.params(jnp.float64)
    weights = [np.abs(np.asarray(params[name]["kernel"])) for name in ("hidden", "logits")]
    assert larger.max() <= (weights[0] @ weights[1]).sum()
    walked = np.asarray(estimator("ascent", eps=1e-3, step_size=3e-4)(40))
    assert (walked < 1.01 * slopes).all() and (walked > 0.7 * slopes).all()
    descended = np.asarray(estimator("official", eps=1e-3, step_size=3e-4)(40))
    assert (descended < 0.3 * slopes).all()


def test_around_a_constant_there_is_no_slope():
    images, keys = toy_mlp.images(jnp.float64), jax.random.split(jax.random.key(0), 3)
    corners = jnp.zeros_like(images)
    found = lipschitz.steepest(
        lambda x: jnp.zeros((3, 4)) * x.sum(), keys, images, corners, eps=0.1, restarts=1
    )
    assert found.tolist() == [0, 0, 0]


def test_an_unknown_sign_is_refused():
    with pytest.raises(UserError, match="unknown lip_sign 'up'; known: ascent, official"):
        estimator("up")(1)
