"""Everything that a training step depends on besides the state, the batch and the key."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import optax

from score_jax import divergences
from score_jax.attacks import PGD
from score_jax.models import Classifier, NormalizeBy
from score_jax.objectives import FORWARDS, Objective
from score_jax.types import Array, Key

# What may move BatchNorm's running averages beside the objective's outer forward passes. Before
# them: every pass of the attack, and one more of what it found. Among them: a clean pass whose
# logits nobody uses. After them: a clean pass with the updated weights.
FIRST_UPDATES = ("attack", "attacked")
EXTRA_UPDATES = (*FIRST_UPDATES, "unused_clean", "updated_clean")
PASSES = (*FORWARDS, *EXTRA_UPDATES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a step depends on besides the state, the batch and the key.

    Attributes:
      classifier: computes the outer forwards.
      attack_classifier: the same network at the attack's precision.
      attack: None for natural training.
      attack_statistics: what BatchNorm normalises by inside the attack.
      attack_dropout: whether dropout is active there, with a fresh mask at each step.
      attack_warmup_steps: training steps over which the attack's radius grows from 0.
      update_order: the forward passes that record statistics, in this order: the objective's, and
        `EXTRA_UPDATES`; a pass that the objective has not is passed over. The other outer passes
        normalise by their batch and record nothing.
      first_step_momentum: BatchNorm momentum of the very first step, or None for the network's
        own (1.0: the "Haiku init" of the SCORE code, which leaves the last forward's moments).
      debias: running averages without the pull of their initial value, as Haiku's.
      loss_reduction: 'mean' over the batch, or 'sum' (Yang et al.).
      label_smoothing_scope: 'all' images, or only the 'generated' ones (Gowal et al. 2021).
      awp_gamma: size of the weight perturbation, 0 for none; awp_start_epoch: the first with it.
      augment: (key, images u8 or f[b, h, w, c]) -> images, of the same type.
      augmented_views: how many independent augmentations of the batch, one after the other.
      cutmix: how many CutMix versions of the loaded images make the batch; 0 for none.
      emulated_workers: equal parts of the loaded images within which CutMix mixes; 0: one.
      microbatches: equal parts of the batch that are attacked and differentiated one after the
        other; the classifiers then have the BatchNorm groups of one part.
      steps_per_epoch, num_epochs: for what changes with the epoch.
      log_every_steps: how many steps one line of metrics covers.
    """

    classifier: Classifier
    attack_classifier: Classifier
    objective: Objective
    attack: PGD | None
    attack_statistics: NormalizeBy = NormalizeBy.BATCH
    attack_dropout: bool = False
    attack_warmup_steps: int = 0
    update_order: tuple[str, ...] = ("clean", "adversarial")
    first_step_momentum: float | None = None
    debias: bool = False
    loss_reduction: str = "mean"
    label_smoothing_scope: str = "all"
    awp_gamma: float = 0.0
    awp_start_epoch: int = 0
    optimizer: optax.GradientTransformation
    num_classes: int
    augment: Callable[[Key, Array], Array]
    augmented_views: int = 1
    cutmix: int = 0
    emulated_workers: int = 0
    microbatches: int = 1
    ema_decay: float
    ema_warmup_steps: float
    steps_per_epoch: int = 1
    num_epochs: int = 1
    log_every_steps: int = 1

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The training metrics of its steps."""
        names, forwards = ["train/loss", "train/gradient_norm"], set(self.objective.forwards)
        if {"clean", "joint"} & forwards:
            names.append("train/clean_accuracy")
        if {"adversarial", "joint"} & forwards:
            names += ["train/adv_accuracy", "train/robust_steps"]
        return tuple(names)

    @property
    def recorded(self) -> tuple[str, ...]:
        """The passes of the outer loss that record statistics, in their order."""
        if self.objective.forwards == ("joint",):
            return ("joint",)
        known = (*self.objective.forwards, "unused_clean")
        return tuple(name for name in self.update_order if name in known)

    @property
    def attack_updates(self) -> int:
        """How often a step records statistics before its outer passes."""
        found = "attacked" in self.update_order
        if "attack" in self.update_order:
            return self.attack.num_steps * len(self.objective.inners) + found
        return int(found)

    def target_probs(self, labels: Array, generated: Array | None = None) -> Array:
        """f32[b, k], smoothed where the recipe says so."""
        smoothing = self.objective.label_smoothing
        if self.label_smoothing_scope == "generated" and smoothing:
            smoothing = jnp.where(generated, smoothing, 0.0)[:, None]
        return divergences.target_probs(
            labels, self.num_classes, smoothing, self.objective.smoothing
        )

    def momentum(self, step: Array, update: Array | int) -> Array | None:
        """BatchNorm's momentum at the update-th recording of a step, both counted from 0."""
        own = self.classifier.batchnorm_momentum
        if self.debias:
            in_step = self.attack_updates + len(self.recorded)
            in_step += "updated_clean" in self.update_order
            count = step * in_step + update + 1
            return own / (1 - (1 - own) ** count)
        if self.first_step_momentum is None:
            return None
        return jnp.where(step == 0, self.first_step_momentum, own)
