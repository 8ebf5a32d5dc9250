"""The switches of a step: what is recorded, in which order, under which momentum, and on what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import config, recipes, train_state
from score_jax import overrides as overrides_module
from score_jax.minimax import maximize, minimized
from score_jax.models import NormalizeBy
from score_jax.train_step import prepare, train_step
from score_jax.types import UserError

KEY = jax.random.key(3)


def build(*overrides, objective=None, model=None):
    settings = config.load("configs/digits_score.py:smoke", ["data.batch_size=8"])
    with settings.unlocked():
        settings.objective = objective or settings.objective
        settings.model = model or settings.model
    return recipes.build(overrides_module.apply(settings, overrides)).recipe


def batch(size=8):
    images = jax.random.uniform(jax.random.key(1), (size, 8, 8, 1))
    return {
        "images": images,
        "labels": jnp.arange(size, dtype=jnp.int32) % 10,
        "generated": jnp.arange(size) % 2 == 1,
    }


def prepared(recipe):
    return prepare(recipe, batch(), KEY, KEY, jnp.int32(0))


def means(batch_stats):
    return np.asarray(batch_stats["batchnorm_0"]["mean"])


def forward(recipe, state, stats, images, momentum=None, params=None):
    return recipe.classifier.apply(
        state.params if params is None else params, stats, images,
        normalize_by=NormalizeBy.BATCH, momentum=momentum,
    )[1]  # fmt: skip


def test_attack_records_each_of_its_passes_and_one_of_what_it_found():
    order = "batchnorm.update_order=('attack','attacked','adversarial','updated_clean')"
    recipe = build(order, "attack.num_steps=3", objective=dict(name="madry"))
    quiet = build("attack.num_steps=3", objective=dict(name="madry"))
    state = train_state.initial_state(recipe, KEY)
    found, stats = maximize(recipe, state.params, state.batch_stats, KEY, prepared(recipe))
    still, unmoved = maximize(quiet, state.params, state.batch_stats, KEY, prepared(quiet))
    np.testing.assert_array_equal(found.attacked["adversarial"], still.attacked["adversarial"])
    np.testing.assert_array_equal(means(unmoved), means(state.batch_stats))
    # The same four passes by hand: three iterates, each the start of the next step, and the last.
    expected, iterates = state.batch_stats, []
    for steps in (1, 2, 3):
        shorter = dataclasses.replace(
            quiet, attack=dataclasses.replace(quiet.attack, num_steps=steps)
        )
        iterates.append(
            maximize(shorter, state.params, state.batch_stats, KEY, prepared(quiet))[0]
        )
    start_key, _ = jax.random.split(KEY)
    noise = quiet.attack.threat.noise(start_key, (8, 8, 8, 1), jnp.float32)
    start = quiet.attack.threat.random_start(noise, prepared(quiet).images)
    for images in (start, *(found.attacked["adversarial"] for found in iterates)):
        expected = forward(recipe, state, expected, images)
    np.testing.assert_allclose(means(stats), means(expected), rtol=1e-4, atol=1e-6)
    assert recipe.attack_updates == 4


def test_clean_pass_with_the_updated_weights_comes_last():
    order = "batchnorm.update_order=('adversarial','updated_clean')"
    recipe = build(order, objective=dict(name="madry"))
    plain = build("batchnorm.update_order=('adversarial',)", objective=dict(name="madry"))
    state = train_state.initial_state(recipe, KEY)
    after, _ = jax.jit(lambda s: train_step(recipe, s, batch(), KEY))(state)
    before, _ = jax.jit(lambda s: train_step(plain, s, batch(), KEY))(state)
    expected = forward(recipe, state, before.batch_stats, batch()["images"], params=after.params)
    np.testing.assert_allclose(means(after.batch_stats), means(expected), rtol=1e-4, atol=1e-6)


def test_debiased_averages_are_the_mean_of_what_was_seen():
    recipe = build(
        "batchnorm.debias=true", "batchnorm.update_order=('adversarial',)",
        objective=dict(name="madry"),
    )  # fmt: skip
    momentum = recipe.classifier.batchnorm_momentum
    hidden, average = 0.0, 7.0  # The initial value leaves no trace.
    for step, value in enumerate((1.0, -2.0, 4.0)):
        hidden = (1 - momentum) * hidden + momentum * value
        own = float(recipe.momentum(jnp.int32(step), 0))
        average = (1 - own) * average + own * value
        assert average == pytest.approx(hidden / (1 - (1 - momentum) ** (step + 1)), rel=1e-5)


def test_smoothing_of_generated_images_alone():
    recipe = build("label_smoothing_scope=generated", "objective.label_smoothing=0.1")
    targets = np.asarray(prepared(recipe).target_probs)
    np.testing.assert_allclose(targets.max(axis=1)[::2], 1)
    np.testing.assert_allclose(targets.max(axis=1)[1::2], 0.9, rtol=1e-6)


def test_cutmix_makes_versions_and_mixes_their_targets():
    recipe = build(
        "data.cutmix=2", "data.batch_size=16", objective=dict(name="score", cutmix=True)
    )
    seen = prepared(recipe)
    assert seen.images.shape == (16, 8, 8, 1) and seen.labels.shape == (16,)
    np.testing.assert_allclose(seen.target_probs.sum(axis=1), 1, rtol=1e-6)
    own = np.asarray(seen.target_probs)[np.arange(16), np.asarray(seen.labels)]
    same = np.asarray(
        (seen.images == jnp.tile(batch()["images"], (2, 1, 1, 1))).mean(axis=(1, 2, 3))
    )
    # The share of pixels that an image kept is the weight of its label.
    kept = own < 1
    assert kept.any()
    np.testing.assert_allclose(own[kept], same[kept], atol=1e-6)


def test_augmented_views_come_one_after_the_other():
    recipe = build("data.augmented_views=2", "data.augmentation=pad_crop_flip")
    seen = prepared(recipe)
    assert seen.images.shape == (16, 8, 8, 1)
    np.testing.assert_array_equal(seen.labels[:8], seen.labels[8:])
    assert np.any(np.asarray(seen.images[:8]) != np.asarray(seen.images[8:]))


def test_attack_grows_over_its_warmup():
    recipe = build("attack.warmup_steps=4")
    state = train_state.initial_state(recipe, KEY)
    for step, share in ((0, 0.0), (2, 0.5), (9, 1.0)):
        seen = dataclasses.replace(prepared(recipe), step=jnp.int32(step))
        found, _ = maximize(recipe, state.params, state.batch_stats, KEY, seen)
        distance = jnp.abs(found.attacked["adversarial"] - seen.images).max()
        assert float(distance) == pytest.approx(0.2 * share, abs=1e-6)


@pytest.mark.parametrize(
    "objective, overrides, message",
    [
        (dict(name="madry"), ["data.cutmix=2"], "mixes labels, which objective 'madry' cannot"),
        (dict(name="trades", cutmix=True), [], "attacks the mixed labels and there are none"),
        (dict(name="trades", consistency_weight=1.0), [], "set config.data.augmented_views=2"),
        (dict(name="standard"), ["batchnorm.update_order=('attack','clean')"], "has none"),
        (dict(name="llr"), ["norm=l2", "eps=0.5"], "is defined for norm=linf only"),
    ],
)
def test_choices_that_do_not_go_together_are_one_line(objective, overrides, message):
    with pytest.raises(UserError, match=message):
        build(*overrides, objective=objective)


def test_unused_clean_pass_records_and_changes_nothing_else():
    order = "batchnorm.update_order=('adversarial','unused_clean')"
    recipe = build(order, objective=dict(name="madry"))
    state = train_state.initial_state(recipe, KEY)
    found, stats = maximize(recipe, state.params, state.batch_stats, KEY, prepared(recipe))
    loss, (after, views) = minimized(recipe, state.params, stats, found)
    expected = forward(recipe, state, state.batch_stats, found.attacked["adversarial"])
    expected = forward(recipe, state, expected, found.images)
    np.testing.assert_allclose(means(after), means(expected), rtol=1e-4, atol=1e-6)
    assert views.clean_logits is None and "unused_clean" not in views.other_logits


def test_debias_counts_what_is_recorded():
    """Madry's objective has no clean pass: one recording a step, whatever the order names."""
    recipe = build("batchnorm.debias=true", objective=dict(name="madry"))
    seen = [float(recipe.momentum(jnp.int32(step), 0)) for step in range(3)]
    np.testing.assert_allclose(seen, [0.1 / (1 - 0.9**n) for n in (1, 2, 3)], rtol=1e-5)


