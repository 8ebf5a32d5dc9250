"""Multi-targeted PGD: towards every other class, of Yang et al. 2020 (`multitarget`) or by margins.

Each image keeps one of the images that were found.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.attacks.pgd import PGD
from score_jax.divergences import label_cross_entropy, margin
from score_jax.threat_models import ThreatModel
from score_jax.types import Array, Key, lookup

NUM_STEPS = 20
STEPS_PER_EPS = 10  # A step is eps / 10.
Towards = Callable[[Array, Array, Array], Array]  # (logits f[b, k], labels, targets) -> f[b].


def _likelihood(logits, labels, targets):
    del labels
    return -label_cross_entropy(logits, targets)


def _probability(logits, labels, targets):
    del labels
    return jnp.exp(-label_cross_entropy(logits, targets))


def _difference(logits, labels, targets):
    """z_target - z_label, f[b]."""
    of_target, of_label = (
        jnp.sum(jnp.where(jax.nn.one_hot(classes, logits.shape[-1], dtype=bool), logits, 0), axis=1)
        for classes in (targets, labels)
    )
    return of_target - of_label


def _wrongness(logits, labels, targets):
    del targets
    return -margin(logits, labels)


# What each PGD ascends, and what ranks its last image among those of the other targets.
# probability: Yang et al. 2020, whose code ranks by p_j(x'_j) - p_y(x); the second term is the same
# for every j. No union over targets: another may have fooled the classifier where the kept one
# fails. margin: Gowal et al. 2019; an image that any target fooled is fooled.
RULES: dict[str, tuple[Towards, Towards]] = {
    "probability": (_likelihood, _probability),
    "margin": (_difference, _wrongness),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTargeted:
    """One targeted PGD a class; each image keeps the best one by a rule.

    Attributes:
      attack: the PGD towards each class; `NUM_STEPS` steps of eps / `STEPS_PER_EPS` as released by
        Yang et al.
      by: one of `RULES`.
    """

    attack: PGD
    by: str = "probability"

    def __call__(
        self, logits_fn: Callable[[Array], Array], keys: Key, images: Array, labels: Array
    ) -> Array:
        """Attacks every image on its own; f[b, h, w, c], a constant to differentiation.

        Args:
          logits_fn: images f[b, h, w, c] -> logits f[b, k].
          keys: [b], one an image; draws its start towards each target.
          images: clean, f[b, h, w, c] in [0, 1].
          labels: i32[b], the true classes, never aimed at in the end.

        Raises:
          UserError: an unknown rule.
        """
        towards, rank = lookup(RULES, "rule of multi-targeted PGD", self.by)
        num_classes = jax.eval_shape(logits_fn, images).shape[-1]

        def aim(best, target):
            best_images, best_score = best
            targets = jnp.full(labels.shape, target, labels.dtype)
            target_keys = jax.vmap(lambda key: jax.random.fold_in(key, target))(keys)
            moved = self.attack(
                lambda x: towards(logits_fn(x), labels, targets),
                target_keys[0],
                images,
                draw_noise(self.attack.threat, target_keys, images),
            )
            score = rank(logits_fn(moved), labels, targets)
            better = (score > best_score) & (targets != labels)
            kept = jnp.where(better[:, None, None, None], moved, best_images)
            return (kept, jnp.where(better, score, best_score)), None

        nothing = jnp.full(labels.shape, -jnp.inf, images.dtype)
        targets = jnp.arange(num_classes, dtype=jnp.int32)
        return jax.lax.scan(aim, (images, nothing), targets)[0][0]


def draw_noise(threat: ThreatModel, keys: Key, images: Array) -> Array:
    """What `PGD` calls noise, f[b, h, w, c], each image's from its own key [b]."""
    return jax.vmap(lambda key: threat.noise(key, images.shape[1:], images.dtype))(keys)
