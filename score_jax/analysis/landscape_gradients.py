"""Input gradients: what of an image they show, and how noisy they are.

Gradients of robust models look like the image's object, those of others like noise (Tsipras et al.
2019, "Robustness May Be at Odds with Accuracy"). Numbers for it: the alignment of Etmann et al.
2019 ("On the Connection Between Adversarial Robustness and Saliency Map Interpretability"), here a
cosine, and the total variation. A third tells on how many pixels a gradient lies.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.divergences import label_cross_entropy
from score_jax.types import Array, Key

SIGMAS = 3  # What a sheet shows of a gradient, as Tsipras et al. do.


def of_loss(logits, keys: Key, images: Array, labels: Array) -> Array:
    """The gradient of the cross-entropy with respect to each image, f[b, h, w, c]."""
    del keys
    return jax.grad(lambda moved: label_cross_entropy(logits(moved), labels).sum())(images)


def numbers(logits, keys: Key, images: Array, labels: Array) -> dict[str, Array]:
    """What gradients look like, f[b] each; NaN where a gradient is exactly 0.

    alignment: |⟨x, g⟩| / (‖x‖₂‖g‖₂) with g the gradient of the largest logit: Etmann et al.'s α
    (definition 3) divided by ‖x‖₂, so that it is in [0, 1]. Of g the gradient of the cross-entropy:
    variation: Σ|differences of neighbours| / Σ|entries|, channel by channel.
    spread: (Σ|entries|)² / (d·Σ entries²), the share of the d entries that it lies on: 1 where all
    are of one size, 1/d for a single one. L∞ training makes it small (Chalasani et al. 2020).
    size: Σ|entries|, nats by pixel unit: times eps, what the tangent promises in the L∞ ball.
    """

    def largest(moved):
        return logits(moved).max(-1).sum()

    winning = jax.grad(largest)(images)
    found = of_loss(logits, keys, images, labels)
    size = _total(jnp.abs(found))
    return {
        "alignment": jnp.abs(_total(images * winning)) / (_length(images) * _length(winning)),
        "variation": variation(found),
        "spread": jnp.square(size / _length(found)) / math.prod(images.shape[1:]),
        "size": size,
    }


def variation(gradients: Array) -> Array:
    """Σ|differences of neighbours| / Σ|entries| of f[b, h, w, c]: f[b], whatever the scale."""
    down = jnp.abs(gradients[:, 1:] - gradients[:, :-1])
    right = jnp.abs(gradients[:, :, 1:] - gradients[:, :, :-1])
    return (_total(down) + _total(right)) / _total(jnp.abs(gradients))


def of_noise(image_shape: tuple[int, int, int]) -> dict[str, float]:
    """The means of `numbers` for Gaussian noise; exact but for terms of order 1/d in the ratios.

    alignment: Γ(d/2) / (√π Γ((d + 1)/2)), exactly. variation: √2 for each pair of neighbours, by
    entry. spread: 2/π.
    """
    h, w, _ = image_shape
    d = math.prod(image_shape)
    pairs = (h - 1) * w + h * (w - 1)
    return {
        "alignment": math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi),
        "variation": math.sqrt(2) * pairs / (h * w),
        "spread": 2 / math.pi,
    }


def to_picture(gradient: np.ndarray, is_by_channel: bool = True) -> np.ndarray:
    """A gradient f[h, w, c] as an image in [0, 1], 0 as grey.

    Args:
      is_by_channel: each channel is cut off at ±3 of its own standard deviations; otherwise all
        are scaled together to the largest entry.
    """
    if is_by_channel:
        scale = SIGMAS * gradient.std((0, 1), keepdims=True)
    else:
        scale = np.abs(gradient).max(keepdims=True)
    return 0.5 + 0.5 * np.clip(gradient / np.where(scale > 0, scale, 1), -1, 1)


def _total(values: Array) -> Array:
    """Σ over pixels, f[b]."""
    return jnp.sum(values, axis=(1, 2, 3))


def _length(values: Array) -> Array:
    return jnp.sqrt(_total(jnp.square(values)))
