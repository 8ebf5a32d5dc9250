"""Data whose truth p(y|x) is known: SCORE's toy, and mixtures of Gaussians in any dimension."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.analysis import ball_words, toy
from score_jax.analysis.score_bounds import Predictor
from score_jax.divergences import Distribution
from score_jax.threat_models import ThreatModel
from score_jax.types import Array, Key

# The mixture's classes lie in the first two coordinates, so its truth, and C, are the same in every
# dimension from two on; what changes is how much there is to learn that means nothing.
CENTRES = ((-1.2, -0.7), (1.2, -0.7), (0.0, 1.4))
SCALES, SHARES = (1.0, 0.7, 1.3), (0.5, 0.3, 0.2)
MIXTURE_EPS = 0.5
# Offsets to each side of a grid over the ball.
NUM_SIDES = {1: 200, 2: 15}
# Random points of a ball that has more coordinates, and as many of its corners, or of its sphere.
NUM_INSIDE = 400


@dataclasses.dataclass(frozen=True)
class Disc:
    """The Euclidean ball on f[n, d]: points are no images, there is no [0, 1]."""

    eps: float

    def noise(self, key: Key, shape: tuple[int, ...], dtype) -> Array:
        """Uniform in the ball."""
        direction_key, length_key = jax.random.split(key)
        normal = jax.random.normal(direction_key, shape, dtype)
        length = jax.random.uniform(length_key, (), dtype) ** (1 / shape[-1])
        return self.eps * length * normal / jnp.linalg.norm(normal)

    def random_start(self, noise, images):
        return self.project(images + noise, images)

    def ascend(self, gradient, key):
        del key
        norm = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
        return gradient / jnp.where(norm > 0, norm, 1)

    def project(self, adversarial, images):
        delta = adversarial - images
        norm = jnp.linalg.norm(delta, axis=-1, keepdims=True)
        return images + delta * jnp.where(norm > self.eps, self.eps / jnp.maximum(norm, 1e-30), 1)

    def distance(self, adversarial, images):
        return jnp.linalg.norm(adversarial - images, axis=-1)


def ball_of(norm: str, eps: float) -> ThreatModel:
    """The ball of 'linf' or 'l2' on the whole space."""
    return toy.Interval(eps=eps) if norm == "linf" else Disc(eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A known distribution and the points at which errors are averaged.

    Attributes:
      kind: 'toy' or 'mixture'.
      name, title: of files and of headings; the ball is in both where it can be chosen.
      norm, eps: of the ball.
      x, weights: the points f32[n, d] and what each counts, f64[n].
      offsets: x' - x over the ball, f32[m, d], see `offsets_of`.
      is_exact: the points are a grid over nearly all of the mass, no draws.
    """

    kind: str
    name: str
    title: str
    truth: Predictor
    norm: str
    eps: float
    num_classes: int
    x: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    is_exact: bool

    @property
    def dimensions(self) -> int:
        return self.x.shape[1]

    @property
    def ball(self) -> ThreatModel:
        return ball_of(self.norm, self.eps)

    @property
    def searched(self) -> str:
        """What `offsets` are, in words."""
        if self.dimensions <= 2:
            return f"{len(self.offsets)} offsets, a grid over it"
        return (
            f"{len(self.offsets)} offsets, a grid in its first two coordinates and random points "
            f"of all of it, at {'corners' if self.norm == 'linf' else 'its sphere'} too"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "problem": self.kind,
            "dimensions": self.dimensions,
            "norm": self.norm,
            "eps": self.eps,
            "num_points": len(self.x),
            "num_offsets": len(self.offsets),
            "is_quadrature": self.is_exact,
        }

    def draw(self, key: Key, num_draws: int) -> tuple[Array, Array]:
        """x f32[n, d] and the classes i32[n]; each class has its exact share, as in the script."""
        if self.kind == "toy":
            second = num_draws * toy.COUNTS[1] // sum(toy.COUNTS)
            labels = jnp.arange(num_draws, dtype=jnp.int32) >= num_draws - second
            return toy.draw(key, num_draws), labels.astype(jnp.int32)
        return _draw_mixture(key, num_draws, self.dimensions)


