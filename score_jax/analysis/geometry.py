"""Where images lie in the regions of a classifier: how long they withstand, how near the edge is.

κ is at how many of an attack's iterates x⁰ .. x^{K-1} an image is right (Zhang et al. 2021, GAIRAT,
as released); a margin is how far an image is from being wrong, in logits or in pixels.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from score_jax import attacks, metrics, threat_models
from score_jax.analysis import landscape_surface
from score_jax.analysis.subject import Compute, Subject, compiled, per_example
from score_jax.artifact import Artifact
from score_jax.attacks import PGD
from score_jax.attacks.fab import closest
from score_jax.attacks.multi_targeted import draw_noise
from score_jax.divergences import label_cross_entropy, margin
from score_jax.types import Array, Key

LogitsFn = Callable[[Array], Array]
PGD_STEPS = 20
FAB_STEPS, FAB_TARGETS = 20, 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Margins:
    """How far each image is from being classified wrong.

    Attributes:
      clean: f32[n], z_y - max_{j≠y} z_j; negative where the image is wrong already.
      attacked: f32[n], the least of it that PGD found within eps, the clean image included.
      distance: f32[n], to the nearest wrong image that was found, in the subject's norm and pixel
        units: no less than the true distance; 0 for wrong images, infinite where none was found.
    """

    clean: np.ndarray
    attacked: np.ndarray
    distance: np.ndarray


def robust_steps(
    logits_fn: LogitsFn, keys: Key, images: Array, labels: Array, *, attack: PGD
) -> tuple[Array, Array]:
    """(κ i32[b], from 0 to K: at how many of the iterates x⁰ .. x^{K-1} an image was right,
    logit margin f[b] at x^K).

    The attack ascends the cross-entropy from a random start; x^K is not tested, as released.

    Args:
      keys: [b], one an image, for its start.
      images: f[b, h, w, c] in [0, 1].
      labels: i32[b].
    """

    def watched(moving, index, carry):
        del index
        logits = logits_fn(moving)
        return label_cross_entropy(logits, labels), (metrics.correct(logits, labels), carry)

    noise = draw_noise(attack.threat, keys, images)
    attacked = attack.watch(watched, keys[0], images, noise)
    return attacked.robust_steps, margin(logits_fn(attacked.images), labels)


def margins(
    logits_fn: LogitsFn, keys: Key, images: Array, labels: Array, *, norm: str, eps: float
) -> tuple[Array, Array, Array]:
    """The fields of `Margins`, f[b] each.

    PGD-20 descends the logit margin; FAB-T (Croce and Hein 2020) looks for the nearest wrong image
    of the three likeliest wrong classes, 20 steps each. Where PGD found a nearer one, that counts.
    """
    threat = threat_models.create(norm, eps)
    clean = margin(logits_fn(images), labels)

    def wrongness(moving):
        return -margin(logits_fn(moving), labels)

    attack = PGD(threat=threat, step_size=2.5 * eps / PGD_STEPS, num_steps=PGD_STEPS)
    worst, highest = landscape_surface.highest(wrongness, attack, keys, images)
    attacked = jnp.minimum(clean, -highest)
    _, distance = closest(
        logits_fn, keys, images, labels, norm=norm, eps=eps, num_targets=FAB_TARGETS,
        num_steps=FAB_STEPS,
    )  # fmt: skip
    reached = jnp.minimum(threat.distance(worst, images), eps)  # Rounding may put it outside.
    distance = jnp.minimum(distance, jnp.where(attacked < 0, reached, jnp.inf))
    return clean, attacked, jnp.where(clean < 0, 0.0, distance)


@functools.lru_cache(maxsize=4)
def kappa_of(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """(κ i32[n], logit margin at x^K f32[n]) of a subject's images, measured once."""
    return per_example(subject, _counting(subject), f"κ of {subject.split} images")


@functools.lru_cache(maxsize=8)
def margins_of(subject: Subject) -> Margins:
    """The margins of a subject's images, measured once."""
    what = f"margins of {subject.split} images, {subject.name}"
    compute = _measuring(subject.norm, subject.eps)
    clean, attacked, distance = per_example(subject, compute, what)
    return Margins(clean=clean, attacked=attacked, distance=distance)


def kappa_over(
    subject: Subject, series: Iterable[Artifact]
) -> Iterator[tuple[Artifact, np.ndarray]]:
    """κ i32[n] of a subject's images under each of several models of one kind."""
    measure = compiled(subject, _counting(subject))
    for artifact in series:
        what = f"κ of {subject.split} images at step {artifact.spec['step']}"
        yield artifact, measure((artifact.params, artifact.batch_stats), what)[0]


def _counting(subject: Subject) -> Compute:
    return _counting_under(subject.norm, subject.eps, subject.step_size, subject.steps)


# One function for each attack: what is compiled for it is found again by it.
@functools.cache
def _counting_under(norm: str, eps: float, step_size: float, num_steps: int) -> Compute:
    attack = attacks.create(norm=norm, eps=eps, step_size=step_size, num_steps=num_steps)
    return functools.partial(robust_steps, attack=attack)


@functools.cache
def _measuring(norm: str, eps: float) -> Compute:
    return functools.partial(margins, norm=norm, eps=eps)
