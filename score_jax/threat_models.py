"""Threat models: which images an attack may reach from a clean one, and how it moves among them.

A threat model draws starts, turns a gradient into an ascent direction, and projects. All images are
f[b, h, w, c] in [0, 1] and eps is in the same pixel units.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from score_jax.types import Array, Key, lookup


class ThreatModel(Protocol):
    eps: float | Array

    def noise(self, key: Key, shape: tuple[int, ...], dtype) -> Array:
        """The draw that `random_start` adds or projects; separate, so that it can be given."""

    def random_start(self, noise: Array, images: Array) -> Array:
        """A point of the threat set, from a draw of `noise`."""

    def ascend(self, gradient: Array, key: Key) -> Array:
        """The direction of one step of size 1."""

    def project(self, adversarial: Array, images: Array) -> Array:
        """The nearest allowed images: within eps of `images` and in [0, 1]."""

    def distance(self, adversarial: Array, images: Array) -> Array:
        """f[b], the norm of the perturbation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linf:
    """The ball of the maximum norm. Guarantee: `project` is idempotent; eps=0 gives the images."""

    eps: float | Array

    def noise(self, key, shape, dtype):
        return self.eps * jax.random.uniform(key, shape, dtype, -1.0, 1.0)

    def random_start(self, noise, images):
        return self.project(images + noise, images)

    def ascend(self, gradient, key):
        del key
        return jnp.sign(gradient)

    def project(self, adversarial, images):
        # The ball first, then [0, 1]: as in every published L∞ attack.
        near = jnp.clip(adversarial, images - self.eps, images + self.eps)
        return jnp.clip(near, 0.0, 1.0)

    def distance(self, adversarial, images):
        return jnp.max(jnp.abs(adversarial - images), axis=(1, 2, 3))


def _per_example_norm(x: Array) -> Array:
    """f[b, 1, 1, 1]; safe at zero."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2, 3), keepdims=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2:
    """The Euclidean ball.

    Attributes:
      eps: radius.
      zero_gradient: what an example whose gradient is exactly zero does. 'stay', or 'noise': moves
        along N(0, 1) as it comes, the rule of the SCORE code.
    """

    eps: float | Array
    zero_gradient: str = "stay"

    def noise(self, key, shape, dtype):
        return jax.random.uniform(key, shape, dtype)

    def random_start(self, noise, images):
        """A random image, brought to the ball: in practice a point on its sphere."""
        return jnp.clip(images + self._shrink(noise - images), 0.0, 1.0)

    def ascend(self, gradient, key):
        norm = _per_example_norm(gradient)
        direction = gradient / jnp.where(norm > 0, norm, 1)
        if self.zero_gradient == "noise":
            noise = jax.random.normal(key, gradient.shape, gradient.dtype)
            direction = jnp.where(norm > 0, direction, noise)
        return direction

    def project(self, adversarial, images):
        # [0, 1] first, then the ball: shrinking towards a point of [0, 1] stays in [0, 1].
        delta = jnp.clip(adversarial, 0.0, 1.0) - images
        return jnp.clip(images + self._shrink(delta), 0.0, 1.0)

    def _shrink(self, delta):
        norm = _per_example_norm(delta)
        # The 1e-7 is torch.renorm's: it keeps rounding from putting a point outside.
        return delta * jnp.where(norm > self.eps, self.eps / (norm + 1e-7), 1)

    def distance(self, adversarial, images):
        return _per_example_norm(adversarial - images)[:, 0, 0, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RescaledLinf(Linf):
    """The ball of the maximum norm as Yang et al.'s LLR code walks it: steps along the gradient
    divided by its largest entry, and a perturbation that is too long is shrunk as a whole.
    """

    def ascend(self, gradient, key):
        del key
        largest = jnp.max(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
        return gradient / jnp.where(largest > 0, largest, 1)

    def project(self, adversarial, images):
        delta = jnp.clip(adversarial, 0.0, 1.0) - images
        largest = jnp.max(jnp.abs(delta), axis=(1, 2, 3), keepdims=True)
        # The 1e-7 is torch.renorm's.
        return images + delta * jnp.where(largest > self.eps, self.eps / (largest + 1e-7), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ray:
    """No set at all: one free step along the direction in which a norm of the gradient is measured.

    Source: Finlay and Oberman 2019, where the penalty is the gradient's norm by a difference.

    Attributes:
      norm: 'l2': the unit vector along the gradient; 'l1': its signs divided by the root of the
        number of pixels, as released; 'linf': the largest entry's sign, alone.
    """

    norm: str = "l2"
    eps: float = float("inf")

    def __post_init__(self):
        lookup(dict.fromkeys(("l2", "l1", "linf")), "config.objective.norm", self.norm)

    def noise(self, key, shape, dtype):
        raise TypeError("a ray has no random start")

    def random_start(self, noise, images):
        raise TypeError("a ray has no random start")

    def ascend(self, gradient, key):
        del key
        flat = gradient.reshape(gradient.shape[0], -1)
        if self.norm == "l2":
            size = jnp.sqrt(jnp.sum(jnp.square(flat), axis=1, keepdims=True))
            direction = flat / jnp.where(size > 0, size, 1)
        elif self.norm == "l1":
            direction = jnp.sign(flat) / flat.shape[1] ** 0.5
        else:
            largest = jnp.argmax(jnp.abs(flat), axis=1)
            direction = jnp.sign(flat) * jax.nn.one_hot(largest, flat.shape[1], dtype=flat.dtype)
        return direction.reshape(gradient.shape)

    def project(self, adversarial, images):
        del images
        return adversarial

    def distance(self, adversarial, images):
        return _per_example_norm(adversarial - images)[:, 0, 0, 0]


THREAT_MODELS = {"linf": Linf, "l2": L2}


def create(norm: str, eps: float | Array, zero_gradient: str = "stay") -> ThreatModel:
    """The threat model of config.norm and config.eps.

    Raises:
      UserError: unknown norm, or unknown rule for zero gradients.
    """
    lookup({"stay": 0, "noise": 0}, "config.attack.zero_gradient", zero_gradient)
    threat = lookup(THREAT_MODELS, "config.norm", norm)
    return threat(eps=eps, zero_gradient=zero_gradient) if threat is L2 else threat(eps=eps)
