"""How APGD moves in each norm: starts, steps, projections, and what it reviews at its checkpoints.

Linf, L2: Croce and Hein 2020, algorithm 1. L1: Croce and Hein 2021 ("Mind the box"), algorithm 1.
A walk keeps what its reviews need in `memory`, one entry an image.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from score_jax import threat_models
from score_jax.types import Array, Key

MOMENTUM = 0.75  # α, the weight of the new step.
RHO = 0.75  # The share of steps that must have risen, or the step size is halved.
TINY = 1e-12
BISECTIONS = 40  # More than float32 tells apart.
SHRINK = 1.5  # What L1 divides by at a checkpoint: the step size, the share of pixels.
SMALLEST_STEP = 0.1  # Of an L1 step, in eps.
STILL_CHANGING = 0.95  # Below this ratio of moved pixels, L1 begins again with its largest step.

Memory = dict[str, Array]


def over_pixels(values: Array) -> Array:
    """f[b] as f[b, 1, 1, 1]."""
    return values[:, None, None, None]


def select(chosen: Array, yes: Array, no: Array) -> Array:
    """Whole images, by bool[b]."""
    return jnp.where(over_pixels(chosen), yes, no)


def _total(images: Array) -> Array:
    return jnp.sum(images, axis=(1, 2, 3), keepdims=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Iterate:
    """Where an image stands: f[b, h, w, c] each, but for loss, best_loss, step_size f[b]."""

    images: Array
    gradient: Array
    loss: Array
    best: Array
    best_gradient: Array
    best_loss: Array
    step_size: Array


class Walk(Protocol):
    eps: float | Array
    first_step: float  # In eps.

    def start(self, keys: Key, images: Array) -> Array:
        """A random point of the ball around each image; a key an image."""

    def project(self, moved: Array, images: Array) -> Array:
        """Into the ball and [0, 1]."""

    def checkpoints(self, num_steps: int) -> list[int]:
        """The numbers of the steps after which the step size is reviewed, rising, from 1."""

    def memory(self, start: Array, images: Array) -> Memory:
        """What the reviews know at the start."""

    def watch(self, memory: Memory, loss: Array, is_first: Array) -> Memory:
        """Notes the loss of every iterate."""

    def review(
        self, iterate: Iterate, memory: Memory, images: Array, interval: Array
    ) -> tuple[Array, Array, Memory]:
        """At a checkpoint, `interval` steps after the last: (step sizes f[b], whether to go on from
        the best point bool[b], memory)."""

    def move(
        self, iterate: Iterate, previous: Array, images: Array, memory: Memory, is_first: Array
    ) -> Array:
        """One step; `previous` is the point before, for the momentum."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Momentum:
    """What L∞ and L2 share: two projected steps, halving at rarer and rarer checkpoints."""

    eps: float | Array
    first_step = 2.0

    def checkpoints(self, num_steps):
        # p0 = 0, p1 = .22, p(j+1) = p(j) + max(p(j) - p(j-1) - .03, .06) in shares of the steps,
        # rounded as released.
        interval = max(int(0.22 * num_steps), 1)
        shorter, shortest = max(int(0.03 * num_steps), 1), max(int(0.06 * num_steps), 1)
        steps, at = [], interval
        while at <= num_steps:
            steps.append(at)
            interval = max(interval - shorter, shortest)
            at += interval
        return steps

    def memory(self, start, images):
        del images
        nothing = jnp.zeros(start.shape[:1], start.dtype)
        return {
            "rises": jnp.zeros(start.shape[:1], jnp.int32),
            # The released code compares the first step's loss with 0, the paper with the start's.
            "last_loss": nothing,
            "halved": jnp.ones(start.shape[:1], bool),
            "reviewed_loss": nothing,
        }

    def watch(self, memory, loss, is_first):
        rose = (loss > memory["last_loss"]) & ~is_first
        return memory | {
            "rises": memory["rises"] + rose.astype(jnp.int32),
            "last_loss": jnp.where(is_first, memory["last_loss"], loss),
        }

    def review(self, iterate, memory, images, interval):
        del images
        rises = memory["rises"].astype(iterate.loss.dtype)
        oscillates = rises <= RHO * interval.astype(iterate.loss.dtype)
        stuck = ~memory["halved"] & (memory["reviewed_loss"] >= iterate.best_loss)
        halve = oscillates | stuck
        memory = memory | {
            "rises": jnp.zeros_like(memory["rises"]),
            "halved": halve,
            "reviewed_loss": iterate.best_loss,
        }
        return jnp.where(halve, iterate.step_size / 2, iterate.step_size), halve, memory

    def move(self, iterate, previous, images, memory, is_first):
        del memory
        here, momentum = iterate.images, jnp.where(is_first, 1.0, MOMENTUM).astype(images.dtype)
        direction = self.ascend(iterate.gradient)
        stepped = self.project(here + over_pixels(iterate.step_size) * direction, images)
        onward = momentum * (stepped - here) + (1 - momentum) * (here - previous)
        return self.project(here + onward, images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linf(_Momentum):
    """Steps along the signs of the gradient."""

    def start(self, keys, images):
        noise = jax.vmap(
            lambda key: jax.random.uniform(key, images.shape[1:], images.dtype, -1.0, 1.0)
        )(keys)
        largest = jnp.max(jnp.abs(noise), axis=(1, 2, 3), keepdims=True)
        return self.project(images + self.eps * noise / (largest + TINY), images)

    def project(self, moved, images):
        return threat_models.Linf(eps=self.eps).project(moved, images)

    def ascend(self, gradient):
        return jnp.sign(gradient)


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2(_Momentum):
    """Steps along the gradient's direction."""

    def start(self, keys, images):
        noise = _normal(keys, images)
        return self.project(images + self.eps * self.ascend(noise), images)

    def project(self, moved, images):
        # The ball, then [0, 1], as released; the other order would use the radius better.
        delta = moved - images
        norm = jnp.sqrt(_total(jnp.square(delta)))
        return jnp.clip(images + delta / (norm + TINY) * jnp.minimum(norm, self.eps), 0.0, 1.0)

    def ascend(self, gradient):
        # Scaled first, so that the squares of small gradients do not vanish.
        largest = jnp.max(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
        scaled = gradient / jnp.where(largest > 0, largest, 1)
        norm = jnp.sqrt(_total(jnp.square(scaled)))
        return scaled / jnp.where(norm > 0, norm, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1:
    """Sparse steps: the pixels of the largest gradients move alike; how many, adapts."""

    eps: float | Array
    first_step = 1.0

    def start(self, keys, images):
        return self.project(images + _normal(keys, images), images)

    def project(self, moved, images):
        return images + project_l1(moved - images, images, self.eps)

    def checkpoints(self, num_steps):
        interval = max(int(0.04 * num_steps), 1)
        return list(range(interval, num_steps + 1, interval))

    def memory(self, start, images):
        moved = _num_moved(start, images)
        return {"share": moved / (images[0].size * SHRINK), "moved": moved}

    def watch(self, memory, loss, is_first):
        del loss, is_first
        return memory

    def review(self, iterate, memory, images, interval):
        del interval
        moved = _num_moved(iterate.best, images)
        # Not by division: where nothing had moved, nothing changes.
        changing = moved < STILL_CHANGING * memory["moved"]
        longest = jnp.full_like(iterate.step_size, self.first_step) * self.eps
        shrunk = jnp.clip(iterate.step_size / SHRINK, SMALLEST_STEP * longest, longest)
        memory = {"share": moved / (images[0].size * SHRINK), "moved": moved}
        return jnp.where(changing, longest, shrunk), changing, memory

    def move(self, iterate, previous, images, memory, is_first):
        del previous, is_first
        size = images[0].size
        sizes = jnp.sort(jnp.abs(iterate.gradient).reshape(len(images), -1), axis=1)
        place = jnp.clip((1 - memory["share"]) * size, 0, size - 1).astype(jnp.int32)
        smallest = over_pixels(jnp.take_along_axis(sizes, place[:, None], axis=1)[:, 0])
        chosen = jnp.abs(iterate.gradient) >= smallest
        signs = jnp.where(chosen, jnp.sign(iterate.gradient), 0)
        direction = signs / (_total(jnp.abs(signs)) + TINY)
        return self.project(iterate.images + over_pixels(iterate.step_size) * direction, images)


def project_l1(delta: Array, images: Array, eps: float | Array) -> Array:
    """The nearest δ to `delta`, f[b, h, w, c], with Σ|δ| <= eps and images + δ in [0, 1].

    Every |δ_i| is |delta_i| less a common λ, cut to [0, the room to the box]; λ is the smallest
    that fits the ball, found by bisection (proposition 2.1 of Croce and Hein 2021 sorts).
    """
    size = jnp.abs(delta)
    room = jnp.where(delta > 0, 1 - images, images)

    def shrunk(threshold):
        return jnp.clip(size - threshold, 0.0, room)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        fits = _total(shrunk(middle)) <= eps
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    nothing = jnp.zeros_like(_total(delta))
    bracket = (nothing, jnp.max(size, axis=(1, 2, 3), keepdims=True))
    _, high = jax.lax.fori_loop(0, BISECTIONS, halve, bracket)
    threshold = jnp.where(_total(shrunk(nothing)) <= eps, nothing, high)
    return jnp.sign(delta) * shrunk(threshold)


def _normal(keys: Key, images: Array) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)


def _num_moved(moved: Array, images: Array) -> Array:
    """How many pixels differ, f[b]."""
    return jnp.sum((moved != images).astype(images.dtype), axis=(1, 2, 3))


WALKS = {"linf": Linf, "l2": L2, "l1": L1}
