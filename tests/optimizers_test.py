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
        (lambda: optimizers.create(rates("constant", learning_rate=1.0), {}, name="lion"),
         "unknown config.optimizer.name 'lion'"),
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


class Large:
    """Some steps of an optimizer for large batches, beside its paper's formulas in NumPy."""

    roles = {"w": "kernel", "b": "bias", "s": "batchnorm", "z": "kernel"}
    decay, coefficient, num_steps = 0.05, 0.02, 4

    def __init__(self, name, **choices):
        self.rates = rates("one_cycle", "step", learning_rate=0.5, warmup_fraction=0.2)
        self.optimizer = optimizers.create(
            self.rates, self.roles, name=name, weight_decay=self.decay,
            weight_decay_roles=("kernel", "bias"), trust_coefficient=self.coefficient, **choices,
        )  # fmt: skip
        draw = np.random.default_rng(0).normal
        self.params = {"w": draw(size=(3, 2)), "b": draw(size=2), "s": draw(size=2)}
        self.params["z"] = np.zeros(2)  # Its norm is 0: no ratio.
        self.gradients = [
            {name: draw(size=value.shape) for name, value in self.params.items()}
            for _ in range(self.num_steps)
        ]

    def ours(self):
        params = jax.tree.map(jnp.float32, self.params)
        state = self.optimizer.init(params)
        for gradient in self.gradients:
            gradient = jax.tree.map(jnp.float32, gradient)
            updates, state = jax.jit(self.optimizer.update)(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    def own_decay(self, name):
        return self.decay if self.roles[name] in ("kernel", "bias") else 0.0

    def ratio(self, name, weight, step):
        norms = np.linalg.norm(weight), np.linalg.norm(step)
        return norms[0] / norms[1] if self.roles[name] == "kernel" and min(norms) > 0 else None


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_its_formula(nesterov):
    case = Large("lars", nesterov=nesterov)
    params, velocity = dict(case.params), dict.fromkeys(case.params, 0.0)
    for step, gradients in enumerate(case.gradients):
        (rate,), (momentum,) = at(case.rates.learning_rate, step), at(case.rates.momentum, step)
        for name, weight in params.items():
            gradient = gradients[name] + case.own_decay(name) * weight
            ratio = case.ratio(name, weight, gradient)
            local = rate * (1 if ratio is None else case.coefficient * ratio)
            velocity[name] = momentum * velocity[name] + local * gradient
            move = local * gradient + momentum * velocity[name] if nesterov else velocity[name]
            params[name] = weight - move
    for name, weight in case.ours().items():
        np.testing.assert_allclose(weight, params[name], rtol=2e-5, atol=1e-6)


def test_lamb_is_its_formula():
    case = Large("lamb")
    params, first, second = dict(case.params), *(dict.fromkeys(case.params, 0.0) for _ in "mv")
    for step, gradients in enumerate(case.gradients):
        (rate,) = at(case.rates.learning_rate, step)
        for name, weight in params.items():
            first[name] = 0.9 * first[name] + 0.1 * gradients[name]
            second[name] = 0.999 * second[name] + 0.001 * gradients[name] ** 2
            mean = first[name] / (1 - 0.9 ** (step + 1))
            square = second[name] / (1 - 0.999 ** (step + 1))
            move = mean / (np.sqrt(square) + 1e-6) + case.own_decay(name) * weight
            ratio = case.ratio(name, weight, move)
            params[name] = weight - rate * (1 if ratio is None else ratio) * move
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes i32 and f32.
        ours = case.ours()
    for name, weight in ours.items():
        np.testing.assert_allclose(weight, params[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_the_rate_of_a_large_batch_is_reached_along_a_line(name):
    fields = {"warmup_fraction": 0.2} if name == "one_cycle" else {}
    own = rates(name, "step", learning_rate=0.4, **fields)
    large = optimizers.scaled(own, 8.0, 10.0)
    steps = (0, 1, 5, 10, 30)
    for step, factor in zip(steps, (1, 1.7, 4.5, 8, 8), strict=True):
        assert at(large.learning_rate, step) == pytest.approx(
            [factor * at(own.learning_rate, step)[0]]
        )
    assert at(large.momentum, *steps) == at(own.momentum, *steps)
    assert at(optimizers.scaled(own, 0.5, 0).learning_rate, 0) == pytest.approx(
        [at(own.learning_rate, 0)[0] / 2]
    )
