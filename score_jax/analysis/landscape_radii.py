"""What becomes of images in balls of growing radius, and of the answers to them.

At several times the radius of training, what a robust model takes for another class looks like that
class (Tsipras et al. 2019; Santurkar et al. 2019, "Image Synthesis with a Single (Robust)
Classifier"); and accuracy must fall to nothing there, or the attack is blind (Carlini et al. 2019,
"On Evaluating Adversarial Robustness").
"""

import jax
import jax.numpy as jnp

from score_jax import metrics
from score_jax.analysis.landscape_surface import highest
from score_jax.analysis.subject import Compute
from score_jax.attacks import PGD
from score_jax.attacks.pgd import epsilon_sweep
from score_jax.config import write_eps
from score_jax.divergences import label_cross_entropy
from score_jax.types import Array, Key

MOST_CLASSES = 10
MULTIPLES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # Of eps.


def radii_of(norm: str, eps: float) -> tuple[float, ...]:
    """Multiples of eps; none so large that in L∞ any image is within reach."""
    return tuple(m * eps for m in MULTIPLES if norm != "linf" or m <= 1 or m * eps < 1)


def write_radius(radius: float) -> str:
    """As people write it, '8/255' or '0.2'; to three digits where that is long."""
    text = write_eps(radius)
    return text if len(text) <= 7 else f"{radius:.3g}"


def attacked(attack: PGD, radii: tuple[float, ...], *, keeps_images: bool = False) -> Compute:
    """The answers to what PGD makes of images at each radius, f[b, r] each.

    PGD ascends the cross-entropy, its step scaled as the radius is, and its highest point counts.
    'loss'; 'confidence', the largest probability; 'prediction' i32; 'is_right' bool; and with
    `keeps_images` 'images' f32[b, r, h, w, c].
    """

    def compute(logits, keys, images, labels):
        def loss(moved):
            return label_cross_entropy(logits(moved), labels)

        def at(radius):
            # A radius of 0 is no ball to step in.
            walk = epsilon_sweep(attack, jnp.maximum(radius, 1e-9))
            found, value = highest(loss, walk, keys, images)
            found = jnp.where(radius > 0, found, images)
            answers = logits(found)
            kept = {"images": found} if keeps_images else {}
            return {
                "loss": jnp.where(radius > 0, value, loss(images)),
                "confidence": jax.nn.softmax(answers).max(-1),
                "prediction": answers.argmax(-1).astype(jnp.int32),
                "is_right": metrics.correct(answers, labels),
                **kept,
            }

        found = jax.lax.map(at, jnp.asarray(radii, images.dtype))
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), found)

    return compute


def towards_each_class(attack: PGD, radius: float) -> Compute:
    """What PGD makes of images on the way to each of the first `MOST_CLASSES` within a radius.

    'images' f32[b, k, h, w, c]; 'confidence' f[b, k], the probability of that class there.
    """
    walk = epsilon_sweep(attack, jnp.float32(radius))

    def compute(logits, keys, images, labels):
        del labels

        def to(target):
            targets = jnp.full(images.shape[:1], target)
            found, value = highest(
                lambda moved: -label_cross_entropy(logits(moved), targets), walk, keys, images
            )
            return {"images": found, "confidence": jnp.exp(value)}

        num_classes = jax.eval_shape(logits, images).shape[-1]
        found = jax.lax.map(to, jnp.arange(min(num_classes, MOST_CLASSES)))
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), found)

    return compute


def is_right(logits, keys: Key, images: Array, labels: Array) -> Array:
    """Whether images are seen as their labels, bool[b]."""
    del keys
    return metrics.correct(logits(images), labels)
