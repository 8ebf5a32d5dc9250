"""Random numbers of augmentations: many for each image out of one draw, which compiles fast."""

import jax
import jax.numpy as jnp

from score_jax.types import Array, Key


def draws(key: Key, number: int, images: Array) -> list[Array]:
    """`number` independent words of 32 random bits for each image, uint32[b] each."""
    return list(jax.random.bits(key, (number, images.shape[0]), jnp.uint32))


def below(bits: Array, bound: Array | int) -> Array:
    """i32[b], uniform among 0 .. bound - 1; a bound of 10,000 or less leaves a bias under 1e-5."""
    return (bits % jnp.asarray(bound, jnp.uint32)).astype(jnp.int32)


def uniform(bits: Array, low: Array | float = 0.0, high: Array | float = 1.0) -> Array:
    """f32[b], uniform in [low, high), in steps of 2^-24 of the interval."""
    share = (bits >> 8).astype(jnp.float32) * 2**-24
    return low + (high - low) * share


def sign(bits: Array) -> Array:
    """i32[b], -1 or 1."""
    return 1 - 2 * below(bits, 2)
