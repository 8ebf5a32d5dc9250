"""A batch in parts gives the update of the whole batch, whatever the method."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from score_jax import mesh, microbatches, models, objectives, recipes, train_state
from score_jax.data import pipeline
from score_jax.models import initializers, layers
from score_jax.train_step import train_step
from score_jax.types import UserError
from tests.helpers import digits_config

SIZE = 16
EVERY_PASS = "('attack','attacked','clean','adversarial','unused_clean','updated_clean')"
# Overrides of the objective, other overrides.
METHODS = {
    "score": (dict(name="score"), ["awp.gamma=0.01", f"batchnorm.update_order={EVERY_PASS}"]),
    "gairat": (dict(name="gairat", burn_in_epochs=0), ["loss_reduction=sum"]),
    "madry, joint": (dict(name="madry", keep_clean=True), ["attack.warmup_steps=4"]),
    "trades, views": (
        dict(name="trades", consistency_weight=1.0, robust_mean=True), ["data.augmented_views=2"],
    ),
    "trades, mixed": (dict(name="trades", cutmix=True), ["data.cutmix=2"]),
    "standard": (dict(name="standard"), ["batchnorm.update_order=('clean','updated_clean')"]),
    "rst": (dict(name="rst"), []),
    "distance_madry": (dict(name="distance_madry"), []),
    "distance_trades": (dict(name="distance_trades"), []),
    "mart": (dict(name="mart"), ["batchnorm.debias=true"]),
    "gair_trades": (dict(name="gair_trades", burn_in_epochs=0), []),
    "gr": (dict(name="gr", order=2), []),
    "llr": (dict(name="llr", variant="qin2019"), []),
}  # fmt: skip
QUICK = ("score",)


class Tiny(nnx.Module):
    """One convolution, BatchNorm and a linear layer: little to compile."""

    batchnorm_momentum = 0.1

    def __init__(self, options, *, rngs):
        conv = options.conv(
            padding=layers.symmetric_padding, init=initializers.fan_out_normal, bias_init=None
        )
        self.conv = conv(options.image_shape[-1], 4, 3, 2, rngs=rngs)
        self.batchnorm = options.batchnorm(momentum=self.batchnorm_momentum)(4)
        self.logits = options.logits(4, bias_init=initializers.zero_bias, rngs=rngs)

    def __call__(self, images, mode):
        return self.logits(jnp.tanh(self.batchnorm(self.conv(images), mode)).mean(axis=(1, 2)))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", models.Network("tiny", Tiny))


def recipe_of(method, parts, groups=8):
    objective, overrides = METHODS[method]
    config = digits_config(
        f"data.batch_size={SIZE}", "attack.num_steps=3", f"data.microbatches={parts}",
        f"batchnorm.groups={groups}", "data.augmentation=pad_crop_flip", "ema.decay=0.5",
        "schedule.learning_rate=0.1",
    )  # fmt: skip
    with config.unlocked():
        config.objective = objective
        config.model = dict(name="tiny")
    return recipes.build(recipes.overrides_module.apply(config, overrides)).recipe


def one_step(recipe):
    """The state before and after, in float64: what differs is not how sums are rounded."""
    size = SIZE // max(recipe.cutmix, 1)
    images = jax.random.uniform(jax.random.key(1), (size, 8, 8, 1), jnp.float64)
    batch = {"images": images, "labels": jnp.arange(size, dtype=jnp.int32) % 10}

    def step(key):
        params, batch_stats = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), recipe.classifier.init(key)
        )
        state = train_state.initial_state(recipe, key, (params, batch_stats))
        return state, train_step(recipe, state, batch, key)[0]

    # The machine code runs once.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    key = jax.random.key(0)
    return jax.device_get(jax.jit(step).lower(key).compile(compiler_options=options)(key))


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[] if m in QUICK else pytest.mark.slow) for m in METHODS],
)
def test_parts_give_the_update_of_the_whole_batch(method, tiny):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        (first, whole), (_, parts) = (one_step(recipe_of(method, k)) for k in (1, 2))
    moved = np.abs(whole.params["conv"]["kernel"] - first.params["conv"]["kernel"]).max()
    assert moved > 1e-6  # There is something to agree on.
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(parts), strict=True
    ):
        # The sums for the log are in float32.
        near = 1e-5 if a.dtype == jnp.float32 else 1e-9
        np.testing.assert_allclose(a, b, rtol=near, atol=near, err_msg=str(path))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["standard", "score"])
def test_twenty_steps_on_digits_end_alike(method, data_dir):
    """In float64: in float32 one ReLU or sign that rounding tips over is enough to part them."""
    ends = []
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for parts in (1, 2, 4):
            config = digits_config(
                f"data.dir={data_dir}", "attack.num_steps=2", "batchnorm.groups=4",
                f"data.microbatches={parts}",
            )  # fmt: skip
            with config.unlocked():
                config.objective = dict(name=method)
            recipe = recipes.build(config).recipe
            key = jax.random.key(0)
            params, batch_stats = jax.tree.map(
                lambda leaf: leaf.astype(jnp.float64), recipe.classifier.init(key)
            )
            state = train_state.initial_state(recipe, key, (params, batch_stats))
            step = jax.jit(functools.partial(train_step, recipe, key=key))
            for number in range(20):
                batch = pipeline.batch_at(config, number)
                images = jnp.asarray(batch["images"], jnp.float64) / 255
                state, _ = step(state, {"images": images, "labels": batch["labels"]})
            ends.append(jax.device_get((state.params, state.batch_stats, state.ema_params)))
    for parted in ends[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), ends[0], parted
        )


def test_every_objective_is_tried():
    assert {method.split(",")[0] for method in METHODS} == set(objectives.OBJECTIVES)


def test_parts_lie_on_all_devices_in_the_order_of_the_batch(tiny):
    recipe, layout = recipe_of("rst", 2), mesh.create()
    whole = jax.device_put(jnp.arange(16), layout.batch)
    parts = jax.jit(lambda x: microbatches._cut(recipe, x, layout))(whole)
    np.testing.assert_array_equal(parts, np.arange(16).reshape(2, 8))
    assert {shard.data.shape for shard in parts.addressable_shards} == {(2, 2)}


@pytest.mark.parametrize(
    "method, parts, groups, devices, message",
    [
        ("rst", 3, 3, 1, r"batch_size=16 does not divide into config.data.microbatches=3 equal "
         "parts; use 15 or 18, or fewer"),
        ("rst", 8, 8, 4, "equal parts on each of 4 devices; use 32, or fewer"),
        ("rst", 4, 2, 1, "groups=2 must divide by config.data.microbatches=4: a part .* to 4 "),
        ("madry, joint", 4, 4, 1, "groups=4 must divide by .*=4 x 2, whose images it pairs.* to 8"),
        ("trades, views", 4, 4, 1, "groups=4 must divide by .*=4 x 2, whose images it pairs"),
    ],
)  # fmt: skip
def test_parts_that_would_change_the_update_are_refused(
    method, parts, groups, devices, message, tiny
):
    config = digits_config(f"data.batch_size={SIZE}", f"data.microbatches={parts}")
    with config.unlocked():
        config.batchnorm.groups = groups
    whole = recipe_of(method, 1, groups=1)
    recipe = dataclasses.replace(whole, microbatches=parts)
    with pytest.raises(UserError, match=message):
        microbatches.check(config, recipe, devices)


def test_networks_without_batchnorm_need_no_groups(tiny):
    config = digits_config(f"data.batch_size={SIZE}", "data.microbatches=4")
    recipe = dataclasses.replace(recipe_of("rst", 1), microbatches=4)
    plain = dataclasses.replace(recipe.classifier, batchnorm_momentum=0.0)
    microbatches.check(config, dataclasses.replace(recipe, classifier=plain))
    with pytest.raises(UserError, match="batchnorm.groups=1 must divide"):
        microbatches.check(config, recipe)
