"""The numbers of the papers' PyTorch code (SCORE and its core attacks), case by case.

Source: the official SCORE repository run in float64 on the fixture of tests/reference.py. float64
must agree to 1e-6, float32 to 1e-4.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import averaging, divergences, objectives, optimizers, threat_models
from score_jax.attacks import PGD
from score_jax.metrics import correct
from score_jax.minimax import Batch, maximize, minimized
from score_jax.models import NormalizeBy
from score_jax.recipe import Recipe
from tests import reference

EPS = 8 / 255
TOLERANCE = {np.float64: 1e-6, np.float32: 1e-4}


@pytest.fixture(
    params=[np.float64, pytest.param(np.float32, marks=pytest.mark.slow)],
    ids=["float64", "float32"],
)
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


def near(dtype, value):
    return pytest.approx(value, rel=TOLERANCE[dtype])


def swish_noise(eps):
    """The uniform start of the official swish path, which draws in float32."""
    return (eps * reference.pattern()).astype(np.float32)


def recipe_of(classifier, objective, **fields):
    threat = fields.pop("threat", threat_models.Linf(eps=EPS))
    attack = PGD(threat=threat, **{"step_size": 2 / 255, "num_steps": 10, **fields})
    return Recipe(
        classifier=classifier,
        attack_classifier=classifier,
        objective=objective,
        attack=attack,
        optimizer=None,
        num_classes=10,
        augment=lambda key, images: images,
        ema_decay=0.995,
        ema_warmup_steps=0,
    )


def one_update(dtype, objective, noise, **fields):
    """Attack, loss, gradients and statistics of one step on the fixture.

    Ten sign steps through batch statistics magnify rounding (in any framework), so the attack runs
    in float64 and what follows it in `dtype`.
    """
    name = type(objective).__name__.lower()
    adversarial = attacked_images(name, noise.tobytes(), noise.dtype, **fields)
    classifier, params, batch_stats = reference.network(dtype=dtype)
    recipe = recipe_of(classifier, objective, **fields)
    images, attacked = jnp.asarray(reference.images(), dtype), jnp.asarray(adversarial, dtype)
    labels = jnp.asarray(reference.LABELS, jnp.int32)
    batch = Batch(
        images=images, labels=labels, attacked={"adversarial": attacked},
        target_probs=recipe.target_probs(labels).astype(dtype),
    )  # fmt: skip
    (loss, (stats, views)), gradients = jax.jit(
        jax.value_and_grad(lambda p: minimized(recipe, p, batch_stats, batch), has_aux=True)
    )(params)
    return dict(
        loss=float(loss), stats=stats, views=views, gradients=gradients, labels=labels,
        delta=adversarial - reference.images(),
    )  # fmt: skip


@functools.lru_cache
def attacked_images(name, noise, noise_dtype, **fields):
    """The float64 attack of an objective; beta, clip and smoothing are not part of it."""
    with jax.enable_x64(True):
        classifier, params, batch_stats = reference.network(dtype=np.float64)
        recipe = recipe_of(classifier, objectives.create(name), **fields)
        start = np.frombuffer(noise, noise_dtype).reshape(4, 32, 32, 3)
        images, start = (jnp.asarray(x, np.float64) for x in (reference.images(), start))
        labels = jnp.asarray(reference.LABELS, jnp.int32)
        key = jax.random.key(0)

        def attack(x, n):
            batch = Batch(images=x, labels=labels, target_probs=recipe.target_probs(labels))
            return maximize(recipe, params, batch_stats, key, batch, n)[0].attacked["adversarial"]

        return np.asarray(jax.jit(attack)(images, start))


# Case 1 and 2: the network.


def test_logits_by_running_statistics(dtype):
    classifier, params, batch_stats = reference.network(dtype=dtype)
    images = jnp.asarray(reference.images(), dtype)
    assert float(images.sum()) == near(dtype, 6155.61385258)
    logits, stats = classifier.apply(params, batch_stats, images, normalize_by=NormalizeBy.RUNNING)
    expected = [
        -0.9596636051, 0.8078083008, -0.9915220067, 0.7583519602, -0.7774600856,
        0.5664145611, -0.3782944357, 0.2548415152, 0.0968315838, -0.1296064430,
    ]  # fmt: skip
    np.testing.assert_allclose(logits[0], expected, rtol=TOLERANCE[dtype], atol=1e-6)
    assert float(logits.sum()) == near(dtype, -4.2590178389)
    assert float(jnp.square(logits).sum()) == near(dtype, 33.1421343454)
    assert stats is batch_stats


def test_batch_statistics_forward_and_what_it_records(dtype):
    classifier, params, batch_stats = reference.network(dtype=dtype)
    images = jnp.asarray(reference.images(), dtype)
    logits, stats = classifier.apply(params, batch_stats, images, normalize_by=NormalizeBy.BATCH)
    np.testing.assert_allclose(
        logits[0, :3], [7.7635010523, -7.7477251273, 6.9216377602], rtol=TOLERANCE[dtype]
    )
    np.testing.assert_allclose(
        stats["batchnorm"]["mean"][:3],
        [-0.0703071446, -0.0892010929, -0.1005329132],
        rtol=TOLERANCE[dtype],
    )
    np.testing.assert_allclose(
        stats["batchnorm"]["var"][:3],
        [0.5937463292, 0.5132845726, 0.4974163981],
        rtol=TOLERANCE[dtype],
    )


# Cases 3 to 5: attack and loss of SCORE and TRADES, L∞ and L2.


def test_score_update(dtype):
    result = one_update(dtype, objectives.create("score", beta=4.0), swish_noise(EPS))
    assert result["loss"] == near(dtype, 2.1356251533)
    views, labels = result["views"], result["labels"]
    assert float(correct(views.clean_logits, labels).mean()) == 0.5
    assert float(correct(views.adv_logits, labels).mean()) == 0.25
    assert np.abs(result["delta"]).sum() == pytest.approx(243.566504906, rel=1e-6)
    assert (result["delta"] * reference.probe()).sum() == pytest.approx(-1.3067233175, rel=1e-6)
    gradients = result["gradients"]
    norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients))))
    stem = float(jnp.sqrt(jnp.sum(gradients["init_conv"]["kernel"] ** 2)))
    assert norm == pytest.approx(394.04822, rel=max(TOLERANCE[dtype], 2e-8))
    assert stem == pytest.approx(54.39987, rel=max(TOLERANCE[dtype], 1e-7))
    assert float(result["stats"]["batchnorm"]["mean"][0]) == near(dtype, -0.0677442545)


@pytest.mark.parametrize(
    "fields, loss",
    [
        (dict(beta=4.0, clip=0.1), 1.8056664424),
        (dict(beta=3.0, label_smoothing=0.1), 1.6647480453),
    ],
    ids=["clip", "smoothing"],
)
def test_score_variants(dtype, fields, loss):
    result = one_update(dtype, objectives.create("score", **fields), swish_noise(EPS))
    assert result["loss"] == near(dtype, loss)


@pytest.mark.parametrize(
    "beta, smoothing, loss",
    [
        (5.0, 0.1, 9.9630218651),
        pytest.param(6.0, 0.0, 10.9156726684, marks=pytest.mark.slow),
    ],
)
def test_trades_update(dtype, beta, smoothing, loss):
    objective = objectives.create("trades", beta=beta, label_smoothing=smoothing)
    result = one_update(dtype, objective, swish_noise(EPS))
    assert result["loss"] == near(dtype, loss)
    assert np.abs(result["delta"]).sum() == pytest.approx(252.401705268, rel=1e-6)


@pytest.mark.parametrize(
    "name, fields, loss",
    [
        ("score", dict(beta=4.0), 1.0967168805),
        pytest.param(
            "trades", dict(beta=5.0, label_smoothing=0.1), 6.5013513960, marks=pytest.mark.slow
        ),
    ],
)
def test_l2_update(dtype, name, fields, loss):
    eps = 128 / 255
    result = one_update(
        dtype,
        objectives.create(name, **fields),
        reference.pattern(),
        threat=threat_models.L2(eps=eps, zero_gradient="noise"),
        start="normal",
        step_size=2 * eps / 10,
    )
    assert result["loss"] == near(dtype, loss)
    norms = np.sqrt(np.square(result["delta"]).sum((1, 2, 3)))
    np.testing.assert_allclose(norms, 0.50196070, atol=1e-8)


# Case 6: attacks by running statistics.


def attacked(dtype, loss_name, labels, noise, threat=None, **fields):
    """Mean loss before and after an evaluation attack, the perturbation, and the margins."""
    classifier, params, batch_stats = reference.network(dtype=dtype)
    images = jnp.asarray(reference.images(), dtype)
    labels = jnp.asarray(labels, jnp.int32)

    def logits_fn(x):
        return classifier.apply(params, batch_stats, x, normalize_by=NormalizeBy.RUNNING)[0]

    def loss_fn(x):
        return divergences.ATTACK_LOSSES[loss_name](logits_fn(x), labels)

    attack = PGD(threat=threat or threat_models.Linf(eps=EPS), **fields)
    noise = None if noise is None else jnp.asarray(noise, dtype)
    adversarial = jax.jit(lambda x: attack(loss_fn, jax.random.key(0), x, noise))(images)
    return dict(
        before=float(loss_fn(images).mean()),
        after=float(loss_fn(adversarial).mean()),
        delta=np.asarray(adversarial - images, np.float64),
        margins=np.asarray(divergences.margin(logits_fn(adversarial), labels)),
    )


def test_cross_entropy_pgd(dtype):
    result = attacked(
        dtype, "cross_entropy", reference.LABELS, EPS * reference.pattern(),
        step_size=2 / 255, num_steps=10,
    )  # fmt: skip
    assert result["before"] == near(dtype, 2.7027105794)
    assert result["after"] == near(dtype, 10.2016988692)
    assert np.abs(result["delta"]).sum() == near(dtype, 362.180149225)


def test_fgsm(dtype):
    result = attacked(
        dtype, "cross_entropy", reference.LABELS, None, step_size=EPS, num_steps=1, start="zero"
    )
    assert result["after"] == near(dtype, 9.9913642315)


def test_l2_pgd(dtype):
    result = attacked(
        dtype, "cross_entropy", reference.LABELS, reference.pattern(),
        threat=threat_models.L2(eps=128 / 255), step_size=15 / 255, num_steps=10,
    )  # fmt: skip
    assert result["after"] == near(dtype, 3.9019284719)


def test_margin_pgd_keeps_the_last_iterate(dtype):
    result = attacked(
        dtype, "margin", [1, 3, 1, 1], EPS * reference.pattern(), step_size=2 / 255, num_steps=40
    )
    np.testing.assert_allclose(
        result["margins"],
        [-0.0067841636, -0.1401997159, -0.0187991659, 0.0309795420],
        rtol=TOLERANCE[dtype],
        atol=1e-8 if dtype is np.float64 else 1e-5,
    )


# Cases 7 and 9: the losses on given logits.

Z_CLEAN = [[2, 1, -1, 0.5], [0.2, 0.1, 3, -0.5]]
Z_ADVERSARIAL = [[0.5, 1.5, -0.5, 0], [1, -0.2, 1.5, 0.3]]


def views_of(dtype, smoothing=0.0, convention="uniform", clean=Z_CLEAN, adversarial=Z_ADVERSARIAL):
    targets = divergences.target_probs(jnp.array([0, 1]), 4, smoothing, convention)
    return objectives.Views(
        clean_logits=jnp.asarray(clean, dtype),
        adv_logits=jnp.asarray(adversarial, dtype),
        target_probs=targets.astype(dtype),
    )


def test_score_on_logits(dtype):
    views = views_of(dtype)
    clean_only, robust_only = (objectives.create("score", beta=b).outer(views) for b in (0.0, 1.0))
    np.testing.assert_allclose(clean_only, [0.2222043046, 1.6711815965], rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        robust_only - clean_only, [0.2855187246, 0.2270176661], rtol=TOLERANCE[dtype]
    )
    objective = objectives.create("score", beta=4.0)
    assert float(objective.outer(views).mean()) == near(dtype, 1.9717657319)
    gradients = jax.grad(lambda v: objective.outer(v).mean())(views)
    np.testing.assert_allclose(
        gradients.clean_logits[0],
        [0.4373269824, -0.3751762116, -0.0193955932, -0.0427551776],
        rtol=TOLERANCE[dtype],
    )
    np.testing.assert_allclose(
        gradients.adv_logits[0],
        [-0.4436353144, 0.5351247771, -0.0238466572, -0.0676428065],
        rtol=TOLERANCE[dtype],
    )


def test_trades_on_logits(dtype):
    views = views_of(dtype, smoothing=0.1)
    terms = [objectives.create("trades", beta=b).outer(views).mean() for b in (0.0, 1.0, 5.0)]
    assert float(terms[0]) == near(dtype, 1.8044931376)
    assert float(terms[1] - terms[0]) == near(dtype, 0.3832644260)
    assert float(terms[2]) == near(dtype, 3.7208152676)


def test_margin_loss(dtype):
    logits, labels = jnp.asarray(Z_CLEAN, dtype), jnp.array([0, 1])
    value, gradient = jax.value_and_grad(lambda z: divergences.margin_loss(z, labels).sum())(logits)
    assert float(value) == near(dtype, -1.0)
    np.testing.assert_array_equal(gradient, [[-1, 1, 0, 0], [0, 0, 0, 0]])


# Case 10: schedules and the weight average.


def rates_table(num_epochs, learning_rate, steps_per_epoch=98):
    return optimizers.create_rates(
        name="one_cycle", unit="epoch", num_epochs=num_epochs, steps_per_epoch=steps_per_epoch,
        momentum=0.9, learning_rate=learning_rate, warmup_fraction=0.025,
    )  # fmt: skip


@pytest.mark.parametrize(
    "epoch, learning_rate, momentum",
    [
        (0, 0.008, 0.95),
        (1, 0.01378951, 0.946985),
        (4, 0.08732977, 0.908682),
        (9, 0.2, 0.85),
        (50, 0.19459550, 0.852702),
        (100, 0.17431459, 0.862843),
        (200, 0.10322198, 0.898389),
        (204, 0.1000004, 0.9),
        (300, 0.03014954, 0.934926),
        (399, 8e-7, 0.95),
    ],
)
def test_one_cycle(epoch, learning_rate, momentum):
    rates = rates_table(400, 0.2)
    for step in (98 * epoch, 98 * epoch + 97):
        # Near its end the rate is a difference of float32 numbers of size 0.2.
        assert float(rates.learning_rate(step)) == pytest.approx(learning_rate, rel=1e-6, abs=2e-8)
        assert float(rates.momentum(step)) == pytest.approx(momentum, rel=1e-6)


def test_one_cycle_of_few_epochs():
    assert float(rates_table(10, 0.2).learning_rate(0)) == pytest.approx(0.197, abs=5e-4)
    # PyTorch divides by zero at 40 epochs; here the run starts at its peak.
    assert float(rates_table(40, 0.2).learning_rate(0)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "step, decay", [(979, 0.0), (980, 0.1), (981, 2 / 11), (2769, None), (2770, 0.995)]
)
def test_average_decay(step, decay):
    value = float(averaging.decay_at(jnp.int32(step), 0.995, 0.025 * 400 * 98))
    if decay is None:
        assert value < 0.995
    else:
        assert value == pytest.approx(decay, rel=1e-6)


def test_average_trace():
    average, trace = {"theta": jnp.zeros(())}, []
    for step in range(1, 8):
        decay = averaging.decay_at(jnp.int32(step), 0.995, 3)
        average = averaging.update(average, {"theta": jnp.float32(step)}, decay)
        trace.append(float(average["theta"]))
    assert trace == pytest.approx([1, 2, 2.9, 3.8, 4.7, 5.6, 6.5], rel=1e-6)


# Case 11: the optimizer.


def test_sgd():
    with jax.enable_x64(True):
        rates = optimizers.Rates(lambda step: jnp.float64(0.2), lambda step: jnp.float64(0.95))
        optimizer = optimizers.create(rates, {"p": "kernel"}, weight_decay=5e-4)
        params = {"p": jnp.float64(1.0)}
        state = optimizer.init(params)
        trace = []
        for gradient in (0.5, -0.3, 0.1):
            updates, state = optimizer.update({"p": jnp.float64(gradient)}, state, params)
            params = {"p": params["p"] + updates["p"]}
            trace.append(float(params["p"]))
    assert trace == pytest.approx([0.804805, 0.831307813025, 0.7603998368502], rel=1e-6)


# Case 12: BatchNorm momentum 1.0 forgets.


def test_first_step_momentum_leaves_the_last_forward(dtype):
    classifier, params, stats = reference.network(dtype=dtype)
    images = jnp.asarray(reference.images(), dtype)
    for x in (images, jnp.clip(images + 0.1, 0, 1)):
        _, stats = classifier.apply(params, stats, x, normalize_by=NormalizeBy.BATCH, momentum=1.0)
    np.testing.assert_allclose(
        stats["batchnorm"]["mean"][:3],
        [0.2006433012, 0.2660096011, -0.1562861529],
        rtol=TOLERANCE[dtype],
    )


# Case 14: projection and parameter counts (the sampler's counts are tested with the data).


def test_l2_projection(dtype):
    threat = threat_models.L2(eps=128 / 255)
    clean = jnp.zeros((2, 1, 2, 1), dtype)
    moved = jnp.asarray([[3, 4], [0.1, 0.2]], dtype).reshape(2, 1, 2, 1)
    # [0, 1] comes first, so the point is scaled down to where that does not bind.
    scaled = moved.at[0].multiply(jnp.asarray(0.2, dtype))
    projected = threat.project(scaled, clean)[:, 0, :, 0]
    np.testing.assert_allclose(
        projected, [[0.3011765, 0.4015686], [0.1, 0.2]], rtol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize(
    "name, num_classes, count",
    [
        ("wrn-10-1-swish", 10, 77_850),
        ("wrn-10-1-swish", 100, 83_700),
        ("wrn-10-2-swish", 10, 303_706),
        ("wrn-10-2-swish", 100, 315_316),
        ("wrn-28-10-swish", 10, 36_479_194),
        ("wrn-28-10-swish", 100, 36_536_884),
        ("wrn-34-10-swish", 10, 46_160_474),
        ("wrn-34-20-swish", 100, 184_646_964),
        ("wrn-70-16-swish", 10, 266_796_506),
        ("wrn-106-16-swish", 100, 415_567_412),
        ("preact-resnet-18-swish", 10, 12_548_426),
        ("preact-resnet-18-relu", 10, 11_172_170),
    ],
)
def test_parameter_count(name, num_classes, count):
    from score_jax import models

    classifier = models.create(name, **{**reference.CIFAR10, "num_classes": num_classes})
    params, _ = jax.eval_shape(classifier.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
