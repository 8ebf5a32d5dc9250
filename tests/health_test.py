"""What broke first in a step, and in which, is told by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import metrics, objectives, optimizers, train_state
from score_jax.attacks.pgd import Attacked
from score_jax.metrics import CULPRITS, Health
from score_jax.train_step import train_step
from score_jax.types import UserError
from tests import toy_mlp
from tests.methods_golden_test import recipe_of

BATCH = {"images": toy_mlp.images(np.float32), "labels": jnp.asarray(toy_mlp.LABELS)}


@dataclasses.dataclass(frozen=True)
class NothingFound:
    """An attack whose images are no numbers."""

    num_steps: int = 1

    def watch(self, loss_fn, key, images, noise, *, carry, epoch):
        return Attacked(
            images=images * jnp.nan, robust_steps=jnp.zeros(len(images), jnp.int32), carry=carry
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endless(objectives.OBJECTIVES["madry"]):
    """Loss or, at a finite one, gradient are no numbers."""

    of: str = "loss"

    def outer(self, views):
        nothing = 0 * jnp.square(views.adv_logits).sum(-1)
        return nothing + jnp.nan if self.of == "loss" else jnp.sqrt(nothing)


def recipe(rate=0.1, log_every_steps=1, **fields):
    made = recipe_of(objectives.create("madry"), num_steps=1)
    rates = optimizers.Rates(lambda step: jnp.float32(rate), lambda step: jnp.float32(0.9))
    optimizer = optimizers.create(rates, made.classifier.roles)
    return dataclasses.replace(made, optimizer=optimizer, log_every_steps=log_every_steps, **fields)


def culprit(recipe, **batch):
    state = train_state.initial_state(recipe, jax.random.key(0))
    _, sums = train_step(recipe, state, BATCH | batch, jax.random.key(0))
    health = sums["health"]
    return None if int(health.step) < 0 else list(CULPRITS)[int(health.culprit)]


def test_a_sound_step_has_no_culprit():
    assert culprit(recipe()) is None
    assert culprit(recipe(), images=jnp.ones((3, 2, 3, 1), jnp.uint8)) is None


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_are_no_classes(label):
    assert culprit(recipe(), labels=BATCH["labels"].at[1].set(label)) == "data"


@pytest.mark.parametrize("pixel", [np.nan, 1.5, -0.1])
def test_pixels_out_of_range(pixel):
    assert culprit(recipe(), images=BATCH["images"].at[1, 0, 0].set(pixel)) == "data"


def test_attacks_losses_gradients_and_updates_that_are_no_numbers():
    assert culprit(recipe(attack=NothingFound())) == "attack"
    assert culprit(recipe(objective=Endless(of="loss"))) == "loss"
    assert culprit(recipe(objective=Endless(of="gradient"))) == "gradient"
    assert culprit(recipe(rate=np.inf)) == "update"


def test_the_first_bad_step_since_the_last_line_is_kept():
    made = recipe(log_every_steps=4)
    state = train_state.initial_state(made, jax.random.key(0))
    first = []
    for step in range(9):
        labels = BATCH["labels"] + (100 if step in (5, 6) else 0)
        state, sums = train_step(made, state, BATCH | {"labels": labels}, jax.random.key(0))
        first.append(int(sums["health"].step))
    assert first == [-1, -1, -1, -1, -1, 5, 5, 5, -1]  # Step 8 begins another line.


def test_means_are_computed_and_health_is_checked():
    sums = {"train/loss": metrics.Mean.of(jnp.ones(3)), "health": Health.good()}
    assert metrics.compute(sums) == {"train/loss": 1.0}
    metrics.check(sums["health"], last_good=0)
    with pytest.raises(UserError, match="the loss is no finite number in step 7 .* from step 4;"):
        metrics.check(Health.of(jnp.int32(7), loss=jnp.bool_(False)), last_good=4)


@pytest.mark.parametrize("culprit, words", [
    ("data", "an image outside [0, 1] or a label that is no class in step 12"),
    ("attack", "the attack gave images that are no finite numbers in step 12"),
    ("loss", "the loss is no finite number in step 12"),
    ("gradient", "the gradient is no finite number in step 12"),
    ("update", "the update gave weights that are no finite numbers or above 1e19 in step 12"),
])  # fmt: skip
def test_each_culprit_is_told_in_words_of_its_own(culprit, words):
    with pytest.raises(UserError) as caught:
        metrics.check(Health.of(jnp.int32(12), **{culprit: jnp.bool_(False)}), last_good=0)
    assert str(caught.value).startswith(f"{words} (all was well before it); there is no checkpoint")
