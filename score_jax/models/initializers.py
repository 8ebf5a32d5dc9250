"""How parameters start: the laws of PyTorch, of the TRADES and SCORE code, and of Haiku.

Each takes (key, shape) of a kernel, HWIO or [in, out], and gives the kernel or its bias.
"""

import math

import jax
import jax.numpy as jnp


def fan_out_normal(key, shape, dtype=jnp.float32):
    """N(0, 2 / (kh·kw·out)): the WideResNet convolutions of the TRADES and SCORE code."""
    height, width, _, out = shape
    return math.sqrt(2 / (height * width * out)) * jax.random.normal(key, shape, dtype)


def fan_in_normal(key, shape, dtype=jnp.float32):
    """N(0, 2 / fan_in): PyTorch's `kaiming_normal_`."""
    return math.sqrt(2 / math.prod(shape[:-1])) * jax.random.normal(key, shape, dtype)


def fan_in_uniform(key, shape, dtype=jnp.float32):
    """U(±1/√fan_in): PyTorch's default for convolutions and linear layers."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def fan_in_truncated_normal(key, shape, dtype=jnp.float32):
    """N(0, 1 / fan_in) cut at two deviations and not rescaled: Haiku's default."""
    deviation = 1 / math.sqrt(math.prod(shape[:-1]))
    return deviation * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


def zeros(key, shape, dtype=jnp.float32):
    """A zero kernel."""
    del key
    return jnp.zeros(shape, dtype)


def zero_bias(key, shape, dtype=jnp.float32):
    """A zero bias."""
    del key
    return jnp.zeros(shape[-1:], dtype)


def fan_in_bias(key, shape, dtype=jnp.float32):
    """U(±1/√fan_in): PyTorch's default bias."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape[-1:], dtype, -bound, bound)
