"""Every objective keeps the promises of the interface."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import divergences, objectives
from score_jax.objectives import OBJECTIVES, Moving, Views
from score_jax.types import UserError

LABELS = jnp.array([0, 1, 2, 3, 0])
EVERY_DIVERGENCE = [*divergences.DIVERGENCES, "l3", "l1.5"]
CLIPPED = [name for name in EVERY_DIVERGENCE if name != "sqrt_reverse_kl"]  # Infinite to a label.
# Every entry of the table, and its variants that compute something else.
VARIANTS = {
    **{name: {} for name in OBJECTIVES},
    **{f"distance_madry/{d}": dict(divergence=d) for d in EVERY_DIVERGENCE},
    **{f"distance_madry/{d}, clipped": dict(divergence=d, clip_loss=0.3) for d in CLIPPED},
    **{f"distance_trades/{d}": dict(divergence=d) for d in EVERY_DIVERGENCE},
    "distance_trades/clipped": dict(divergence="kl", clip_loss=0.3),
    "distance_trades/robust": dict(divergence="js", clip_loss=0.3, clip_clean=False),
    "trades/cutmix": dict(cutmix=True),
    "score/cutmix": dict(cutmix=True),
    "trades/again": dict(clean_again=True),
    "madry/joint": dict(keep_clean=True),
    "gairat/sigmoid": dict(weights="sigmoid"),
    "gairat/discrete": dict(weights="discrete"),
    "gairat/linear": dict(lambda_schedule="linear"),
    "gr/second": dict(order=2, variant="finlay"),
    "llr/qin2019": dict(variant="qin2019"),
}


@pytest.fixture(params=VARIANTS)
def objective(request):
    return objectives.create(request.param.split("/")[0], **VARIANTS[request.param])


def logits(seed, scale=3.0):
    return scale * jax.random.normal(jax.random.key(seed), (5, 4))


def pixels(seed):
    return jax.random.normal(jax.random.key(seed), (5, 2, 2, 1))


def views(clean, adversarial, objective, dtype=jnp.float32):
    """All that an objective may ask for, past every burn-in; the third logits lie between."""
    targets = divergences.target_probs(LABELS, 4, objective.label_smoothing, objective.smoothing)
    between = (clean + adversarial) / 2
    seen = Views(
        clean_logits=clean, adv_logits=adversarial, target_probs=targets.astype(dtype),
        labels=LABELS,
        other_logits={
            "clean_again": clean, "adversarial_margin": between, "opposite": between,
        },
        robust_steps=jnp.array([0, 3, 10, 5, 7]), num_steps=10, epoch=jnp.int32(110),
        num_epochs=120, perturbation=pixels(2).astype(dtype),
        clean_gradient=pixels(3).astype(dtype), batch_size=len(LABELS),
    )  # fmt: skip
    return dataclasses.replace(seen, weights=objective.batch_weights(seen))


def moving(adversarial, clean, objective, dtype=jnp.float32):
    targets = divergences.target_probs(LABELS, 4, objective.label_smoothing, objective.smoothing)
    return Moving(
        logits=adversarial, clean_logits=clean, labels=LABELS, target_probs=targets.astype(dtype),
        images=pixels(0).astype(dtype), clean_images=pixels(1).astype(dtype),
        clean_gradient=pixels(2).astype(dtype),
    )  # fmt: skip


def outer_with_gradient(objective, seen):
    """The loss, and its gradients with respect to the logits alone."""

    def loss(clean, adversarial):
        return objective.outer(
            dataclasses.replace(
                seen, clean_logits=clean, adv_logits=adversarial,
                other_logits={**seen.other_logits, "clean_again": clean},
            )  # fmt: skip
        ).sum()

    return jax.value_and_grad(loss, argnums=(0, 1))(seen.clean_logits, seen.adv_logits)


def inner_gradients(objective, seen):
    return [
        jax.value_and_grad(lambda z, f=inner: f(dataclasses.replace(seen, logits=z)).sum())(
            seen.logits
        )
        for inner in objective.inners.values()
    ]


def finite(tree):
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


def test_losses_are_per_example_and_follow_a_permutation(objective):
    order = jnp.array([3, 1, 4, 0, 2])

    def permuted(tree):
        return jax.tree.map(lambda leaf: leaf[order] if jnp.ndim(leaf) else leaf, tree)

    seen = views(logits(0), logits(1), objective)
    loss = objective.outer(seen)
    assert loss.shape == (5,) and loss.dtype == jnp.float32
    np.testing.assert_allclose(objective.outer(permuted(seen)), loss[order], rtol=1e-5, atol=1e-6)
    if objective.forwards != ("clean",):
        near = moving(logits(1), logits(0), objective)
        for inner in objective.inners.values():
            assert inner(near).shape == (5,)
            np.testing.assert_allclose(inner(permuted(near)), inner(near)[order], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_saturated_logits_have_finite_loss_and_gradient(objective, extreme, dtype):
    clean = jnp.zeros((5, 4), dtype).at[:, 0].set(extreme)
    adversarial = jnp.zeros((5, 4), dtype).at[:, 1].set(extreme)
    assert finite(outer_with_gradient(objective, views(clean, adversarial, objective, dtype)))
    if objective.forwards != ("clean",):
        assert finite(inner_gradients(objective, moving(adversarial, clean, objective, dtype)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_unmoved_predictions_have_finite_loss_and_gradient(objective, dtype):
    """Roots have no derivative at 0, where autodiff gives NaN."""
    same = logits(0).astype(dtype)
    assert finite(outer_with_gradient(objective, views(same, same, objective, dtype)))
    if objective.forwards != ("clean",):
        assert finite(inner_gradients(objective, moving(same, same, objective, dtype)))


def test_ascending_the_inner_loss_needs_its_gradient(objective):
    """Away from the clean prediction every attack has somewhere to go."""
    if objective.forwards != ("clean",):
        for _, gradient in inner_gradients(objective, moving(logits(1), logits(0), objective)):
            assert (jnp.abs(gradient).max(axis=1) > 1e-6).all()


@pytest.mark.parametrize("name", ["trades", "score", "distance_trades"])
def test_robust_term_vanishes_where_nothing_moved(name):
    weight = "robust_weight" if name == "distance_trades" else "beta"
    with_robust, without = (objectives.create(name, **{weight: w}) for w in (6.0, 0.0))
    seen = views(logits(0), logits(0), with_robust)
    np.testing.assert_allclose(with_robust.outer(seen), without.outer(seen), atol=1e-6)
    gradients = [outer_with_gradient(o, seen)[1][1] for o in (with_robust, without)]
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("name", ["trades", "score", "mart", "gair_trades"])
def test_gradient_reaches_both_predictions(name):
    objective, only_clean = (objectives.create(name, beta=b) for b in (1.0, 0.0))
    seen = views(logits(0), logits(1), objective)
    both, clean = (outer_with_gradient(o, seen)[1] for o in (objective, only_clean))
    assert float(jnp.abs(both[1]).max()) > 1e-3
    assert float(jnp.abs(both[0] - clean[0]).max()) > 1e-3


def test_score_is_bounded():
    objective = objectives.create("score", beta=1.0)
    seen = views(logits(0, 50.0), logits(1, 50.0), objective)
    assert float(objective.outer(seen).max()) <= 4.0


def test_clip_silences_small_robust_errors():
    objective = objectives.create("score", beta=1.0, clip=0.5)
    seen = views(logits(0, 0.1), logits(1, 0.1), objective)
    np.testing.assert_array_equal(outer_with_gradient(objective, seen)[1][1], 0)


def test_clipped_distance_leaves_confident_predictions_alone():
    confident = 9.0 * jax.nn.one_hot(LABELS, 4)
    for divergence in CLIPPED:
        objective = objectives.create("distance_madry", divergence=divergence, clip_loss=0.3)
        seen = views(confident, confident, objective)
        np.testing.assert_array_equal(objective.outer(seen), 0)
        free = dataclasses.replace(objective, clip_loss=0.0)
        assert (free.outer(seen) > 0).all()


def test_keep_clean_averages_both():
    plain, kept = (objectives.create("madry", keep_clean=k) for k in (False, True))
    assert plain.forwards == ("adversarial",) and kept.forwards == ("joint",)
    seen = views(logits(0), logits(1), plain)
    swapped = views(logits(1), logits(0), plain)
    np.testing.assert_allclose(
        kept.outer(seen), (plain.outer(seen) + plain.outer(swapped)) / 2, rtol=1e-6
    )


def test_gairat_weights_are_constants_and_have_mean_one():
    objective = objectives.create("gairat")
    seen = views(logits(0), logits(1), objective)
    weights = objective.batch_weights(seen)
    assert float(weights.mean()) == pytest.approx(1)
    assert list(jnp.argsort(-weights)) == list(jnp.argsort(seen.robust_steps))


def test_cutmix_attacks_the_mixture():
    for name in ("trades", "score"):
        objective = objectives.create(name, cutmix=True)
        mixed = 0.5 * (jax.nn.one_hot(LABELS, 4) + jax.nn.one_hot(LABELS[::-1], 4))
        seen = dataclasses.replace(moving(logits(1), logits(0), objective), target_probs=mixed)
        other = dataclasses.replace(seen, clean_logits=logits(5))
        np.testing.assert_array_equal(objective.inner(seen), objective.inner(other))
        # A prediction that equals the mixture has nothing to learn.
        even = dataclasses.replace(
            views(jnp.log(mixed + 1e-30), jnp.log(mixed + 1e-30), objective), target_probs=mixed
        )
        np.testing.assert_allclose(objective.outer(even), 0, atol=1e-6)


def test_consistency_is_finite_where_predictions_are_sure():
    objective = objectives.create("trades", consistency_weight=1.0)
    sure = 1e4 * jax.nn.one_hot(jnp.array([0, 1, 1, 0]), 4)
    gradient = jax.grad(lambda z: objective.inconsistency(z).sum())(sure)
    assert finite(gradient)


def test_smoothing_conventions():
    labels = jnp.array([1])
    uniform = divergences.target_probs(labels, 4, 0.1, "uniform")
    others = divergences.target_probs(labels, 4, 0.1, "others")
    np.testing.assert_allclose(uniform[0], [0.025, 0.925, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_allclose(others[0], [0.1 / 3, 0.9, 0.1 / 3, 0.1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(name="skore"), "unknown config.objective.name 'skore'; known: distance_madry"),
        (dict(name="score", betta=3), "no field 'betta'.*did you mean 'beta'"),
        (dict(name="score", beta=-1.0), "config.objective.beta=-1.0 must be 0 or more"),
        (dict(name="madry", label_smoothing=float("nan")), "label_smoothing=nan"),
        (dict(name="distance_madry", divergence="l0.5"), "is no norm; write l1 or above"),
        (dict(name="distance_madry", divergence="sqrtjs"), "did you mean 'sqrt_js'"),
        (dict(name="distance_madry", clip_loss=1.0), r"clip_loss=1.0 must lie in \[0, 1\)"),
        (dict(name="gairat", weights="tan"), "known: discrete, sigmoid, tanh; did you mean 'tanh'"),
        (dict(name="gair_trades", cutmix=True), "cutmix is not defined for gair_trades"),
        (dict(name="gr", norm="l7"), "unknown config.objective.norm 'l7'"),
        (dict(name="gr", order=3), "order=3 must be 1 or 2"),
        (dict(name="gr", step=0.0), "step=0.0 must be above 0"),
        (dict(name="llr", variant="papers"), "known: qin2019, released"),
        (dict(name="trades", consistency_temperature=0.0), "must be above 0"),
        (dict(name="mart", label_smoothing=0.1), "label_smoothing=0.1 has no meaning for Mart"),
        (dict(name="distance_madry", divergence="sqrt_reverse_kl", clip_loss=0.3), "has no bound"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        objectives.create(**fields)
