"""The local Lipschitz estimator against the official code (Yang et al. 2020, float64)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_ascent_nears_the_largest_slope_of_the_tangent():
    params, images = toy_mlp.params(jnp.float64), toy_mlp.images(jnp.float64)
    jacobians = jax.vmap(jax.jacobian(lambda x: toy_mlp.apply(params, x[None])[0]))(images)
    jacobians = np.asarray(jacobians).reshape(3, 4, 6)
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    slopes = np.abs(jacobians @ signs.T).sum(1).max(1)
    np.testing.assert_allclose(slopes, [11.7117, 9.6139, 5.3862], atol=5e-5)
    # In so small a ball the network is its tangent; a longer walk nears its steepest corner.
    found = np.asarray(estimator("ascent", eps=1e-3, step_size=3e-4)(40))
    assert (found < 1.01 * slopes).all() and (found > 0.7 * slopes).all()
    assert (np.asarray(estimator("official", eps=1e-3, step_size=3e-4)(40)) < 0.3 * slopes).all()


def test_an_unknown_sign_is_refused():
    with pytest.raises(UserError, match="unknown lip_sign 'up'; known: ascent, official"):
        estimator("up")(1)
