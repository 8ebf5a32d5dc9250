"""Dropout: off unless a key is given, and then a function of that key alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from score_jax import mesh
from score_jax.models import assembly, layers, resnet, small_cnn, wide_resnet
from score_jax.types import UserError
from tests import tiny_networks

KEY = jax.random.key(7)


def mode(key=KEY):
    return layers.Mode(by_batch=False, dropout_key=key)


def options(**fields):
    return assembly.Options(
        **tiny_networks.arguments((8, 8, 3)), precision=layers.Precision.of("float32"), **fields
    )


def test_without_a_key_or_a_rate_the_layer_is_not_there():
    x = jnp.ones((2, 3))
    assert layers.Dropout(0.5, 0)(x, mode(None)) is x
    assert layers.Dropout(0.0, 0)(x, mode()) is x


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_rate_and_expectation(rate):
    out = np.asarray(layers.Dropout(rate, 0)(jnp.ones((40, 10, 10, 20)), mode()))
    assert set(np.unique(out)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
    # 80 000 draws: five standard errors.
    error = 5 * np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < error
    assert abs(out.mean() - 1) < error / (1 - rate)


def test_whole_channels_of_an_example_are_dropped():
    out = np.asarray(layers.Dropout(0.25, 0, by_channel=True)(jnp.ones((50, 4, 4, 64)), mode()))
    np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1, :1], out.shape))
    assert abs((out[:, 0, 0] == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 3200)


def test_mask_depends_on_the_key_and_the_layer_only():
    x = jax.random.normal(jax.random.key(1), (8, 100))
    y = jax.random.normal(jax.random.key(2), (8, 100))

    def mask(x, number=0, key=KEY):
        return np.asarray(layers.Dropout(0.5, number)(x, mode(key)) == 0)

    np.testing.assert_array_equal(mask(x), mask(y))
    for other in (mask(x, number=1), mask(x, key=jax.random.key(8))):
        assert 0.3 < (mask(x) == other).mean() < 0.7
    rows = mask(x)
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_mask_is_the_same_on_one_device_and_on_four():
    layout = mesh.create()
    assert layout.batch.mesh.size == 4
    x = jnp.ones((8, 4, 4, 3))
    layer = layers.Dropout(0.5, 0)
    spread = jax.jit(
        lambda x: layer(x, mode()), in_shardings=layout.batch, out_shardings=layout.batch
    )(jax.device_put(x, layout.batch))
    np.testing.assert_array_equal(spread, layer(x, mode()))


def test_networks_differ_from_those_without_dropout_only_by_a_key():
    name = "wrn-10-1-relu"
    params, stats = tiny_networks.weights(name)
    x = tiny_networks.images(name)
    plain, dropping = tiny_networks.create(name), tiny_networks.create(name, dropout=0.5)
    assert (plain.dropout, dropping.dropout) == (0.0, 0.5)
    assert plain.roles == dropping.roles

    def logits(classifier, normalize_by="running", **fields):
        return np.asarray(
            classifier.apply(params, stats, x, normalize_by=normalize_by, **fields)[0]
        )

    for normalize_by in ("running", "batch"):
        expected = logits(plain, normalize_by)
        np.testing.assert_array_equal(logits(dropping, normalize_by), expected)
        np.testing.assert_array_equal(logits(plain, normalize_by, dropout_key=KEY), expected)
        drawn = logits(dropping, normalize_by, dropout_key=KEY)
        np.testing.assert_array_equal(drawn, logits(dropping, normalize_by, dropout_key=KEY))
        assert np.abs(drawn - expected).max() > 1e-3
    other = logits(dropping, dropout_key=jax.random.key(8))
    assert np.abs(other - logits(dropping, dropout_key=KEY)).max() > 1e-3


def dropouts(network):
    return [part for _, part in nnx.iter_modules(network) if isinstance(part, layers.Dropout)]


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (functools.partial(wide_resnet.relu, 40, 1), 18),
        (functools.partial(wide_resnet.swish, 28, 1), 12),
        (resnet.resnet_50, 12),
        (small_cnn.SmallCNN, 2),
    ],
)
def test_no_two_layers_of_a_network_share_a_mask(build, count):
    network = nnx.eval_shape(lambda: build(options(dropout=0.2), rngs=nnx.Rngs(0)))
    found = dropouts(network)
    assert sorted(layer.number for layer in found) == list(range(count))
    assert {layer.rate for layer in found} == {0.2}


def test_resnet_50_drops_in_all_blocks_but_the_first_of_a_group():
    """The code of Yang et al. (2020)."""
    network = nnx.eval_shape(lambda: resnet.resnet_50(options(dropout=0.5), rngs=nnx.Rngs(0)))
    flags = []
    for group in range(4):
        blocks = getattr(network, f"layer_{group}")
        ordered = [blocks[f"block_{index}"] for index in range(len(blocks))]
        flags.append([int(block.dropout is not None) for block in ordered])
    assert flags == [[0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 1, 1]]


def makers(conv_init):
    """What a block is made with, its convolutions constant."""
    opts, rngs = options(), nnx.Rngs(0)
    conv = opts.conv(padding=layers.symmetric_padding, init=conv_init)
    return dict(
        conv=lambda *sizes, rngs=rngs: conv(*sizes, rngs=rngs),
        batchnorm=opts.batchnorm(momentum=0.1),
        dropout=layers.numbered_dropout(0.5),
    )


@pytest.mark.parametrize(
    ("block", "last", "extra"),
    [
        (wide_resnet.Block, "conv_1", dict(activation=jax.nn.silu, rngs=nnx.Rngs(0))),
        (resnet.Bottleneck, "conv_2", {}),
    ],
)
def test_blocks_drop_the_input_of_their_last_convolution(block, last, extra):
    module = block(8, 8, 1, **makers(lambda key, shape: jnp.ones(shape)), **extra)
    inputs = {}
    for name in ("conv_0", "conv_1", "conv_2"):
        if conv := getattr(module, name, None):

            def spy(x, name=name, conv=conv):
                inputs[name] = x
                return conv(x)

            setattr(module, name, spy)
    module(jnp.ones((16, 8, 8, 8)), mode())
    shares = {name: float((x == 0).mean()) for name, x in inputs.items()}
    assert abs(shares.pop(last) - 0.5) < 0.05
    assert shares and not any(shares.values())


def test_recomputed_blocks_draw_the_same_masks():
    class Half(nnx.Module):
        def __init__(self, number):
            self.dropout = layers.Dropout(0.5, number)

        def __call__(self, x, mode):
            return jnp.square(self.dropout(x, mode))

    blocks = nnx.Dict({f"block_{i}": Half(i) for i in range(3)})
    x = jax.random.normal(jax.random.key(1), (4, 5))

    def gradient(remat):
        return jax.jit(
            jax.grad(lambda x, key: assembly.run_blocks(blocks, x, mode(key), remat=remat).sum())
        )(x, KEY)

    plain = gradient(False)
    assert 0 < int((plain == 0).sum()) < plain.size
    np.testing.assert_array_equal(plain, gradient(True))


@pytest.mark.parametrize(
    ("name", "expected"), [("cnn-001", [(0.25, True), (0.5, False)]), ("cnn-002", [(0.5, False)])]
)
def test_rates_of_the_networks_of_yang_are_their_own(name, expected):
    from score_jax.models import MODELS

    classifier = tiny_networks.create(name)
    assert classifier.dropout == 0.5
    grey = assembly.Options(
        **tiny_networks.arguments(tiny_networks.SHAPES[name]),
        precision=layers.Precision.of("float32"),
    )
    network = nnx.eval_shape(lambda: MODELS[name].build(grey, rngs=nnx.Rngs(0)))
    found = sorted(dropouts(network), key=lambda layer: layer.number)
    assert [(layer.rate, layer.by_channel) for layer in found] == expected
    params, stats = tiny_networks.weights(name)
    x = tiny_networks.images(name)
    apply = functools.partial(classifier.apply, params, stats, x, normalize_by="running")
    assert float(jnp.abs(apply()[0] - apply(dropout_key=KEY)[0]).max()) > 1e-3


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("wrn-10-1-relu", 1.0, "config.model.dropout=1.0 is no rate; use 0.0 up to"),
        ("wrn-10-1-relu", -0.1, "dropout=-0.1 is no rate"),
        ("resnet-18", 0.2, "has no place in 'resnet-18'; use 0.0, or one of: cnn-3, res"),
        ("cnn-002", 0.2, "has no place in 'cnn-002'"),
        ("preact-resnet-18-relu", 0.2, "has no place in 'preact"),
    ],
)
def test_rates_that_fit_nothing_are_refused(name, rate, message):
    with pytest.raises(UserError, match=message):
        tiny_networks.create(name, dropout=rate)
