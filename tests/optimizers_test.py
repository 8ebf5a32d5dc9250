"""Schedules against their formulas; which parameters decay; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import models, optimizers
from score_jax.types import UserError


def rates(name, unit="epoch", **fields):
    return optimizers.create_rates(
        name=name, unit=unit, num_epochs=10, steps_per_epoch=5, momentum=0.9, **fields
    )


def at(schedule, *steps):
    return [float(schedule(step)) for step in steps]


def test_cosine_is_constant_within_an_epoch_or_not():
    by_epoch, by_step = (rates("cosine", unit, learning_rate=1.0) for unit in ("epoch", "step"))
    assert at(by_epoch.learning_rate, 10, 14) == pytest.approx(
        [0.5 * (1 + np.cos(0.2 * np.pi))] * 2
    )
    assert at(by_step.learning_rate, 12) == pytest.approx([0.5 * (1 + np.cos(np.pi * 12 / 50))])
    assert at(by_step.momentum, 0, 49) == pytest.approx([0.9, 0.9])


def test_cosine_warms_up_from_zero():
    schedule = rates("cosine", "step", learning_rate=1.0, warmup=10.0).learning_rate
    assert at(schedule, 0, 5, 10, 50) == pytest.approx([0, 0.5, 1, 0], abs=1e-6)


def test_step_decay_falls_at_its_boundaries():
    schedule = rates("step", learning_rate=0.1, boundaries=(4.0, 8.0)).learning_rate
    assert at(schedule, 19, 20, 39, 40) == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_one_cycle_by_step_ends_at_a_250000th():
    schedule = rates("one_cycle", "step", learning_rate=1.0, warmup_fraction=0.2).learning_rate
    assert at(schedule, 0, 9, 49) == pytest.approx([0.04, 1.0, 4e-6], rel=1e-3)


def test_momentum_stays_where_its_cycle_is_off():
    off = rates("one_cycle", learning_rate=1.0, warmup_fraction=0.2, cycle_momentum=False)
    assert at(off.momentum, 0, 25) == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize(
    "roles, decayed",
    [
        (("kernel", "bias"), {"kernel", "bias"}),
        (("kernel", "bias", "batchnorm"), {"kernel", "bias", "batchnorm"}),
        ((), set()),
    ],
)
def test_weight_decay_goes_by_role(roles, decayed, key):
    classifier = models.create(
        "cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.5,), std=(0.2,)
    )
    params, _ = classifier.init(key)
    params = jax.tree.map(jnp.ones_like, params)
    optimizer = optimizers.create(
        rates("constant", learning_rate=1.0), classifier.roles, nesterov=False,
        weight_decay=0.25, weight_decay_roles=roles,
    )  # fmt: skip
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    moved = jax.tree.map(lambda update: float(jnp.abs(update).max()), updates)
    for role, size in zip(*map(jax.tree.leaves, (classifier.roles, moved)), strict=True):
        assert size == (0.25 if role in decayed else 0)


def test_clipping_bounds_the_gradient_before_decay():
    optimizer = optimizers.create(
        rates("constant", learning_rate=1.0), {"p": "kernel"}, nesterov=False, clip_norm=1.0
    )
    params = {"p": jnp.zeros(2)}
    updates, _ = optimizer.update({"p": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["p"], [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: rates("cosin", learning_rate=1.0), "did you mean 'cosine'"),
        (lambda: rates("cosine", "epochs", learning_rate=1.0), "did you mean 'epoch'"),
        (lambda: rates("step", learning_rate=1.0), "config.schedule.boundaries is missing"),
        (lambda: rates("cosine", learning_rate=1.0, warmups=3), "config.schedule .*warmups"),
        (lambda: optimizers.create(rates("constant", learning_rate=1.0), {}, name="lamb"),
         "unknown config.optimizer.name 'lamb'"),
        (lambda: optimizers.create(rates("constant", learning_rate=1.0), {},
                                   weight_decay_roles=("kernels",)), "did you mean 'kernel'"),
        (lambda: optimizers.create(rates("constant", learning_rate=1.0), {}, weight_decay=-1.0),
         "weight_decay=-1.0"),
    ],
)  # fmt: skip
def test_bad_fields_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_adam_equals_pytorch_s_with_its_coupled_decay():
    import torch

    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    theirs = torch.optim.Adam([weights], lr=0.01, weight_decay=0.1)
    ours = optimizers.create(
        rates("constant", learning_rate=0.01), {"w": "kernel"}, name="adam", weight_decay=0.1
    )
    params = {"w": jnp.array([1.0, -2.0])}
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes i32 and f32.
        state = ours.init(params)
        for gradient in ([0.5, -0.3], [0.1, 2.0], [-1.0, 0.0]):
            weights.grad = torch.tensor(gradient, dtype=torch.float64)
            theirs.step()
            updates, state = ours.update({"w": jnp.array(gradient)}, state, params)
            params = {"w": params["w"] + updates["w"]}
    np.testing.assert_allclose(params["w"], weights.detach().numpy(), rtol=1e-5)
