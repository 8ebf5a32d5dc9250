"""Per-example losses and divergences, f[b], from logits f[b, k]. Nothing here takes a mean.

Notation of the papers: s = softmax(z); n and a mark clean ("natural") and adversarial.
"""

import jax
import jax.numpy as jnp

from score_jax.types import Array

# The two meanings of "label smoothing" in the published code.
# uniform: (1 - ls)·onehot + ls/K for every class (cross-entropy recipes).
# others: the true class keeps 1 - ls, the K - 1 others share ls (the squared-error recipes).
SMOOTHINGS = ("uniform", "others")


def target_probs(labels: Array, num_classes: int, smoothing: float, convention: str) -> Array:
    """The targets f32[b, k] of labels i32[b]: one-hot, or smoothed by one of `SMOOTHINGS`."""
    onehot = jax.nn.one_hot(labels, num_classes)
    spread = smoothing / (num_classes if convention == "uniform" else num_classes - 1)
    return onehot * (1 - num_classes * spread) + spread


def cross_entropy(logits: Array, probs: Array) -> Array:
    """-Σ_k t_k log s_k, f[b], for targets t f[b, k]."""
    return -jnp.sum(probs * jax.nn.log_softmax(logits), axis=-1)


def kl(from_logits: Array, to_logits: Array) -> Array:
    """KL(softmax(from) ‖ softmax(to)), f[b]; differentiable in both."""
    log_from, log_to = jax.nn.log_softmax(from_logits), jax.nn.log_softmax(to_logits)
    return jnp.sum(jnp.exp(log_from) * (log_from - log_to), axis=-1)


def squared_error(probs: Array, other_probs: Array) -> Array:
    """Σ_k (p_k - q_k)², f[b], in [0, 2]: the distance of SCORE (Pang et al. 2022)."""
    return jnp.sum(jnp.square(probs - other_probs), axis=-1)


def margin(logits: Array, labels: Array) -> Array:
    """z_y - max_{j≠y} z_j, f[b]: positive where the classifier is right."""
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    true_logit = jnp.sum(jnp.where(true, logits, 0), axis=-1)
    return true_logit - jnp.max(jnp.where(true, -jnp.inf, logits), axis=-1)


def margin_loss(logits: Array, labels: Array) -> Array:
    """-max(margin, 0), f[b]: the CW loss of the SCORE code; zero gradient once misclassified."""
    return -jax.nn.relu(margin(logits, labels))


def label_cross_entropy(logits: Array, labels: Array) -> Array:
    """-log s_y, f[b]."""
    return cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype))


# What an evaluation attack may ascend: (logits, labels) -> f[b].
ATTACK_LOSSES = {"cross_entropy": label_cross_entropy, "margin": margin_loss}
