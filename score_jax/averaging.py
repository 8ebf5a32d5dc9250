"""The exponential moving average of the weights (Gowal et al. 2020; schedule of the SCORE code)."""

import jax
import jax.numpy as jnp

from score_jax.types import Array, Params


def decay_at(step: Array, decay: float, warmup_steps: float) -> Array:
    """The decay of update number `step`, i32[] counted from 1.

    Zero before `warmup_steps`; from there min(decay, (1 + d) / (10 + d)) with d the updates since.
    With `warmup_steps` 1 that is the average of DeepMind's code, which counts updates from 0.
    """
    since = step.astype(jnp.float32) - warmup_steps
    dynamic = jnp.minimum(decay, (1 + since) / (10 + since))
    return jnp.where(since >= 0, dynamic, 0.0)


def update(average: Params, params: Params, decay: Array) -> Params:
    """decay·average + (1 - decay)·params, leaf by leaf, in the leaves' dtype."""

    def blend(old, new):
        d = decay.astype(old.dtype)
        return d * old + (1 - d) * new

    return jax.tree.map(blend, average, params)
