"""Per-example losses and divergences, f[b], from logits f[b, k]. Nothing here takes a mean.

Notation of the papers: s = softmax(z); n and a mark clean ("natural") and adversarial.
"""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from score_jax.types import Array, UserError, lookup

# The two meanings of "label smoothing" in the published code.
# uniform: (1 - ls)·onehot + ls/K for every class (cross-entropy recipes).
# others: the true class keeps 1 - ls, the K - 1 others share ls (the squared-error recipes).
SMOOTHINGS = ("uniform", "others")


def target_probs(
    labels: Array, num_classes: int, smoothing: float | Array, convention: str
) -> Array:
    """The targets f32[b, k] of labels i32[b]: one-hot, or smoothed by one of `SMOOTHINGS`.

    Smoothing may differ by example, f32[b, 1].
    """
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


def kl_from(probs: Array, logits: Array) -> Array:
    """KL(t ‖ softmax(z)), f[b], for constant targets t f[b, k]."""
    return cross_entropy(logits, probs) - entropy(probs)


def entropy(probs: Array) -> Array:
    """-Σ_k p_k log p_k, f[b]; 0 for one-hot rows."""
    return -jnp.sum(xlogy(probs, probs), axis=-1)


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


def dlr(logits: Array, labels: Array) -> Array:
    """-(z_y - max_{j≠y} z_j) / (z_(1) - z_(3)), f[b]; z_(i) the i-th largest, of 3 classes or more.

    The difference of logits ratio, which neither shift nor scale of the logits changes (Croce and
    Hein 2020, eq. 6).
    """
    largest = jax.lax.top_k(logits, 3)[0]
    return -margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_dlr(logits: Array, labels: Array, targets: Array) -> Array:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), f[b], of 4 classes or more (there, eq. 7)."""
    largest = jax.lax.top_k(logits, 4)[0]
    true, target = (jax.nn.one_hot(c, logits.shape[-1], dtype=bool) for c in (labels, targets))
    difference = jnp.sum(jnp.where(true, logits, 0) - jnp.where(target, logits, 0), axis=-1)
    return -difference / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + 1e-12)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Distribution:
    """Class probabilities f[b, k] with their logarithms, so that neither overflows.

    Attributes:
      probs, log_probs: the same thing twice; where a probability is exactly 0 its logarithm is a
        large finite number, so that products with 0 are 0 and have gradients.
    """

    probs: Array
    log_probs: Array

    @staticmethod
    def of_logits(logits: Array) -> "Distribution":
        log_probs = jax.nn.log_softmax(logits)
        return Distribution(jnp.exp(log_probs), log_probs)

    @staticmethod
    def of_probs(probs: Array) -> "Distribution":
        """Of constants, such as labels: no gradient is defined where a probability is 0."""
        smallest = float(jnp.finfo(jnp.float32).tiny)  # The same in every precision.
        return Distribution(probs, jnp.log(jnp.maximum(probs, smallest)))


def _relative_entropy(p: Distribution, q: Distribution) -> Array:
    return jnp.sum(p.probs * (p.log_probs - q.log_probs), axis=-1)


def _jensen_shannon(output: Distribution, target: Distribution) -> Array:
    log_mean = jnp.logaddexp(output.log_probs, target.log_probs) - jnp.log(2.0).astype(
        output.log_probs.dtype
    )
    mean = Distribution(0.5 * (output.probs + target.probs), log_mean)
    return 0.5 * (_relative_entropy(output, mean) + _relative_entropy(target, mean))


def _root(square: Array, power: float = 0.5) -> Array:
    """A root that is 0 with gradient 0 at 0 (and below, by rounding), where autodiff has 0·∞."""
    positive = square > 0
    return jnp.where(positive, jnp.where(positive, square, 1) ** power, 0)


def p_norm(difference: Array, p: float) -> Array:
    """(Σ_k |d_k|^p)^(1/p), f[b], for p >= 1 or infinity; gradient 0 at 0."""
    size = jnp.abs(difference)
    if p == float("inf"):
        return jnp.max(size, axis=-1)
    return jnp.sum(size, axis=-1) if p == 1 else _root(jnp.sum(size**p, axis=-1), 1 / p)


Divergence = Callable[[Distribution, Distribution], Array]

# D(output, target) as the SCORE code names its arguments: the target is the label, or the clean
# prediction. "sqrt_" are square roots per example, which make JS a metric. The reverse KL to a
# one-hot label is infinite; here it is as large as the smallest float32 makes it.
DIVERGENCES: dict[str, Divergence] = {
    "squared_error": lambda o, t: squared_error(o.probs, t.probs),
    "kl": lambda o, t: _relative_entropy(t, o),
    "sqrt_kl": lambda o, t: _root(_relative_entropy(t, o)),
    "sqrt_reverse_kl": lambda o, t: _root(_relative_entropy(o, t)),
    "js": _jensen_shannon,
    "sqrt_js": lambda o, t: _root(_jensen_shannon(o, t)),
    "squared_l1": lambda o, t: jnp.square(p_norm(o.probs - t.probs, 1)),
    "l1": lambda o, t: p_norm(o.probs - t.probs, 1),
    "l2": lambda o, t: p_norm(o.probs - t.probs, 2),
    "linf": lambda o, t: p_norm(o.probs - t.probs, float("inf")),
}


def divergence(name: str) -> Divergence:
    """One of `DIVERGENCES`, or `lP`, the P-norm of the difference for any number P >= 1.

    Source: SCORE (Pang et al. 2022), the code of the experiments without generated data.

    Raises:
      UserError: unknown name, or P below 1.
    """
    if name not in DIVERGENCES and (match := re.fullmatch(r"l(\d+(?:\.\d+)?)", name)):
        p = float(match.group(1))
        if p < 1:
            raise UserError(f"config.objective.divergence={name!r} is no norm; write l1 or above")
        return lambda o, t: p_norm(o.probs - t.probs, p)
    return lookup(DIVERGENCES, "config.objective.divergence", name)


def clip_bound(name: str, clip_loss: float, num_classes: int) -> Array:
    """D(v, e) for v = (1 - c, c/(K-1), ...) and a one-hot e: below it a prediction that has
    1 - c of its mass on the label is left alone (`--clip_loss` of the SCORE code). 0 at c = 0.
    """
    label = jnp.zeros((1,), jnp.int32)
    kept = target_probs(label, num_classes, clip_loss, "others")
    onehot = target_probs(label, num_classes, 0.0, "others")
    distributions = (Distribution.of_probs(probs) for probs in (kept, onehot))
    return divergence(name)(*distributions)[0]


# What an evaluation attack may ascend: (logits, labels) -> f[b].
ATTACK_LOSSES = {"cross_entropy": label_cross_entropy, "margin": margin_loss}
