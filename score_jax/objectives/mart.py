"""MART: misclassified examples count more (Wang et al., ICLR 2020)."""

import dataclasses

import jax
import jax.numpy as jnp

from score_jax.divergences import label_cross_entropy
from score_jax.objectives.interface import Objective, check_not_negative, check_not_smoothed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mart(Objective):
    """CE(z_a, y) - log(1.0001 - max_{j≠y} s_a) + beta·KL(s_n ‖ s_a)·(1.0000001 - s_n[y]).

    The constants inside the logarithms are the released code's. Nothing is constant in the outer
    loss, not even the weight 1 - s_n[y].

    Attributes:
      beta: 6 for WideResNet-34-10, 5 for ResNet-18.
    """

    beta: float = 6.0

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(beta=self.beta)
        check_not_smoothed(self)

    def inner(self, moving):
        return label_cross_entropy(moving.logits, moving.labels)

    def outer(self, views):
        true = jax.nn.one_hot(views.labels, views.adv_logits.shape[-1], dtype=bool)
        adv_probs = jax.nn.softmax(views.adv_logits)
        rival = jnp.max(jnp.where(true, 0, adv_probs), axis=-1)
        boosted = label_cross_entropy(views.adv_logits, views.labels) - jnp.log(
            1.0001 - rival + 1e-12
        )
        log_clean = jax.nn.log_softmax(views.clean_logits)
        clean_probs = jnp.exp(log_clean)
        robust = jnp.sum(clean_probs * (log_clean - jnp.log(adv_probs + 1e-12)), axis=-1)
        clean_true = jnp.sum(jnp.where(true, clean_probs, 0), axis=-1)
        return boosted + self.beta * robust * (1.0000001 - clean_true)
