"""The numbers of the baselines' PyTorch code, method by method, on the network of toy_mlp.

Source: the released code of GAIRAT, TRADES, MART, AWP, FAT, Rice et al. and Yang et al., run in
float64. Agreement to 1e-6, or to the digits given where they are fewer.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax import divergences, mesh, objectives, optimizers, threat_models, train_state
from score_jax.attacks import PGD
from score_jax.minimax import Batch, maximize, minimized
from score_jax.models import NormalizeBy
from score_jax.objectives import gairat
from score_jax.recipe import Recipe
from score_jax.train_step import train_step
from tests import toy_mlp

CROSS_ENTROPY = (1.6112083, 0.6849194, 0.8223387)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def near(value, digits=None):
    return pytest.approx(value, rel=1e-6, abs=0 if digits is None else 0.5 * 10.0**-digits)


def recipe_of(objective, step_size=0.007, eps=0.031, start="normal", num_steps=10, **fields):
    attack = PGD(
        threat=threat_models.Linf(eps=eps), step_size=step_size, num_steps=num_steps, start=start
    )
    rates = optimizers.Rates(lambda step: jnp.float64(0.1), lambda step: jnp.float64(0.9))
    classifier = toy_mlp.classifier()
    optimizer = optimizers.create(
        rates, classifier.roles, nesterov=False, weight_decay=5e-4,
        weight_decay_roles=("kernel", "bias"),
    )  # fmt: skip
    return Recipe(
        classifier=classifier,
        attack_classifier=classifier,
        objective=objective,
        attack=objective.attack(attack),
        attack_statistics=NormalizeBy.RUNNING,
        optimizer=optimizer,
        num_classes=4,
        augment=lambda key, images: images,
        ema_decay=0.0,
        ema_warmup_steps=0,
        **fields,
    )


def batch_of(recipe, attacked=None, **fields):
    labels = jnp.asarray(toy_mlp.LABELS)
    return Batch(
        images=toy_mlp.images(np.float64), labels=labels,
        target_probs=recipe.target_probs(labels).astype(np.float64), attacked=attacked or {},
        **fields,
    )  # fmt: skip


def loss_and_gradient(recipe, batch=None):
    """Attacks with the official code's noise, then the outer loss and its gradient."""
    params, eta = toy_mlp.params(np.float64), jnp.asarray(toy_mlp.eta())
    if batch is None:
        batch, _ = maximize(recipe, params, {}, jax.random.key(0), batch_of(recipe), eta)

    def loss_fn(p):
        return minimized(recipe, p, {}, batch)[0]

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    return float(loss), gradients


def norm(gradients):
    """Of the second layer's weights."""
    return float(jnp.linalg.norm(gradients["logits"]["kernel"]))


# The weights and losses of GAIRAT.

RAW = [
    0.99966465, 0.99752738, 0.98201379, 0.88079708, 0.5, 0.11920292, 0.01798621, 0.00247262,
    0.00033535, 0.0000454, 0.00000614,
]  # fmt: skip


def weights_of(kappa, num_steps=10, epoch=100, num_epochs=120, **fields):
    views = objectives.Views(
        clean_logits=None, adv_logits=None, target_probs=jnp.zeros((len(kappa), 4), np.float64),
        robust_steps=jnp.asarray(kappa, jnp.int32), num_steps=num_steps, epoch=epoch,
        num_epochs=num_epochs,
    )  # fmt: skip
    return objectives.create("gairat", **fields).batch_weights(views)


def test_gairat_weights_before_they_are_divided_by_their_mean():
    kappa = jnp.arange(11.0)
    raw = jnp.exp(gairat.LOG_WEIGHTS["tanh"](kappa, 10, -1.0))
    np.testing.assert_allclose(raw, RAW, atol=5e-9)
    half_sum = jnp.exp(gairat.LOG_WEIGHTS["discrete"](kappa, 10, -1.0))
    np.testing.assert_allclose(half_sum, (11 - kappa) / 11, rtol=1e-12)


