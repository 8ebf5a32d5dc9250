"""A network of two layers trained in a second to withstand attacks, and ways of masking it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from score_jax.divergences import label_cross_entropy
from score_jax.trust_subject import Subject

EPS, COUNT = 0.1, 60


@functools.cache
def digits():
    """f32[1797, 8, 8, 1] in [0, 1] in a fixed random order, and labels i32."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = np.round(data.images[order] * (255 / 16)) / 255
    return images.astype(np.float32)[..., None], data.target[order].astype(np.int32)


def apply(params, images):
    hidden = images.reshape(len(images), -1) @ params["in"] + params["in_bias"][None]
    return jax.nn.relu(hidden) @ params["out"] + params["out_bias"][None]


@functools.cache
def params():
    """Trained on images attacked by one step, of all digits but the first `COUNT`."""
    rng = np.random.default_rng(0)
    weights = {
        "in": rng.normal(size=(64, 64)) / 8, "in_bias": np.zeros(64),
        "out": rng.normal(size=(64, 10)) / 8, "out_bias": np.zeros(10),
    }  # fmt: skip
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)
    images, labels = (jnp.asarray(array[COUNT:]) for array in digits())
    optimizer = optax.adam(3e-3)

    def step(index, state):
        weights, moments = state
        start_key, row_key = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
        rows = jax.random.randint(row_key, (128,), 0, len(images))
        x, y = images[rows], labels[rows]
        start = jnp.clip(x + jax.random.uniform(start_key, x.shape, minval=-EPS, maxval=EPS), 0, 1)
        gradient = jax.grad(lambda x: label_cross_entropy(apply(weights, x), y).sum())(start)
        attacked = jnp.clip(start + EPS * jnp.sign(gradient), x - EPS, x + EPS)
        attacked = jnp.clip(attacked, 0, 1)
        gradient = jax.grad(lambda w: label_cross_entropy(apply(w, attacked), y).mean())(weights)
        updates, moments = optimizer.update(gradient, moments, weights)
        return optax.apply_updates(weights, updates), moments

    with jax.numpy_dtype_promotion("standard"):  # Adam needs it.
        return jax.jit(lambda w: jax.lax.fori_loop(0, 600, step, (w, optimizer.init(w))))(weights)[
            0
        ]


def honest(images):
    return apply(params(), images)


def scaled(images):
    return 1000 * honest(images)


def quantised(images):
    """Rounding has no gradient."""
    return honest(jnp.round(images * 8) / 8)


def straight_through(images):
    """The gradient of a rounding that is passed over."""
    return honest(images + jax.lax.stop_gradient(jnp.round(images * 8) / 8 - images))


def noisy():
    """Other noise in every pass."""
    passes = iter(range(10**6))

    def logits(images):
        key = jax.random.key(next(passes))
        return honest(images + 0.1 * jax.random.normal(key, images.shape))

    return logits


def subject(logits_fn, count=COUNT, **fields):
    images, labels = digits()
    given = dict(norm="linf", eps=EPS, num_classes=10, seed=0, batch_size=COUNT) | fields
    return Subject(logits_fn, images[:count], labels[:count], **given)
