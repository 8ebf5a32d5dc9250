"""The errors of SCORE on images, where nobody knows p(y|x): estimates with a stated surrogate.

Two kinds of surrogate. The label of an image, one-hot or smoothed, as a constant over its ball:
what adversarial training assumes; then C = 0 and R_SCORE = R_Madry. Or the softmax of another model
at a temperature, which changes within the ball as that model does.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from score_jax import artifact as artifacts
from score_jax import attacks, divergences, evaluation, mesh
from score_jax.analysis import score_bounds
from score_jax.analysis.score_bounds import Errors, Predictor
from score_jax.artifact import Artifact
from score_jax.divergences import Distribution

SMOOTHING = 0.1
TEMPERATURES = (0.05, 20.0)
NUM_STEPS = 10


def softmax(artifact: Artifact, temperature: float = 1.0) -> Predictor:
    """A model's answers, its logits divided by the temperature."""

    def apply(held, images):
        variables, temperature = held
        logits = artifact.classifier.logits(**variables, images=images)
        return Distribution.of_logits(logits / temperature)

    variables = {"params": artifact.params, "batch_stats": artifact.batch_stats}
    held = jax.device_put((variables, jnp.float32(temperature)), mesh.create().replicated)
    return Predictor(apply, held)


def clean_logits(artifact: Artifact, images: np.ndarray, batch_size: int) -> np.ndarray:
    """f32[n, k] of images u8[n, h, w, c]."""
    logits_fn = artifacts.logits_fn(artifact)
    parts = [
        np.asarray(logits_fn(jnp.asarray(images[start : start + batch_size], jnp.float32) / 255))
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in `TEMPERATURES` of the least cross-entropy (Guo et al. 2017)."""

    def loss(log_temperature):
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        scaled -= scaled.max(-1, keepdims=True)
        log_probs = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        return -log_probs[np.arange(len(labels)), labels].mean()

    found = scipy.optimize.minimize_scalar(
        loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded"
    )
    return float(np.exp(found.x))


def targets(labels: jax.Array, num_classes: int, smoothing: float) -> Predictor:
    """Labels i32[b] as a truth constant over each ball; smoothed, the other classes share alike."""
    probs = divergences.target_probs(labels, num_classes, smoothing, "others")
    return score_bounds.constant(Distribution.of_probs(probs))


def measure(
    names: tuple[str, ...],
    truth_of: Callable[[jax.Array], Predictor],
    model: Predictor,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    norm: str,
    eps: float,
    num_steps: int,
    restarts: int,
    seed: int,
    batch_size: int,
    tell: Callable[[int], None],
) -> Errors:
    """Every error of every image, on every device.

    Args:
      truth_of: labels i32[b] -> p(y|x) of those images.
      images, labels: u8[n, h, w, c], i32[n].
      tell: gets the number of images done.
    """
    layout = mesh.create()
    ball = attacks.create(norm=norm, eps=eps, step_size=eps, num_steps=1).threat
    found, done = [], 0
    for batch in evaluation.place(images, labels, batch_size, layout):
        numbers = done + np.arange(len(batch["mask"]), dtype=np.int32)
        errors = score_bounds.measure(
            names, truth_of(batch["labels"]), model, batch["images"].astype(jnp.float32) / 255,
            ball=ball, numbers=layout.put_whole_batch(numbers), num_steps=num_steps,
            restarts=restarts, seed=seed,
        )  # fmt: skip
        is_image = np.asarray(batch["mask"])
        found.append((errors.standard[is_image], errors.ascent[is_image]))
        done += int(is_image.sum())
        tell(done)
    standard, ascent = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Errors(standard=standard, ascent=ascent, grid=None)