def test_sum_is_the_batch_size_times_the_mean():
    for name in ("score", "mart"):
        losses = []
        for reduction in ("mean", "sum"):
            recipe = build(f"loss_reduction={reduction}", objective=dict(name=name))
            state = train_state.initial_state(recipe, KEY)
            found, stats = maximize(recipe, state.params, state.batch_stats, KEY, prepared(recipe))
            losses.append(float(minimized(recipe, state.params, stats, found)[0]))
        assert losses[1] == pytest.approx(8 * losses[0], rel=1e-5)


def wide(*overrides, objective, dropout=0.5):
    """A network with dropout, on digits."""
    model = dict(name="wrn-10-1-relu", remat=False, dropout=dropout, init="torch")
    return build(*overrides, objective=objective, model=model)


def test_dropout_is_active_in_outer_passes_with_a_mask_of_each_own():
    recipe = wide(objective=dict(name="trades", beta=1.0, clean_again=True))
    state = train_state.initial_state(recipe, KEY)
    seen = dataclasses.replace(
        prepared(recipe), attacked={"adversarial": prepared(recipe).images}
    )
    _, (_, views) = minimized(recipe, state.params, state.batch_stats, seen, KEY)
    again = views.other_logits["clean_again"]
    for one, other in (
        (views.clean_logits, again), (views.clean_logits, views.adv_logits),
        (again, views.adv_logits),
    ):  # fmt: skip
        assert float(jnp.abs(one - other).max()) > 1e-3
    _, (_, same) = minimized(recipe, state.params, state.batch_stats, seen, KEY)
    np.testing.assert_array_equal(same.clean_logits, views.clean_logits)