@pytest.mark.parametrize("kappa, num_steps", [((0, 3, 5, 10), 10), ((0, 6, 10, 20), 20)])
def test_gairat_weights(kappa, num_steps):
    expected = [1.99965845, 1.76188417, 0.23844509, 0.00001229]
    np.testing.assert_allclose(weights_of(kappa, num_steps), expected, atol=5e-9)


def test_gairat_weights_by_other_rules():
    discrete = weights_of(range(11), weights="discrete")
    np.testing.assert_allclose(discrete[:2], [1.8333, 1.6667], atol=5e-5)
    np.testing.assert_allclose(discrete[-1], 0.16667, atol=5e-6)
    sigmoid = weights_of(range(11), weights="sigmoid")
    assert float(sigmoid[0]) == near(2.39559886, 8)
    np.testing.assert_array_equal(weights_of(range(11), epoch=58), 1)  # Burn-in: Λ is infinite.
    equal = weights_of([10, 10], weight_lambda=-5.0)  # 0/0 in float32 in the released code.
    np.testing.assert_allclose(equal, 1)


def test_lambda_falls_linearly():
    objective = objectives.create("gairat", lambda_schedule="linear", lambda_max=3.0)
    # Epoch 60 of 120, counted from 1: halfway from 3 to -1.
    assert float(objective.lambda_at(59, 120)) == near(1.0)


def test_gairat_loss():
    recipe = recipe_of(objectives.create("gairat", burn_in_epochs=0))
    batch = batch_of(
        recipe, {"adversarial": toy_mlp.images(np.float64)}, robust_steps=jnp.array([0, 5, 10])
    )
    assert loss_and_gradient(recipe, batch)[0] == near(1.5125187105)


def test_gair_rst():
    early, late = (
        recipe_of(objectives.create("gair_trades", burn_in_epochs=epochs)) for epochs in (1, 0)
    )
    assert loss_and_gradient(late)[0] == near(1.0547169765)
    assert loss_and_gradient(early)[0] == near(1.0539941401)  # Λ = 100: TRADES.


@pytest.mark.parametrize("kappa, weight", [(7, 0.88079708), (8, 0.5), (9, 0.11920292)])
def test_gair_rst_weights(kappa, weight):
    objective = objectives.create("gair_trades", burn_in_epochs=0)
    uniform, other = jnp.zeros((1, 4)), jnp.array([[1.0, 0, 0, 0]])
    views = objectives.Views(
        clean_logits=uniform, adv_logits=other, target_probs=uniform,
        other_logits={"adversarial_margin": uniform}, robust_steps=jnp.array([kappa]), num_steps=10,
        epoch=jnp.int32(0),
    )  # fmt: skip
    whole = float(divergences.kl(uniform, other)[0])
    assert float(objective.robust(views)[0]) / whole == near(weight, 8)


# TRADES, and as Yang et al. sum it.


def test_trades():
    loss, gradients = loss_and_gradient(recipe_of(objectives.create("trades", beta=6.0)))
    assert loss == near(1.0539941401)
    expected = [-0.14133306, -0.23282262, -0.28253192, -0.3042302, -0.30857394]
    np.testing.assert_allclose(gradients["logits"]["kernel"][:, 0], expected, atol=5e-9)


@pytest.mark.parametrize("robust_mean, loss", [(False, 3.1619824), (True, 3.1329718)])
def test_trades_of_sums(robust_mean, loss):
    objective = objectives.create("trades", beta=6.0, robust_mean=robust_mean)
    recipe = recipe_of(objective, step_size=0.0062, loss_reduction="sum")
    assert loss_and_gradient(recipe)[0] == near(loss, 7)


@pytest.mark.parametrize("beta, loss", [(6.0, 1.7791934258), (0.0, 1.7695943994)])
def test_mart(beta, loss):
    assert loss_and_gradient(recipe_of(objectives.create("mart", beta=beta)))[0] == near(loss)


# Gradient regularization and local linearity.


