"""The published networks: sizes, initial values, and pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from score_jax import models
from score_jax.models import layers
from score_jax.types import UserError
from tests import tiny_networks


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "count"),
    [
        ("resnet-18", (32, 32, 3), 10, 11_173_962),
        ("preact-resnet-18-headless", (32, 32, 3), 10, 11_171_146),
        ("small-cnn", (32, 32, 3), 10, 1_639_282),
        ("cnn-001", (28, 28, 1), 10, 1_199_882),
        ("cnn-002", (28, 28, 1), 10, 312_202),
        ("resnet-50", (64, 64, 3), 9, 23_526_473),
        ("wrn-40-10-relu", (32, 32, 3), 10, 55_841_754),
    ],
)
def test_parameter_counts_equal_those_of_the_official_code(name, shape, num_classes, count):
    arguments = tiny_networks.arguments(shape, num_classes)
    classifier = models.create(name, **arguments)
    params, stats = jax.eval_shape(classifier.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    logits, _ = jax.eval_shape(
        lambda p, s, x: classifier.apply(p, s, x, normalize_by="batch"),
        params, stats, jax.ShapeDtypeStruct((2, *shape), jnp.float32),
    )  # fmt: skip
    assert logits.shape == (2, num_classes)


@pytest.mark.parametrize(("name", "smallest"), [("cnn-001", 6), ("cnn-002", 16), ("small-cnn", 8)])
def test_images_that_would_be_pooled_away_are_refused(name, smallest):
    fits = tiny_networks.arguments((smallest, smallest + 1, 1))
    assert models.create(name, **fits).image_shape == (smallest, smallest + 1, 1)
    small = tiny_networks.arguments((smallest - 1, smallest, 1))
    message = f"'{name}' needs images of {smallest} pixels or more, these have {smallest - 1}x"
    with pytest.raises(UserError, match=message):
        models.create(name, **small)


def initial(name, select, **fields):
    """Some initial parameters; the others are never computed."""
    classifier = tiny_networks.create(name, **fields)
    params = jax.jit(lambda key: select(classifier.init(key)[0]))(jax.random.key(0))
    return jax.tree.map(np.asarray, params)


@pytest.mark.parametrize("name", ["wrn-10-1-relu", "preact-resnet-18-swish"])
def test_haiku_starts_with_cut_normal_convolutions_and_zero_logits(name):
    def select(params):
        stem = params["init_conv" if name.startswith("wrn") else "conv_2d"]
        return stem["kernel"], params["logits"], params["layer_2"]["block_0"]["shortcut"]["kernel"]

    stem, logits, shortcut = initial(name, select, init="haiku")
    assert not logits["kernel"].any() and not logits["bias"].any()
    for kernel in (stem, shortcut):
        bound = 2 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert 0.9 * bound < np.abs(kernel).max() <= bound
    stem, logits, _ = initial(name, select)
    assert np.abs(stem).max() > 0 and logits["kernel"].any()


def test_haiku_is_refused_where_it_is_not_defined():
    with pytest.raises(UserError, match="config.model.init='haiku' is not defined for 'cnn-001'"):
        tiny_networks.create("cnn-001", init="haiku")
    with pytest.raises(UserError, match="unknown config.model.init 'flax'; known: haiku, torch"):
        tiny_networks.create("wrn-10-1-relu", init="flax")


def test_cnn_002_starts_as_the_trades_code_does():
    params = initial("cnn-002", lambda params: params)
    assert not params["logits"]["kernel"].any() and not params["logits"]["bias"].any()
    kernel = params["conv_3"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.03)
    assert not any(params[f"conv_{index}"]["bias"].any() for index in range(4))
    bound = 1 / np.sqrt(200)
    for leaf in params["fc_1"].values():
        assert 0.9 * bound < np.abs(leaf).max() <= bound


@pytest.mark.parametrize("name", ["cnn-001", "small-cnn"])
def test_plain_networks_start_as_pytorch_does(name):
    params = initial(name, lambda params: {k: params[k] for k in ("conv_1", "fc", "logits")})
    for layer in params.values():
        bound = 1 / np.sqrt(np.prod(layer["kernel"].shape[:-1]))
        for leaf in layer.values():
            assert 0.7 * bound < np.abs(leaf).max() <= bound


def test_resnets_start_as_their_code_does():
    stem = initial("resnet-50", lambda params: params["conv"]["kernel"])
    assert stem.std() == pytest.approx(np.sqrt(2 / (49 * 64)), rel=0.03)
    stem = initial("resnet-18", lambda params: params["conv"]["kernel"])
    assert 0.95 / np.sqrt(27) < np.abs(stem).max() <= 1 / np.sqrt(27)


# Max pooling.


@pytest.mark.parametrize("sides", [(6, 8), (7, 9)])
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
def test_max_pool_and_its_gradient_equal_those_xla_derives(sides, size, stride, padding, key):
    x = jax.random.normal(key, (2, *sides, 3))

    def plain(x):
        pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), pads
        )

    def ours(x):
        return layers.max_pool(x, size, stride, padding)

    np.testing.assert_array_equal(ours(x), plain(x))
    gradients = [jax.grad(lambda x, fn=fn: jnp.sin(fn(x)).sum())(x) for fn in (ours, plain)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_max_pool_sends_the_gradient_to_the_first_of_equal_values():
    gradient = jax.grad(lambda x: layers.max_pool(x, 2, 2).sum())(jnp.ones((1, 2, 4, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 1)])
def test_max_pool_keeps_nan(place):
    x = jnp.zeros((1, 2, 2, 1)).at[0, *place, 0].set(jnp.nan)
    assert np.isnan(layers.max_pool(x, 2, 2)).all()


def test_features_are_flattened_channels_first():
    x = jnp.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(layers.flatten(x)[0, :6], x[0, :, :, 0].reshape(-1))
