"""Divergences and losses of the SCORE and DM-Improves-AT code, on given logits, to 1e-6.

Source: that code run in float64 on two rows of four logits (the first ten digits of each number).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import divergences, objectives
from score_jax.divergences import Distribution

CLEAN = [[2, 1, -1, 0.5], [0.2, 0.1, 3, -0.5]]
ADVERSARIAL = [[0.5, 1.5, -0.5, 0], [1, -0.2, 1.5, 0.3]]
LABELS = [0, 1]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def views():
    labels = jnp.asarray(LABELS, jnp.int32)
    return objectives.Views(
        clean_logits=jnp.asarray(CLEAN, jnp.float64),
        adv_logits=jnp.asarray(ADVERSARIAL, jnp.float64),
        target_probs=divergences.target_probs(labels, 4, 0.0, "uniform").astype(jnp.float64),
        labels=labels,
    )


@pytest.mark.parametrize(
    "name, values",
    [
        ("js", [0.0959443206, 0.0995091877]),
        ("l1", [0.8062032011, 0.7884031536]),
        ("l2", [0.5343395218, 0.4764637091]),
        ("linf", [0.3963627333, 0.3942015768]),
        ("sqrt_reverse_kl", [0.6274797614, 0.7089083259]),
        ("squared_error", [0.2855187246, 0.2270176661]),
    ],
)
def test_divergences(name, values):
    attacked, clean = (
        Distribution.of_logits(jnp.asarray(z, jnp.float64)) for z in (ADVERSARIAL, CLEAN)
    )
    np.testing.assert_allclose(divergences.divergence(name)(attacked, clean), values, rtol=1e-9)


def test_divergences_that_follow_from_others():
    attacked, clean = (
        Distribution.of_logits(jnp.asarray(z, jnp.float64)) for z in (ADVERSARIAL, CLEAN)
    )

    def value(name):
        return divergences.divergence(name)(attacked, clean)

    np.testing.assert_allclose(value("sqrt_js") ** 2, value("js"), rtol=1e-12)
    np.testing.assert_allclose(value("squared_l1"), value("l1") ** 2, rtol=1e-12)
    np.testing.assert_allclose(value("sqrt_kl") ** 2, value("kl"), rtol=1e-12)
    assert float(value("kl").mean()) == pytest.approx(0.3832644260, rel=1e-9)
    difference = np.abs(np.asarray(attacked.probs - clean.probs))
    np.testing.assert_allclose(value("l3"), (difference**3).sum(1) ** (1 / 3), rtol=1e-12)
    np.testing.assert_allclose(value("l2.0"), value("l2"), rtol=1e-12)


@pytest.mark.parametrize(
    "name, clip_loss, bound",
    [
        ("squared_error", 0.3, 0.1),
        ("squared_error", 0.4, 0.177777778),
        ("kl", 0.3, 0.356674944),
        ("kl", 0.4, 0.510825624),
        ("kl", 0.0, 0.0),
        ("sqrt_js", 0.0, 0.0),
    ],
)
def test_clip_bounds(name, clip_loss, bound):
    assert float(divergences.clip_bound(name, clip_loss, 10)) == pytest.approx(bound, abs=1e-9)


def test_pgd_at_and_trades_forms():
    """From their definitions: the reference gives the divergences, not these sums."""
    seen, fields = views(), dict(divergence="squared_error", clip_loss=0.3)
    to_label = divergences.divergence("squared_error")
    onehot = Distribution.of_probs(seen.target_probs)
    clean, attacked = (
        to_label(Distribution.of_logits(z), onehot) for z in (seen.clean_logits, seen.adv_logits)
    )
    bound = 0.3**2 + 0.3**2 / 3
    loss = objectives.create("distance_madry", **fields).outer(seen)
    np.testing.assert_allclose(loss, np.maximum(attacked - bound, 0), rtol=1e-6)
    robust = np.array([0.2855187246, 0.2270176661])
    loss = objectives.create("distance_trades", robust_weight=6.0, **fields).outer(seen)
    np.testing.assert_allclose(loss, np.maximum(clean + 6 * robust - bound, 0), rtol=1e-6)
    loss = objectives.create("distance_trades", clip_clean=False, **fields).outer(seen)
    np.testing.assert_allclose(loss, clean + 6 * np.maximum(robust - bound, 0), rtol=1e-6)


def test_mart():
    boosted, whole = (objectives.create("mart", beta=b).outer(views()).mean() for b in (0.0, 6.0))
    assert float(boosted) == pytest.approx(2.7497401867, rel=1e-9)
    assert float(whole - boosted) / 6 == pytest.approx(0.2509640395, rel=1e-8)
    assert float(whole) == pytest.approx(4.2555244238, rel=1e-9)


def test_consistency():
    """The two rows of each array are one image in two augmentations each."""
    objective = objectives.create("trades", consistency_weight=1.0, consistency_temperature=0.5)
    pairs = jnp.concatenate([jnp.asarray(z, jnp.float64) for z in (CLEAN, ADVERSARIAL)])
    assert float(objective.inconsistency(pairs).mean()) == pytest.approx(0.2151081056, rel=1e-9)