def test_gradient_regularization():
    released, finlay, none = (
        recipe_of(objectives.create("gr", **fields), loss_reduction="sum")
        for fields in (dict(), dict(variant="finlay"), dict(variant="finlay", weight=0.0))
    )
    loss, gradients = loss_and_gradient(released)
    assert loss == near(6.8087226753)
    assert norm(gradients) == near(6.82849757, 8)
    loss, gradients = loss_and_gradient(finlay)
    assert loss == near(6.8087226753)
    assert norm(gradients) == near(6.20734608, 8)
    loss, gradients = loss_and_gradient(none)
    assert loss == near(6.8087226753 - 3.6902562, 7)
    assert norm(gradients) == near(2.20469438, 8)


def input_gradients():
    images, params = toy_mlp.images(np.float64), toy_mlp.params(np.float64)
    labels = jnp.asarray(toy_mlp.LABELS)
    return jax.grad(
        lambda x: divergences.label_cross_entropy(toy_mlp.apply(params, x), labels).sum()
    )(images)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name, power", [("l2", 2), ("l1", 1), ("linf", np.inf)])
def test_gradient_regularization_nears_the_norm_of_the_gradient(name, power, order):
    objective = objectives.create(
        "gr", variant="finlay", weight=2.0, step=1e-5, norm=name, order=order
    )
    recipe = recipe_of(objective, loss_reduction="sum")
    plain = recipe_of(objectives.create("standard"), loss_reduction="sum")
    penalty = loss_and_gradient(recipe)[0] - loss_and_gradient(plain, batch_of(plain))[0]
    flat = np.asarray(input_gradients()).reshape(3, -1)
    norms = np.linalg.norm(flat, ord=power, axis=1)
    if name == "l1":
        norms = norms / np.sqrt(flat.shape[1])
    assert penalty == pytest.approx(np.square(norms).sum(), rel=1e-3)


def test_local_linearity_as_released():
    recipe = recipe_of(objectives.create("llr"), loss_reduction="sum")
    assert loss_and_gradient(recipe)[0] == near(16.4971420833)


def test_renorm():
    threat = threat_models.RescaledLinf(eps=0.031)
    images = jnp.full((1, 1, 3, 1), 0.5)
    moved = threat.project(images + jnp.array([0.1, -0.02, 0.031]).reshape(1, 1, 3, 1), images)
    np.testing.assert_allclose((moved - images).ravel(), [0.031, -0.0062, 0.00961], atol=1e-7)


def test_local_linearity_as_in_its_paper():
    """Its terms, by finite differences: no other program's numbers are known for it."""
    objective = objectives.create("llr", variant="qin2019", weight=4.0, gradient_weight=0.3)
    recipe = recipe_of(objective)
    images, params = toy_mlp.images(np.float64), toy_mlp.params(np.float64)
    labels, delta = jnp.asarray(toy_mlp.LABELS), 0.031 * jnp.sign(jnp.asarray(toy_mlp.eta()))

    def losses(p, x):
        return divergences.label_cross_entropy(toy_mlp.apply(p, x), labels)

    def expected(p):
        step = 1e-4
        slope = (losses(p, images + step * delta) - losses(p, images - step * delta)) / (2 * step)
        bent = jnp.abs(losses(p, images + delta) - losses(p, images) - slope)
        return jnp.mean(2 * losses(p, images) + 4 * (bent + 0.3 * jnp.abs(slope)))

    batch = batch_of(recipe, {"adversarial": images + delta})
    loss, gradients = loss_and_gradient(recipe, batch)
    wanted, wanted_gradients = jax.value_and_grad(expected)(params)
    assert loss == pytest.approx(float(wanted), rel=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8),
        gradients, wanted_gradients,
    )  # fmt: skip
    # And its attack bends the loss more than a random direction does.
    found, _ = maximize(recipe, params, {}, jax.random.key(0), batch_of(recipe))
    slope = input_gradients()

    def bend(x):
        rise = ((x - images) * slope).sum((1, 2, 3))
        return float(jnp.abs(losses(params, x) - losses(params, images) - rise).sum())

    assert bend(found.attacked["adversarial"]) > 1.5 * bend(images + delta)