@pytest.mark.parametrize("active", [False, True])
def test_dropout_in_the_attack_is_asked_for(active):
    recipe = wide(f"attack.dropout={active}", objective=dict(name="madry"))
    none = wide(objective=dict(name="madry"), dropout=0.0)
    state = train_state.initial_state(recipe, KEY)
    found, expected = (
        maximize(each, state.params, state.batch_stats, KEY, prepared(each))[0]
        for each in (recipe, none)
    )
    same = np.array_equal(found.attacked["adversarial"], expected.attacked["adversarial"])
    assert same is not active


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["batchnorm.update_order=('clean_again',)"], "records none of the forward passes"),
        (
            ["batchnorm.update_order=('clean','opposite')"],
            "names 'opposite', which objective 'score' has not",
        ),
        (
            ["batchnorm.update_order=('attack','clean')", "attack.statistics=running"],
            "only with config.attack.statistics=batch",
        ),
        (
            ["batchnorm.update_order=('attacked','clean')", "attack.statistics=running"],
            "only with config.attack.statistics=batch",
        ),
        (
            ["batchnorm.debias=true", "batchnorm.first_step_momentum=1.0"],
            "exclude each other",
        ),
        (["attack.patience=(0,1)"], "needs 1 rising config.attack.patience_epochs"),
        (["attack.step_schedule=()"], "step_schedule=.* is empty"),
        (["batchnorm.update_order=('clean','attack')"], "attack and attacked come first"),
        (["attack.patience=(-1,)"], "must be 0 or more each"),
        (["attack.start=zero"], "has no gradient at the clean image"),
        (["optimizer.name=adam"], "has no effect on optimizer 'adam'"),
        (["optimizer.name=lamb"], "has no effect on optimizer 'lamb'"),
    ],
)
def test_impossible_switches_are_one_line(overrides, message):
    with pytest.raises(UserError, match=message):
        build(*overrides)
