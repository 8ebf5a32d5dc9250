"""Every objective keeps the promises of the interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import divergences, objectives
from score_jax.objectives import OBJECTIVES, Views
from score_jax.types import UserError

LABELS = jnp.array([0, 1, 2, 3, 0])


def logits(seed, scale=3.0):
    return scale * jax.random.normal(jax.random.key(seed), (5, 4))


def views(clean, adversarial, objective):
    targets = divergences.target_probs(LABELS, 4, objective.label_smoothing, objective.smoothing)
    return Views(clean_logits=clean, adv_logits=adversarial, target_probs=targets)


@pytest.fixture(params=sorted(OBJECTIVES))
def objective(request):
    return objectives.create(request.param)


def test_losses_are_per_example_and_follow_a_permutation(objective):
    order = jnp.array([3, 1, 4, 0, 2])
    seen = views(logits(0), logits(1), objective)
    loss = objective.outer(seen)
    assert loss.shape == (5,) and loss.dtype == jnp.float32
    permuted = jax.tree.map(lambda leaf: leaf[order], seen)
    np.testing.assert_allclose(objective.outer(permuted), loss[order], rtol=1e-6)
    if objective.forwards != ("clean",):
        inner = objective.inner(logits(1), logits(0), LABELS)
        again = objective.inner(logits(1)[order], logits(0)[order], LABELS[order])
        np.testing.assert_allclose(again, inner[order], rtol=1e-6)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_saturated_logits_have_finite_loss_and_gradient(objective, extreme):
    clean = jnp.zeros((5, 4)).at[:, 0].set(extreme)
    adversarial = jnp.zeros((5, 4)).at[:, 1].set(extreme)
    seen = views(clean, adversarial, objective)
    loss, gradient = jax.value_and_grad(lambda v: objective.outer(v).sum())(seen)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, gradient)))
    if objective.forwards != ("clean",):
        gradient = jax.grad(lambda z: objective.inner(z, clean, LABELS).sum())(adversarial)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["trades", "score"])
def test_robust_term_vanishes_where_nothing_moved(name):
    with_robust, without = (objectives.create(name, beta=b) for b in (6.0, 0.0))
    seen = views(logits(0), logits(0), with_robust)
    np.testing.assert_allclose(with_robust.outer(seen), without.outer(seen), atol=1e-6)
    gradients = [
        jax.grad(lambda v, o=o: o.outer(v).sum())(seen).adv_logits
        for o in (with_robust, without)
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("name", ["trades", "score"])
def test_gradient_reaches_both_predictions(name):
    objective = objectives.create(name, beta=1.0)
    only_clean = objectives.create(name, beta=0.0)
    seen = views(logits(0), logits(1), objective)
    both, clean = (jax.grad(lambda v, o=o: o.outer(v).sum())(seen) for o in (objective, only_clean))
    assert float(jnp.abs(both.adv_logits).max()) > 1e-3
    assert float(jnp.abs(both.clean_logits - clean.clean_logits).max()) > 1e-3


def test_score_is_bounded():
    objective = objectives.create("score", beta=1.0)
    seen = views(logits(0, 50.0), logits(1, 50.0), objective)
    assert float(objective.outer(seen).max()) <= 4.0


def test_clip_silences_small_robust_errors():
    objective = objectives.create("score", beta=1.0, clip=0.5)
    seen = views(logits(0, 0.1), logits(1, 0.1), objective)
    gradient = jax.grad(lambda v: objective.outer(v).sum())(seen)
    np.testing.assert_array_equal(gradient.adv_logits, 0)


def test_keep_clean_averages_both():
    plain, kept = (objectives.create("madry", keep_clean=k) for k in (False, True))
    assert plain.forwards == ("adversarial",) and kept.forwards == ("joint",)
    seen = views(logits(0), logits(1), plain)
    swapped = views(logits(1), logits(0), plain)
    np.testing.assert_allclose(
        kept.outer(seen), (plain.outer(seen) + plain.outer(swapped)) / 2, rtol=1e-6
    )


def test_smoothing_conventions():
    labels = jnp.array([1])
    uniform = divergences.target_probs(labels, 4, 0.1, "uniform")
    others = divergences.target_probs(labels, 4, 0.1, "others")
    np.testing.assert_allclose(uniform[0], [0.025, 0.925, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_allclose(others[0], [0.1 / 3, 0.9, 0.1 / 3, 0.1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(name="skore"), "unknown config.objective.name 'skore'; known: madry, score"),
        (dict(name="score", betta=3), "no field 'betta'.*did you mean 'beta'"),
        (dict(name="score", beta=-1.0), "config.objective.beta=-1.0 must be 0 or more"),
        (dict(name="madry", label_smoothing=float("nan")), "label_smoothing=nan"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        objectives.create(**fields)