# Attacks and their counts.


def test_pgd_of_rice():
    recipe = recipe_of(objectives.create("madry"), eps=8 / 255, step_size=2 / 255, start="uniform")
    noise = 8 / 255 * jnp.asarray(toy_mlp.eta())
    params = toy_mlp.params(np.float64)
    batch, _ = maximize(recipe, params, {}, jax.random.key(0), batch_of(recipe), noise)
    plain = recipe_of(objectives.create("madry"))
    assert loss_and_gradient(plain, batch)[0] == near(1.1330892675)


def linear_attack(patience=(), **fields):
    """κ and the distance, in steps, on eight points at known distances from a line."""
    gap = np.array([-0.01, 0.005, 0.03, 0.05, 0.07, 0.0929, 0.0931, 0.5])
    points = np.stack([0.4 + gap / 2, 0.4 + gap / 2, np.full(8, 0.8)], axis=1)
    images = jnp.asarray(points).reshape(8, 1, 3, 1)
    attack = PGD(
        threat=threat_models.Linf(eps=0.031), step_size=0.007, num_steps=10, start="zero",
        patience=patience, **fields,
    )  # fmt: skip

    def loss_fn(x, index, carry):
        margin = x[:, 0, 0, 0] + x[:, 0, 1, 0] - x[:, 0, 2, 0]
        logits = jnp.stack([margin, -margin], axis=-1)
        labels = jnp.zeros(8, jnp.int32)
        return divergences.label_cross_entropy(logits, labels), (margin > 0, carry)

    found = attack.watch(loss_fn, jax.random.key(0), images)
    moved = threat_models.Linf(eps=1).distance(found.images, images) / 0.007
    return np.asarray(found.robust_steps), np.asarray(moved)


def test_robust_steps():
    kappa, _ = linear_attack()
    np.testing.assert_array_equal(kappa, [0, 1, 2, 3, 4, 5, 10, 10])


@pytest.mark.parametrize("patience, backward_passes", [(0, 35), (1, 41), (3, 53)])
def test_early_stop(patience, backward_passes):
    kappa, moved = linear_attack(patience=(patience,))
    np.testing.assert_array_equal(kappa, [0, 1, 2, 3, 4, 5, 10, 10])
    steps = np.minimum(kappa + patience, 10)
    assert steps.sum() == backward_passes
    np.testing.assert_allclose(moved, np.minimum(steps, 0.031 / 0.007), atol=1e-6)


def test_patience_grows_with_the_epochs():
    attack = PGD(
        threat=threat_models.Linf(eps=0.031), step_size=0.007, num_steps=10, patience=(0, 1, 2),
        patience_epochs=(50, 90),
    )  # fmt: skip
    seen = [int(attack._patience_at(jnp.int32(epoch))) for epoch in (0, 49, 50, 89, 90, 119)]
    assert seen == [0, 0, 1, 1, 2, 2]


# Adversarial weight perturbation.


def perturbed_run(recipe, attacked):
    """The loss at the perturbed weights, and the state after one step."""
    batch = {"images": toy_mlp.images(np.float64), "labels": jnp.asarray(toy_mlp.LABELS)}
    params = toy_mlp.params(np.float64)
    recipe = recipe.__class__(
        **{**vars(recipe), "attack": FixedAttack(images=attacked), "log_every_steps": 1}
    )
    state = train_state.create(recipe, jax.random.key(0), mesh.create())
    state = state.__class__(**{**vars(state), "params": params, "ema_params": params})
    state = state.__class__(**{**vars(state), "opt_state": recipe.optimizer.init(params)})
    state, sums = train_step(recipe, state, batch, jax.random.key(0))
    return float(sums["train/loss"].compute()), state


class FixedAttack:
    """Stands for an attack whose result is given."""

    num_steps = 10

    def __init__(self, images):
        self.images = images

    def watch(self, loss_fn, key, images, noise, *, carry, epoch):
        return self

    robust_steps = jnp.zeros(3, jnp.int32)
    carry = ()


