"""Every network keeps the seam's promises; BatchNorm and convolution equal their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from score_jax import models
from score_jax.models import NormalizeBy, assembly, initializers, layers
from score_jax.types import UserError
from tests import tiny_networks


@pytest.fixture(params=models.known_names())
def name(request):
    return tiny_networks.SMALL[request.param][0]


def create(name, **fields):
    return models.create(name, **tiny_networks.arguments((8, 8, 3)), **fields)


def images(count=4, seed=1):
    return jax.random.uniform(jax.random.key(seed), (count, 8, 8, 3))


def test_running_statistics_stay_and_batch_statistics_move(name):
    classifier, x = tiny_networks.create(name), tiny_networks.images(name)
    params, stats = tiny_networks.weights(name)
    kept = classifier.apply(params, stats, x, normalize_by=NormalizeBy.RUNNING)[1]
    assert kept is stats
    logits, moved = classifier.apply(params, stats, x, normalize_by=NormalizeBy.BATCH)
    assert logits.shape == (4, 10) and logits.dtype == jnp.float32
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), stats, moved))
    assert all(changed)
    assert bool(changed) == (classifier.batchnorm_momentum > 0) == (not name.startswith("cnn-00"))
    assert jax.tree.structure(stats) == jax.tree.structure(moved)


def test_arrays_of_the_caller_are_never_written(key):
    classifier = create("cnn-3")
    params, stats = jax.tree.map(np.array, classifier.init(key))
    before = jax.tree.map(np.copy, stats)
    classifier.apply(params, stats, images(), normalize_by=NormalizeBy.BATCH)
    jax.tree.map(np.testing.assert_array_equal, stats, before)


def test_roles_cover_the_parameters(name, key):
    classifier = tiny_networks.create(name)
    params, _ = jax.eval_shape(classifier.init, key)
    assert jax.tree.structure(params) == jax.tree.structure(classifier.roles)
    roles, leaves = jax.tree.leaves(classifier.roles), jax.tree.leaves_with_path(params)
    for (path, leaf), role in zip(leaves, roles, strict=True):
        layer, last = path[-2].key, path[-1].key
        assert role == ("batchnorm" if "batchnorm" in layer else last)
        assert len(leaf.shape) in ((2, 4) if role == "kernel" else (1,))


def test_remat_changes_nothing_but_memory():
    plain, remat = create("wrn-10-1-relu"), create("wrn-10-1-relu", remat=True)
    params, stats = tiny_networks.weights("wrn-10-1-relu")

    def gradient(classifier):
        def loss(params):
            logits, stats_ = classifier.apply(params, stats, images(), normalize_by="batch")
            return jnp.square(logits).sum(), stats_

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    for a, b in zip(*map(jax.tree.leaves, (gradient(plain), gradient(remat))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_blocks_run_in_order_beyond_ten(key):
    """block_10 sorts before block_2 as a string; depth 70 has eleven blocks a group."""
    classifier = create("wrn-70-1-swish")
    params, stats = jax.eval_shape(classifier.init, key)
    assert "block_10" in params["layer_0"]
    order = []

    class Recorder:
        def __init__(self, index):
            self.index = index

        def __call__(self, x, mode):
            order.append(self.index)
            return x

    blocks = {f"block_{i}": Recorder(i) for i in sorted(range(11), key=str)}
    assembly.run_blocks(blocks, jnp.zeros(1), layers.Mode(by_batch=True), remat=False)
    assert order == list(range(11))


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(key):
    exact, fast = create("wrn-10-1-swish"), create("wrn-10-1-swish", precision="bfloat16")
    params, stats = jax.jit(fast.init)(key)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, stats)))
    apply = jax.jit(lambda p, s, x: fast.apply(p, s, x, normalize_by="batch"))
    logits, new_stats = apply(params, stats, images())
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new_stats))
    text = apply.lower(params, stats, images()).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all("bf16" in line for line in convolutions)
    reference, _ = exact.apply(params, stats, images(), normalize_by="batch")
    assert 1e-7 < float(jnp.abs(logits - reference).max()) < 0.3


def test_wrong_parameters_are_named(key):
    classifier = create("cnn-3")
    params, stats = classifier.init(key)
    del params["conv_1"]
    with pytest.raises(UserError, match=r"conv_1/kernel is missing, the model has \(3, 3, 32, 64"):
        classifier.apply(params, stats, images(), normalize_by="running")


@pytest.mark.parametrize(
    "name, message",
    [
        ("wrn-11-1-swish", "depth 11 .* use 10 or 16"),
        ("wrn-28-0-swish", "width 0"),
        ("wrn-28-10-swich", "unknown config.model.name"),
        ("preact-resnet-50-swish", "known: cnn-001, cnn-002, cnn-3, preact-resnet"),
    ],
)
def test_unknown_networks_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        create(name)


# BatchNorm.


def batchnorm(x, *, groups=1, momentum=None, by_batch=True, unbiased=True):
    layer = layers.BatchNorm(x.shape[-1], momentum=0.1, groups=groups, unbiased=unbiased)
    out = layer(x, layers.Mode(by_batch=by_batch, momentum=momentum))
    return out, layer.mean[...], layer.var[...]


def test_batchnorm_normalises_by_the_biased_and_records_the_unbiased_variance(key):
    x = 3 + 2 * jax.random.normal(key, (4, 5, 6, 2))
    out, mean, var = batchnorm(x)
    flat = np.asarray(x, np.float64).reshape(-1, 2)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(out.reshape(-1, 2), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("unbiased", "expected"), [(True, (1.5666667, 2.3666667)), (False, (1.4, 2.0))]
)
def test_running_averages_equal_those_of_pytorch_and_of_haiku(unbiased, expected):
    rows = jnp.asarray([[1.0, 2.0], [3.0, 6.0], [5.0, 10.0], [7.0, 2.0]])[:, None, None]
    _, mean, var = batchnorm(rows, unbiased=unbiased)
    np.testing.assert_allclose(mean, (0.4, 0.5), rtol=1e-6)
    np.testing.assert_allclose(var, expected, rtol=1e-6)


def test_the_variance_that_is_recorded_is_chosen_at_creation():
    params, stats = tiny_networks.weights("cnn-3")
    x = tiny_networks.images("cnn-3", 2)
    recorded = {}
    for unbiased in (True, False):
        classifier = tiny_networks.create("cnn-3", batchnorm_unbiased=unbiased)
        new = classifier.apply(params, stats, x, normalize_by="batch", momentum=1.0)[1]
        recorded[unbiased] = new["batchnorm_0"]["var"]
    np.testing.assert_allclose(recorded[True], recorded[False] * (128 / 127), rtol=1e-6)


def test_batchnorm_of_a_single_value_does_not_divide_by_zero():
    out, _, var = batchnorm(jnp.full((1, 1, 1, 2), 3.0))
    assert np.isfinite(out).all() and np.isfinite(var).all()


def test_batchnorm_groups_equal_separate_batches_and_follow_the_first(key):
    x = jax.random.normal(key, (6, 3, 3, 2)) * jnp.arange(1.0, 7)[:, None, None, None]
    out, mean, var = batchnorm(x, groups=3)
    parts = [batchnorm(part) for part in jnp.split(x, 3)]
    np.testing.assert_allclose(out, jnp.concatenate([part[0] for part in parts]), rtol=1e-5)
    np.testing.assert_allclose(mean, parts[0][1], rtol=1e-5)
    np.testing.assert_allclose(var, parts[0][2], rtol=1e-5)
    assert float(jnp.abs(out - batchnorm(x)[0]).max()) > 0.1


def test_batchnorm_refuses_groups_that_do_not_fit():
    with pytest.raises(ValueError, match="a batch of 4 does not divide into 3 groups"):
        batchnorm(jnp.ones((4, 2, 2, 1)), groups=3)


def test_group_statistics_need_no_communication():
    """With a group on each device, attacking batch statistics stays on the device."""
    from score_jax import mesh

    layout = mesh.create()
    collectives = {}
    for groups in (1, 4):
        classifier = create("wrn-10-1-relu", batchnorm_groups=groups)
        params, stats = tiny_networks.weights("wrn-10-1-relu")

        def gradient(params, stats, x, classifier=classifier):
            def loss(x):
                return classifier.apply(params, stats, x, normalize_by="batch")[0].sum()

            return jax.grad(loss)(x)

        compiled = jax.jit(
            gradient,
            in_shardings=(layout.replicated, layout.replicated, layout.batch),
            out_shardings=layout.batch,
        ).lower(params, stats, images(8)).compile()  # fmt: skip
        text = compiled.as_text()
        collectives[groups] = sum(text.count(f" {name}(") for name in (
            "all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter"
        ))  # fmt: skip
    assert collectives[4] == 0 < collectives[1]


# Convolution.


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("taps, stride", [(3, 1), (3, 2), (1, 2), (1, 1), (7, 2)])
@pytest.mark.parametrize("padding", [layers.same_padding, layers.symmetric_padding])
def test_convolution_gradients_equal_those_xla_derives(size, taps, stride, padding, key):
    pads = padding(taps, stride)
    x = jax.random.normal(key, (2, size, size, 3))
    kernel = jax.random.normal(jax.random.key(1), (taps, taps, 3, 4))

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )  # fmt: skip

    def ours(x, kernel):
        return layers.convolution(x, kernel, stride, pads, lax.Precision.HIGHEST)

    np.testing.assert_array_equal(ours(x, kernel), plain(x, kernel))

    def gradients(fn):
        return jax.grad(lambda x, k: jnp.sin(fn(x, k)).sum(), argnums=(0, 1))(x, kernel)

    for a, b in zip(gradients(ours), gradients(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_same_padding_is_on_the_right_and_below_at_stride_two():
    assert layers.same_padding(3, 2) == ((0, 1), (0, 1))
    assert layers.same_padding(3, 1) == layers.symmetric_padding(3, 2) == ((1, 1), (1, 1))
    assert layers.same_padding(1, 2) == ((0, 0), (0, 0))


def test_initialisation_follows_its_law(key):
    kernel = initializers.fan_out_normal(key, (3, 3, 64, 128))
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    uniform = initializers.fan_in_uniform(key, (3, 3, 64, 128))
    bound = 1 / np.sqrt(9 * 64)
    assert bound * 0.99 < float(jnp.abs(uniform).max()) <= bound
    normal = initializers.fan_in_normal(key, (3, 3, 64, 128))
    assert float(normal.std()) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    truncated = initializers.fan_in_truncated_normal(key, (3, 3, 64, 128))
    assert 1.98 * bound < float(jnp.abs(truncated).max()) <= 2 * bound
    # Not rescaled: the deviation of a normal law cut at two is .8796 of it.
    assert float(truncated.std()) == pytest.approx(0.8796 * bound, rel=0.02)