def create_toy(eps: float = toy.EPS) -> Problem:
    """The toy of `analysis.toy`; averages by quadrature, so no draw is in them."""
    x = np.linspace(*toy.SUPPORT, toy.NUM_PLACES, dtype=np.float32)[:, None]
    return Problem(
        kind="toy", name="toy", title=f"the toy problem, {ball_words.in_titles('linf', eps)}",
        truth=Predictor(_toy_truth), norm="linf", eps=eps, num_classes=2,
        x=x, weights=np.asarray(toy.density(jnp.asarray(x)), np.float64),
        offsets=offsets_of("linf", eps, 1), is_exact=True,
    )  # fmt: skip


def create_mixture(
    dimensions: int, *, norm: str = "linf", eps: float = MIXTURE_EPS, num_draws: int, seed: int
) -> Problem:
    """Three Gaussian classes (`CENTRES`, `SCALES`, `SHARES`); averages over draws.

    Coordinates after the second are N(0, 1) for every class and tell nothing.
    """
    key = jax.random.key(seed)
    x = np.asarray(_draw_mixture(key, num_draws, dimensions)[0])
    return Problem(
        kind="mixture", name=f"mixture_{dimensions}d_{ball_words.in_file_names(norm, eps)}",
        title=f"three Gaussians in {_many(dimensions)}, {ball_words.in_titles(norm, eps)}",
        truth=Predictor(_mixture_truth), norm=norm, eps=eps, num_classes=len(SHARES), x=x,
        weights=np.full(num_draws, 1 / num_draws), offsets=offsets_of(norm, eps, dimensions),
        is_exact=False,
    )  # fmt: skip


def _many(dimensions):
    return f"{dimensions} dimension{'s' if dimensions > 1 else ''}"


def offsets_of(norm: str, eps: float, dimensions: int) -> np.ndarray:
    """A grid over the ball in its first two coordinates, its corners and edge too, f32[m, d].

    That is all of the ball that the mixture's truth sees. Models see the rest: in more than two
    dimensions random points of the whole ball follow, inside and at corners or on the sphere.
    """
    shown = min(dimensions, 2)
    steps = np.linspace(-eps, eps, 2 * NUM_SIDES[shown] + 1)
    grid = np.array(list(itertools.product(steps, repeat=shown)))
    if norm == "l2" and shown == 2:
        angles = np.linspace(0, 2 * np.pi, 6 * NUM_SIDES[2], endpoint=False)
        edge = eps * np.stack([np.cos(angles), np.sin(angles)], -1)
        grid = np.concatenate([grid[np.linalg.norm(grid, axis=1) < eps], edge])
    grid = np.pad(grid, ((0, 0), (0, dimensions - shown)))
    if dimensions > 2:
        grid = np.concatenate([grid, *_whole_ball(norm, eps, dimensions)])
    return grid.astype(np.float32)


def _whole_ball(norm, eps, dimensions):
    random = np.random.default_rng(0)
    shape = (NUM_INSIDE, dimensions)
    if norm == "linf":
        inside = random.uniform(-eps, eps, shape)
        return inside, np.unique(np.where(random.random(shape) < 0.5, -eps, eps), axis=0)
    outside = random.normal(size=(2, *shape))
    outside *= eps / np.linalg.norm(outside, axis=-1, keepdims=True)
    return outside[0] * random.random((NUM_INSIDE, 1)) ** (1 / dimensions), outside[1]


def _toy_truth(params, x):
    del params
    return toy.truth(x)


def _mixture_truth(params, x):
    """Bayes' rule over the classes, at x f[n, d]."""
    del params
    shown = min(x.shape[-1], 2)
    centres, scales, shares = (jnp.asarray(v, x.dtype) for v in (CENTRES, SCALES, SHARES))
    apart = x[:, None, :shown] - centres[None, :, :shown]
    density = -jnp.square(apart).sum(-1) / (2 * jnp.square(scales))[None]
    return Distribution.of_logits(density + (jnp.log(shares) - shown * jnp.log(scales))[None])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw_mixture(key, num_draws, dimensions):
    ends = np.round(np.cumsum(SHARES) * num_draws).astype(int)
    labels = np.searchsorted(ends, np.arange(num_draws), side="right").astype(np.int32)
    labels = np.minimum(labels, len(SHARES) - 1)
    shown = min(dimensions, 2)
    noise = jax.random.normal(key, (num_draws, dimensions), jnp.float32)
    centres = np.asarray(CENTRES, np.float32)[labels, :shown]
    scales = np.asarray(SCALES, np.float32)[labels, None]
    return jnp.concatenate([centres + scales * noise[:, :shown], noise[:, shown:]], -1), labels
