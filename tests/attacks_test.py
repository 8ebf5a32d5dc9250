"""Every threat model and start keeps the attack's promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import attacks, threat_models
from score_jax.attacks import pgd
from score_jax.types import UserError

SHAPE = (6, 4, 4, 3)
WEIGHTS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def clean_images():
    images = np.random.default_rng(1).uniform(size=SHAPE).astype(np.float32)
    images[0], images[1] = 0, 1  # The corners of [0, 1] too.
    return jnp.asarray(images)


def linear_loss(x):
    return jnp.sum(x * jnp.asarray(WEIGHTS, x.dtype), axis=(1, 2, 3))


@pytest.fixture(params=sorted(threat_models.THREAT_MODELS))
def threat(request):
    return threat_models.create(request.param, 0.3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_projection_is_inside_and_idempotent(threat, dtype):
    clean = clean_images().astype(dtype)
    far = clean + 3 * jnp.asarray(WEIGHTS, dtype)
    once = threat.project(far, clean)
    slack = 1e-6 if dtype == jnp.float32 else 0.02
    assert once.dtype == dtype
    assert float(threat.distance(once, clean).max()) <= threat.eps + slack
    assert 0 <= float(once.min()) and float(once.max()) <= 1
    np.testing.assert_allclose(
        np.asarray(threat.project(once, clean), np.float32),
        np.asarray(once, np.float32),
        atol=slack,
    )


def test_radius_zero_gives_the_clean_images(threat, key):
    nowhere = dataclasses.replace(threat, eps=0.0)
    clean = clean_images()
    np.testing.assert_array_equal(nowhere.project(clean + 1, clean), clean)
    attack = attacks.PGD(threat=nowhere, step_size=0.1, num_steps=3)
    np.testing.assert_array_equal(attack(linear_loss, key, clean), clean)


@pytest.mark.parametrize("start", pgd.STARTS)
def test_attack_ascends_inside_the_ball(threat, start, key):
    attack = attacks.PGD(threat=threat, step_size=0.1, num_steps=8, start=start)
    clean = clean_images()
    adversarial = jax.jit(lambda k, x: attack(linear_loss, k, x))(key, clean)
    assert float(threat.distance(adversarial, clean).max()) <= threat.eps + 1e-6
    assert 0 <= float(adversarial.min()) and float(adversarial.max()) <= 1
    assert (linear_loss(adversarial) > linear_loss(clean) + 0.1).all()


def test_zero_gradient_is_finite_and_stays(threat, key):
    attack = attacks.PGD(threat=threat, step_size=0.1, num_steps=3, start="zero")
    clean = clean_images()
    adversarial = attack(lambda x: 0 * linear_loss(x), key, clean)
    np.testing.assert_allclose(adversarial, clean, atol=1e-7)


def test_l2_rule_for_zero_gradients_moves(key):
    threat = threat_models.create("l2", 0.3, "noise")
    attack = attacks.PGD(threat=threat, step_size=0.1, num_steps=3, start="zero")
    clean = clean_images()
    moved = threat.distance(attack(lambda x: 0 * linear_loss(x), key, clean), clean)
    assert (moved > 0.05).all() and (moved <= 0.3 + 1e-6).all()


def test_examples_do_not_see_each_other(threat, key):
    """An example's result is the same whatever else is in the batch."""
    attack = attacks.PGD(threat=threat, step_size=0.1, num_steps=4, start="zero")
    clean = clean_images()
    weights = jnp.asarray(WEIGHTS)

    def loss(weights):
        return lambda x: jnp.sum(jnp.sin(3 * x) * weights, axis=(1, 2, 3))

    together = attack(loss(weights), key, clean)
    alone = attack(loss(weights[2:3]), key, clean[2:3])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-7)


def test_random_starts_fill_the_ball(key):
    clean = jnp.full((2000, 2, 2, 1), 0.5)
    linf = threat_models.create("linf", 0.3)
    start = linf.random_start(linf.noise(key, clean.shape, clean.dtype), clean)
    offsets = np.asarray(start - clean).ravel()
    assert abs(offsets.mean()) < 0.01
    assert np.quantile(offsets, [0.1, 0.9]) == pytest.approx([-0.24, 0.24], abs=0.01)
    l2 = threat_models.create("l2", 0.1)
    start = l2.random_start(l2.noise(key, clean.shape, clean.dtype), clean)
    assert float(jnp.quantile(l2.distance(start, clean), 0.1)) > 0.099


