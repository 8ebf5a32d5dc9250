"""Multi-targeted PGD: Yang et al. 2020 against the official code, and the union by margins."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.attacks import PGD
from score_jax.attacks.multi_targeted import NUM_STEPS, STEPS_PER_EPS, MultiTargeted
from score_jax.divergences import label_cross_entropy, margin
from score_jax.threat_models import L2, Linf
from score_jax.types import UserError
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


@pytest.fixture
def keys(key):
    return jax.random.split(key, len(LABELS))


def test_the_official_predictions_and_losses(keys):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    attack = multi_targeted(0.1)
    attacked = logits(jax.jit(lambda x: attack(logits, keys, x, LABELS))(images))
    assert attacked.argmax(-1).tolist() == [3, 2, 0]
    losses = label_cross_entropy(attacked, LABELS)
    np.testing.assert_allclose(losses, [1.92993, 0.952124, 0.976347], rtol=5e-6)


def towards_each_class(attack, keys, rank, ascended):
    """rank of the last images of PGD towards each class, f[b, k]; the start is drawn per image."""
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    scores = []
    for target in range(toy_mlp.NUM_CLASSES):
        target_keys = [jax.random.fold_in(key, target) for key in keys]
        noise = [attack.attack.threat.noise(key, toy_mlp.SHAPE, jnp.float32) for key in target_keys]
        aimed = attack.attack(
            lambda x, target=target: ascended(logits(x), target), keys[0], images, jnp.stack(noise)
        )
        scores.append(rank(logits(aimed), target))
    return np.array(scores).T


def test_it_keeps_the_most_probable_target_but_never_the_label(keys):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    attack = multi_targeted(0.1, start="uniform")
    kept = jax.nn.softmax(logits(attack(logits, keys, images, LABELS)))
    scores = towards_each_class(
        attack, keys,
        rank=lambda z, target: jax.nn.softmax(z)[:, target],
        ascended=lambda z, target: -label_cross_entropy(z, jnp.full(3, target)),
    )  # fmt: skip
    # Of the second image the label itself would be reached best.
    assert (scores.argmax(1) == LABELS).any()
    rows = np.arange(3)
    scores[rows, LABELS] = -1
    np.testing.assert_allclose(kept[rows, scores.argmax(1)], scores.max(1), rtol=1e-5)


def test_by_margin_it_is_a_union_over_the_targets(keys):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    rows = np.arange(3)
    for eps in (0.02, 0.05, 0.1):
        attack = dataclasses.replace(multi_targeted(eps, start="uniform"), by="margin")
        kept = margin(logits(attack(logits, keys, images, LABELS)), LABELS)
        margins = towards_each_class(
            attack, keys,
            rank=lambda z, target: margin(z, LABELS),
            ascended=lambda z, target: z[:, target] - z[rows, LABELS],
        )  # fmt: skip
        margins[rows, LABELS] = np.inf
        np.testing.assert_allclose(kept, margins.min(1), rtol=1e-4, atol=1e-6)


def test_starts_differ_between_images_and_hang_on_their_own_key_alone(keys):
    images, logits = toy_mlp.images(jnp.float32), logits_fn()
    attack = multi_targeted(0.1, start="uniform")
    still = dataclasses.replace(attack, attack=dataclasses.replace(attack.attack, num_steps=0))
    moved = still(logits, keys, images, LABELS) - images
    assert (moved[0] != moved[1]).any()
    alone = still(logits, keys[1:], images[1:], LABELS[1:]) - images[1:]
    np.testing.assert_allclose(moved[1:], alone, atol=1e-7)


def test_an_unknown_rule_is_refused(keys):
    attack = dataclasses.replace(multi_targeted(0.1), by="margins")
    with pytest.raises(UserError, match="known: margin, probability; did you mean 'margin'"):
        attack(logits_fn(), keys, toy_mlp.images(jnp.float32), LABELS)
