"""The evaluation attacks of Yang et al. 2020 against the official code, on the toy network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.attacks import PGD
from score_jax.attacks.multi_targeted import NUM_STEPS, STEPS_PER_EPS, MultiTargeted
from score_jax.divergences import label_cross_entropy
from score_jax.threat_models import L2, Linf
from tests import toy_mlp

LABELS = jnp.asarray(toy_mlp.LABELS)


def logits_fn(dtype=jnp.float32):
    params = toy_mlp.params(dtype)
    return lambda images: toy_mlp.apply(params, images)


def multi_targeted(eps, start="zero", **fields):
    step = dict(step_size=eps / STEPS_PER_EPS, num_steps=NUM_STEPS)
    return MultiTargeted(attack=PGD(threat=Linf(eps=eps), start=start, **step, **fields))


@pytest.mark.parametrize(
    ("threat", "step_size", "loss"),
    [(Linf(eps=0.031), 0.031 / 5, 1.1319692), (L2(eps=0.5), 0.1, 1.7945113)],
    ids=["linf", "l2"],
)
def test_pgd10(threat, step_size, loss, key):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    attack = PGD(threat=threat, step_size=step_size, num_steps=10, start="zero")

    def loss_fn(x):
        return label_cross_entropy(logits(x), LABELS)

    attacked = jax.jit(lambda x: attack(loss_fn, key, x))(images)
    assert float(loss_fn(images).mean()) == pytest.approx(1.0394889, rel=1e-6)
    assert float(loss_fn(attacked).mean()) == pytest.approx(loss, rel=1e-6)


def test_the_official_predictions_and_losses(key):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    attack = multi_targeted(0.1)
    attacked = logits(jax.jit(lambda x: attack(logits, key, x, LABELS))(images))
    assert attacked.argmax(-1).tolist() == [3, 2, 0]
    losses = label_cross_entropy(attacked, LABELS)
    np.testing.assert_allclose(losses, [1.92993, 0.952124, 0.976347], rtol=5e-6)


def test_it_keeps_the_most_probable_target_but_never_the_label(key):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    attack = multi_targeted(0.1, start="uniform")
    kept = jax.nn.softmax(logits(attack(logits, key, images, LABELS)))
    scores = []
    for target in range(toy_mlp.NUM_CLASSES):
        targets = jnp.full(3, target)
        aimed = attack.attack(
            lambda x, targets=targets: -label_cross_entropy(logits(x), targets),
            jax.random.fold_in(key, target),
            images,
        )
        scores.append(jax.nn.softmax(logits(aimed))[:, target])
    scores = np.array(scores).T
    # Of the second image the label itself would be reached best.
    assert (scores.argmax(1) == LABELS).any()
    scores[np.arange(3), LABELS] = -1
    rows = np.arange(3)
    np.testing.assert_allclose(kept[rows, scores.argmax(1)], scores.max(1), rtol=1e-5)


def test_starts_differ_between_targets_and_a_given_draw_replaces_them(key):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    attack = multi_targeted(0.1, start="uniform")
    still = dataclasses.replace(attack, attack=dataclasses.replace(attack.attack, num_steps=0))
    assert (still(logits, key, images, LABELS) != images).any()
    kept = still(logits, key, images, LABELS, lambda target_key: jnp.zeros_like(images))
    np.testing.assert_array_equal(kept, images)