def test_noise_given_replaces_the_draw(threat, key):
    attack = attacks.PGD(threat=threat, step_size=0.0, num_steps=1)
    clean = clean_images()
    noise = 0.01 * jnp.asarray(WEIGHTS)
    np.testing.assert_allclose(
        attack(linear_loss, key, clean, noise), threat.random_start(noise, clean), atol=1e-6
    )
    assert float(jnp.abs(attack(linear_loss, key, clean) - clean).max()) > 0.05


def test_gradient_does_not_flow_through_the_attack(threat, key):
    attack = attacks.PGD(threat=threat, step_size=0.1, num_steps=2)
    gradient = jax.grad(lambda x: attack(linear_loss, key, x).sum())(clean_images())
    np.testing.assert_array_equal(gradient, 0)


def test_radius_and_steps_are_traced_so_a_sweep_compiles_once(key):
    attack = attacks.create(norm="linf", eps=0.1, step_size=0.02, num_steps=3)
    clean = clean_images()

    traced = []

    @jax.jit
    def swept(eps, num_steps):
        traced.append(True)  # The body runs once, when it is traced.
        changed = dataclasses.replace(pgd.epsilon_sweep(attack, eps), num_steps=num_steps)
        return changed(linear_loss, key, clean)

    reach = [float(jnp.abs(swept(eps, n) - clean).max()) for eps, n in ((0.1, 3), (0.2, 9))]
    assert len(traced) == 1
    assert reach == pytest.approx([0.1, 0.2], abs=0.03) and reach[0] <= 0.1 + 1e-6


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(norm="l3"), "unknown config.norm 'l3'; known: l2, linf"),
        (dict(start="unifrom"), "did you mean 'uniform'"),
        (dict(num_steps=0), "num_steps=0 must be 1 or more"),
        (dict(zero_gradient="go"), "zero_gradient"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    good = dict(norm="linf", eps=0.1, step_size=0.1, num_steps=1)
    with pytest.raises(UserError, match=message):
        attacks.create(**{**good, **fields})


def quadratic(center):
    """Ascends towards `center`: a gradient of the distance's own size."""
    return lambda x: -0.5 * jnp.sum(jnp.square(x - center), axis=(1, 2, 3))


def test_adam_moves_by_its_step_whatever_the_gradient():
    """The first step of Adam is its rate along the sign; later ones are optax's own."""
    images = jnp.full((2, 2, 2, 1), 0.5)
    attack = pgd.PGD(
        threat=threat_models.Linf(eps=0.5), step_size=0.01, num_steps=1, start="zero", rule="adam"
    )
    key = jax.random.key(0)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes i32 and f32.
        one = attack(quadratic(jnp.full_like(images, 0.7)), key, images)
        weak = attack(lambda x: 1e-3 * quadratic(jnp.full_like(x, 0.7))(x), key, images)
    np.testing.assert_allclose(one, 0.51, atol=1e-5)
    np.testing.assert_allclose(weak, 0.51, atol=1e-5)


def test_step_schedule_divides_the_steps_equally():
    images = jnp.full((1, 1, 1, 1), 0.5)
    reached = []
    for num_steps in range(1, 9):
        attack = pgd.PGD(
            threat=threat_models.Linf(eps=0.5), step_size=0.01, num_steps=8, start="zero",
            step_schedule=(1.0, 1.0, 0.1, 0.001),
        )  # fmt: skip
        reached.append(sum(float(attack._step_size(i, jnp.float32)) for i in range(num_steps)))
    expected = np.cumsum([0.01] * 4 + [0.001] * 2 + [0.00001] * 2)
    np.testing.assert_allclose(reached, expected, rtol=1e-6)
    moved = attack(lambda x: x.sum((1, 2, 3)), jax.random.key(0), images)
    np.testing.assert_allclose(moved, 0.5 + expected[-1], rtol=1e-6)


def test_step_noise_is_added_at_each_step_and_projected():
    images = jnp.full((4, 8, 8, 1), 0.5)
    quiet, noisy = (
        pgd.PGD(
            threat=threat_models.Linf(eps=0.3), step_size=0.01, num_steps=4, start="zero",
            step_noise=noise,
        )  # fmt: skip
        for noise in (0.0, 0.001)
    )
    moved = [a(lambda x: x.sum((1, 2, 3)), jax.random.key(0), images) for a in (quiet, noisy)]
    spread = np.asarray(moved[1] - moved[0]).std()
    assert 0.0015 < spread < 0.0025  # √4 · 0.001
