"""The targeted attack of Yang et al. 2020 (`multitarget` of their code)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.attacks.pgd import PGD
from score_jax.divergences import label_cross_entropy
from score_jax.types import Array, Key

NUM_STEPS = 20
STEPS_PER_EPS = 10  # A step is eps / 10.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTargeted:
    """One targeted PGD a class; each image keeps the one that made its target most probable.

    The released code ranks by p_j(x'_j) - p_y(x), where the second term is the same for every j. It
    is no union over targets: another may have fooled the classifier where the kept one fails.

    Attributes:
      attack: the PGD towards each class; `NUM_STEPS` steps of eps / `STEPS_PER_EPS` as released.
    """

    attack: PGD

    def __call__(
        self,
        logits_fn: Callable[[Array], Array],
        key: Key,
        images: Array,
        labels: Array,
        draw: Callable[[Key], Array] | None = None,
    ) -> Array:
        """Attacks every image on its own; f[b, h, w, c], a constant to differentiation.

        Args:
          logits_fn: images f[b, h, w, c] -> logits f[b, k].
          key: draws a start for each target.
          images: clean, f[b, h, w, c] in [0, 1].
          labels: i32[b], the true classes, never aimed at in the end.
          draw: the start of one target from its key, where the batch's own draw is not wanted;
            what `PGD` calls noise.
        """
        num_classes = jax.eval_shape(logits_fn, images).shape[-1]

        def aim(best, target):
            best_images, best_score = best
            targets = jnp.full(labels.shape, target, labels.dtype)
            target_key = jax.random.fold_in(key, target)
            moved = self.attack(
                lambda x: -label_cross_entropy(logits_fn(x), targets),
                target_key,
                images,
                draw(target_key) if draw else None,
            )
            score = jax.nn.softmax(logits_fn(moved))[:, target]
            better = (score > best_score) & (targets != labels)
            kept = jnp.where(better[:, None, None, None], moved, best_images)
            return (kept, jnp.where(better, score, best_score)), None

        nothing = jnp.full(labels.shape, -1, images.dtype)
        targets = jnp.arange(num_classes, dtype=jnp.int32)
        return jax.lax.scan(aim, (images, nothing), targets)[0][0]
