"""The random changes that Square proposes, of one image from one key, in each norm.

Andriushchenko et al. 2020, algorithms 2 (L∞) and 3 (L2); in L1 the L2 form, with the mass counted
in L1, as Croce and Hein 2021 use it. Images are f[h, w, c]; sides and queries may be traced.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.attacks.apgd_walks import project_l1
from score_jax.types import Array, Key

P_INIT = 0.8  # The share of the image that the first windows cover.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # After so many windows each.
TILES = 5  # The L2 and L1 starts have about so many tiles a side.
TINY = 1e-12


def sides(num_queries: int, shape: tuple[int, ...], *, smallest: int, odd: bool) -> np.ndarray:
    """i32[num_queries]: the side of each query's window; query 0 is the start and has none."""
    windows = np.arange(num_queries) - 1
    share = P_INIT / 2.0 ** np.searchsorted(HALVINGS, windows)
    side = np.maximum(np.rint(np.sqrt(share * shape[0] * shape[1])).astype(np.int32), smallest)
    if odd:
        side += 1 - side % 2
    return np.minimum(side, min(shape[:2])).astype(np.int32)


class Proposals(Protocol):
    eps: float | Array

    def sides(self, num_queries: int, shape: tuple[int, ...]) -> np.ndarray:
        """The schedule of window sides."""

    def start(self, key: Key, image: Array) -> Array:
        """The first point of the ball."""

    def propose(self, key: Key, image: Array, best: Array, side: Array) -> Array:
        """A change of the best point so far, in the ball and [0, 1]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linf:
    """Vertical stripes at first, then squares, of one sign a channel."""

    eps: float | Array

    def sides(self, num_queries, shape):
        return sides(num_queries, shape, smallest=1, odd=False)

    def start(self, key, image):
        signs = _signs(key, (1, *image.shape[1:]), image.dtype)
        return jnp.clip(image + self.eps * signs, 0.0, 1.0)

    def propose(self, key, image, best, side):
        place, sign = jax.random.split(key)
        window = _window(place, image.shape, side)[0]
        signs = _signs(sign, (1, 1, image.shape[2]), image.dtype)
        return jnp.where(window, jnp.clip(image + self.eps * signs, 0.0, 1.0), best)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Mass:
    """Moves the mass of one window into another, shaped as two centred bumps of opposite sign.

    Attributes:
      power: of the norm, 1 or 2.
    """

    eps: float | Array
    power: int = 2

    def sides(self, num_queries, shape):
        return sides(num_queries, shape, smallest=3, odd=True)

    def start(self, key, image):
        height, width, channels = image.shape
        side = max(min(height, width) // TILES, 1)
        rows, columns = height // side, width // side
        turn, sign = jax.random.split(key)
        bumps = jnp.asarray(_bumps(side, self.power), image.dtype)
        turned = jax.random.bernoulli(turn, shape=(rows, columns, 1, 1))
        tiles = jnp.where(turned, bumps.T[None, None], bumps[None, None])[..., None]
        tiles = tiles * _signs(sign, (rows, columns, 1, 1, channels), image.dtype)
        delta = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, channels)
        above, left = (height - rows * side) // 2, (width - columns * side) // 2
        whole = jnp.zeros_like(image).at[above : above + rows * side, left : left + columns * side]
        return self.fit(whole.set(delta), image)

    def propose(self, key, image, best, side):
        place, other_place, turn, sign = jax.random.split(key, 4)
        delta, channels = best - image, image.shape[2]
        window, above, left = _window(place, image.shape, side)
        other = _window(other_place, image.shape, side)[0]
        bumps = _bumps_at(self.power, image.shape, side, above, left, image.dtype)
        bumps = jnp.where(jax.random.bernoulli(turn), bumps[0], bumps[1])[..., None]
        here = jnp.where(window, delta, 0)
        shape = bumps * _signs(sign, (1, 1, channels), image.dtype)
        shape = jnp.where(window, shape + here / (self._norm(here) + TINY), 0)
        # Of each channel: what both windows hold, and its share of what the ball leaves free.
        held = self._mass(jnp.where(window | other, delta, 0))
        free = jnp.maximum(self.eps**self.power - jnp.sum(self._mass(delta)), 0) / channels
        if self.power == 1:
            budget = (free + held) * channels
        else:
            budget = jnp.sqrt(free + held)
        new = shape / (self._norm(shape) + TINY) * budget
        return self.fit(jnp.where(window, new, jnp.where(other, 0, delta)), image)

    def _mass(self, delta):
        """f[1, 1, c]: Σ|δ| or Σδ² of each channel."""
        values = jnp.abs(delta) if self.power == 1 else jnp.square(delta)
        return jnp.sum(values, axis=(0, 1), keepdims=True)

    def _norm(self, delta):
        return self._mass(delta) if self.power == 1 else jnp.sqrt(self._mass(delta))


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2(_Mass):
    """Always on the sphere, before [0, 1] clips it."""

    power: int = 2

    def fit(self, delta, image):
        norm = jnp.sqrt(jnp.sum(jnp.square(delta)))
        return jnp.clip(image + delta / (norm + TINY) * self.eps, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1(_Mass):
    """Projected onto the ball and [0, 1]."""

    power: int = 1

    def fit(self, delta, image):
        return image + project_l1(delta[None], image[None], self.eps)[0]


def _signs(key: Key, shape: tuple[int, ...], dtype) -> Array:
    return jax.random.rademacher(key, shape, dtype)


def _window(key: Key, shape: tuple[int, ...], side: Array) -> tuple[Array, Array, Array]:
    """(bool[h, w, 1], first row, first column) of a window.

    As released, no window but one as long as the image reaches its last row or column: with them
    the attack would find more than the one it stands for (4 points on digits of 8 x 8 pixels).
    """
    limits = jnp.maximum(jnp.asarray(shape[:2], jnp.int32) - side, 1)
    above, left = jax.random.randint(key, (2,), 0, limits)
    rows, columns = jnp.arange(shape[0]), jnp.arange(shape[1])
    rows = (rows >= above) & (rows < above + side)
    columns = (columns >= left) & (columns < left + side)
    return rows[:, None, None] & columns[None, :, None], above, left


def _bump(rows: int, columns: int, power: int) -> np.ndarray:
    """A bump in a rectangle: nested rectangles around the middle, M in all, each 1 / m^2 (L2) or
    1 / m^4 (L1) higher, counted from the inmost; paper, equation of η in section 3.4."""
    if not rows or not columns:
        return np.zeros((rows, columns))
    ring = np.maximum(
        np.abs(np.arange(rows) - rows // 2)[:, None], np.abs(np.arange(columns) - columns // 2)
    )
    count = max(rows, columns) // 2 + 1
    heights = 1.0 / np.arange(1, count + 1) ** (4 if power == 1 else 2)
    from_outside = np.cumsum(heights[::-1])[::-1]
    bump = from_outside[ring]
    return bump / np.sum(bump**power) ** (1 / power)


def _bumps(side: int, power: int) -> np.ndarray:
    """f64[side, side] of norm 1: a bump above, one of the other sign below."""
    both = np.concatenate(
        [_bump(side // 2, side, power), -_bump(side - side // 2, side, power)], axis=0
    )
    return both / np.sum(np.abs(both) ** power) ** (1 / power)


def _bumps_at(
    power: int, shape: tuple[int, ...], side: Array, above: Array, left: Array, dtype
) -> tuple[Array, Array]:
    """The bumps of a window, and the same turned, in their places: f[h, w] each."""
    largest = min(shape[:2])
    table = np.zeros((largest + 1, largest, largest))
    for known in range(1, largest + 1):
        table[known, :known, :known] = _bumps(known, power)
    bumps = jnp.asarray(table, dtype)[side]
    rows = jnp.clip(jnp.arange(shape[0]) - above, 0, largest - 1)
    columns = jnp.clip(jnp.arange(shape[1]) - left, 0, largest - 1)
    return tuple(square[rows][:, columns] for square in (bumps, bumps.T))


PROPOSALS = {"linf": Linf, "l2": L2, "l1": L1}
