"""Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020)."""

from typing import Any

import jax
import jax.numpy as jnp

from score_jax.types import Params


def perturbation(params: Params, gradients: Params, roles: Any, gamma: float) -> Params:
    """γ·‖w‖·v/‖v‖ for each kernel w with gradient v of the loss, and 0 for all else (eq. 9).

    Norms are over each kernel as a whole. The released code takes v from one step of a copy of the
    network; its rate cancels.

    Args:
      params, gradients: alike; the gradients are those of the loss to be raised.
      roles: the classifier's, a tree like the parameters.
      gamma: γ, the size relative to the weights; 0.01 and 0.005 in the paper.
    """

    def raised(weights, gradient, role):
        if role != "kernel":
            return jnp.zeros_like(weights)
        size, length = (jnp.sqrt(jnp.sum(jnp.square(x))) for x in (weights, gradient))
        return gamma * size * gradient / (length + 1e-20)

    return jax.tree.map(raised, params, gradients, roles)