def test_awp():
    images = toy_mlp.images(np.float64)
    recipe = recipe_of(objectives.create("madry"), awp_gamma=0.01)
    loss, state = perturbed_run(recipe, images)
    assert loss == near(1.0827688, 7)
    expected = [-0.40160256, -0.965454, -0.62431774, 0.31515534, 0.99221439]
    np.testing.assert_allclose(state.params["logits"]["kernel"][:, 0], expected, atol=5e-9)
    labels = jnp.asarray(toy_mlp.LABELS)

    def after(state):
        logits = toy_mlp.apply(state.params, images)
        return float(divergences.label_cross_entropy(logits, labels).mean())

    assert after(state) == near(0.9438388, 7)
    _, plain = perturbed_run(recipe_of(objectives.create("madry")), images)
    assert after(plain) == near(0.9452190, 7)
    late = recipe_of(objectives.create("madry"), awp_gamma=0.01, awp_start_epoch=1)
    assert perturbed_run(late, images)[0] == near(1.0394888, 7)


def test_awp_moves_kernels_by_their_own_length():
    recipe = recipe_of(objectives.create("madry"))
    params = toy_mlp.params(np.float64)
    batch = batch_of(recipe, {"adversarial": toy_mlp.images(np.float64)})
    _, gradients = loss_and_gradient(recipe, batch)
    from score_jax.weight_perturbation import perturbation

    moved = perturbation(params, gradients, recipe.classifier.roles, 1.0)
    lengths = [float(optax.tree.norm(moved[layer]["kernel"])) for layer in ("hidden", "logits")]
    assert lengths == [near(3.9417043, 7), near(3.1162404, 7)]
    assert not any(np.any(moved[layer]["bias"]) for layer in ("hidden", "logits"))


def test_trades_awp():
    images = toy_mlp.images(np.float64)
    attacked = images + 0.031 * jnp.sign(jnp.asarray(toy_mlp.eta()))
    plain = recipe_of(objectives.create("trades", beta=6.0))
    assert perturbed_run(plain, attacked)[0] == near(1.0492182, 7)
    raised = recipe_of(objectives.create("trades", beta=6.0), awp_gamma=0.005)
    assert perturbed_run(raised, attacked)[0] == near(1.0705281, 7)


# Label smoothing and schedules.


def test_smoothing_of_bag_of_tricks():
    logits = jnp.array([[2.0, 1, 0, -1, 0.5, 0, 0, 0, 0, 0]])
    values = [
        float(
            divergences.cross_entropy(
                logits, divergences.target_probs(jnp.array([0]), 10, smoothing, convention)
            )[0]
        )
        for smoothing, convention in ((0.2, "others"), (0.2, "uniform"), (0.0, "uniform"))
    ]
    assert values == [near(1.2861225, 7), near(1.2472336, 7), near(0.8972336, 7)]


def test_learning_rates_of_gairat():
    rates = optimizers.create_rates(
        name="step", unit="epoch", num_epochs=120, steps_per_epoch=391, momentum=0.9,
        learning_rate=0.1, boundaries=(59.0, 89.0, 109.0), factors=(0.1, 0.01, 0.005),
    )  # fmt: skip
    seen = [float(rates.learning_rate((epoch - 1) * 391)) for epoch in (59, 60, 89, 90, 109, 110)]
    np.testing.assert_allclose(seen, [0.1, 0.01, 0.01, 0.001, 0.001, 0.0005], rtol=1e-6)


def test_learning_rate_of_rice_falls_one_step_early():
    rates = optimizers.create_rates(
        name="step", unit="fractional_epoch", num_epochs=200, steps_per_epoch=391, momentum=0.9,
        learning_rate=0.1, boundaries=(100.0, 150.0),
    )  # fmt: skip
    seen = [float(rates.learning_rate(100 * 391 + step)) for step in (-2, -1, 0)]
    np.testing.assert_allclose(seen, [0.1, 0.01, 0.01], rtol=1e-6)
