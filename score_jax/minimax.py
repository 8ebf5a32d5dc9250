"""The two halves of a training step: the inner maximization and the outer loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import divergences
from score_jax.attacks import PGD
from score_jax.metrics import correct
from score_jax.models import Classifier, NormalizeBy
from score_jax.objectives import Moving, Objective, Views
from score_jax.types import Array, BatchStats, Key, Params

# What may move BatchNorm's running averages beside the objective's outer forward passes: every pass
# of the attack, one more of what it found, and one of the clean images after the update.
EXTRA_UPDATES = ("attack", "attacked", "updated_clean")


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
        `EXTRA_UPDATES`. The other outer passes normalise by their batch and record nothing.
      first_step_momentum: BatchNorm momentum of the very first step, or None for the network's
        own (1.0: the "Haiku init" of the SCORE code, which leaves the last forward's moments).
      debias: running averages without the pull of their initial value, as Haiku's.
      loss_reduction: 'mean' over the batch, or 'sum' (Yang et al.).
      label_smoothing_scope: 'all' images, or only the 'generated' ones (Gowal et al. 2021).
      awp_gamma: size of the weight perturbation, 0 for none; awp_start_epoch: the first with it.
      augment: (key, images f32[b, h, w, c]) -> images.
      augmented_views: how many independent augmentations of the batch, one after the other.
      cutmix: how many CutMix versions of the loaded images make the batch; 0 for none.
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
            steps = self.attack.num_steps * len(self.objective.inners) if self.attack else 0
            in_step = sum(steps if name == "attack" else 1 for name in self.update_order)
            count = step * in_step + update + 1
            return own / (1 - (1 - own) ** count)
        if self.first_step_momentum is None:
            return None
        return jnp.where(step == 0, self.first_step_momentum, own)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch as both halves see it.

    Attributes:
      images: f[b, h, w, c] in [0, 1], augmented.
      labels: i32[b].
      target_probs: f[b, k].
      step: i32[], of training, from 0.
      attacked: f[b, h, w, c] for each adversarial forward pass; empty before the maximization.
      robust_steps: i32[b], counted by the first attack.
      updates: how many recordings of BatchNorm statistics came before in this step.
    """

    images: Array
    labels: Array
    target_probs: Array
    step: Array | int = 0
    attacked: dict[str, Array] = dataclasses.field(default_factory=dict)
    robust_steps: Array | None = None
    updates: int = dataclasses.field(default=0, metadata=dict(static=True))


def maximize(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    key: Key,
    batch: Batch,
    noise: Array | None = None,
) -> tuple[Batch, BatchStats]:
    """The inner maximization.

    The weights are constants. Statistics move only where `update_order` names the attack.

    Args:
      noise: replaces the draw of the attack's start, see `PGD`.

    Returns:
      The batch with its adversarial images, constants to differentiation; and the statistics.
    """
    if recipe.attack is None:
        return batch, batch_stats
    objective, attack = recipe.objective, recipe.attack
    records = "attack" in recipe.update_order
    step = jnp.asarray(batch.step)
    if recipe.attack_warmup_steps:
        grown = jnp.minimum(step / recipe.attack_warmup_steps, 1.0)
        threat = dataclasses.replace(attack.threat, eps=attack.threat.eps * grown)
        attack = dataclasses.replace(attack, threat=threat)

    def logits_fn(x, stats, update, dropout_key):
        return recipe.attack_classifier.apply(
            params, stats, x, normalize_by=recipe.attack_statistics,
            momentum=recipe.momentum(step, update),
            dropout_key=dropout_key if recipe.attack_dropout else None,
        )  # fmt: skip

    clean_logits = clean_gradient = None
    if objective.needs_gradient:

        def clean_loss(x):
            logits, _ = logits_fn(x, batch_stats, 0, key)
            return divergences.label_cross_entropy(logits, batch.labels).sum(), logits

        clean_gradient, clean_logits = jax.grad(clean_loss, has_aux=True)(batch.images)
    elif objective.needs_clean_logits:
        clean_logits, _ = logits_fn(batch.images, batch_stats, 0, key)
    clean_logits, clean_gradient = jax.lax.stop_gradient((clean_logits, clean_gradient))

    attacked, robust_steps, updates = {}, None, 0
    for number, (name, inner) in enumerate(objective.inners.items()):
        attack_key = jax.random.fold_in(key, number) if number else key

        def loss_fn(
            x, index, stats, inner=inner, attack_key=attack_key, first=updates, fixed=batch_stats
        ):
            dropout_key = jax.random.fold_in(jax.random.fold_in(attack_key, 1), index)
            logits, new_stats = logits_fn(x, stats or fixed, first + index, dropout_key)
            moving = Moving(
                logits=logits,
                clean_logits=clean_logits,
                labels=batch.labels,
                target_probs=batch.target_probs,
                images=x,
                clean_images=batch.images,
                clean_gradient=clean_gradient,
            )
            right = correct(logits, batch.labels)
            return inner(moving), (right, new_stats if records else stats)

        found = attack.watch(
            loss_fn, attack_key, batch.images, noise,
            carry=batch_stats if records else {}, epoch=step // recipe.steps_per_epoch,
        )  # fmt: skip
        attacked[name] = found.images
        if robust_steps is None:
            robust_steps = found.robust_steps
        if records:
            batch_stats, updates = found.carry, updates + attack.num_steps
    if "attacked" in recipe.update_order:
        _, batch_stats = logits_fn(attacked["adversarial"], batch_stats, updates, key)
        updates += 1
    found_batch = dataclasses.replace(
        batch, attacked=attacked, robust_steps=robust_steps, updates=updates
    )
    return found_batch, jax.lax.stop_gradient(batch_stats)


def minimized(
    recipe: Recipe,
    params: Params,
    batch_stats: BatchStats,
    batch: Batch,
    dropout_key: Key | None = None,
) -> tuple[Array, tuple[BatchStats, Views]]:
    """The outer loss f32[], the statistics it leaves, and the logits it saw."""
    objective, updates = recipe.objective, batch.updates
    inputs = {"clean": batch.images, "clean_again": batch.images, **batch.attacked}
    if "joint" in objective.forwards:
        inputs["joint"] = jnp.concatenate([batch.images, batch.attacked["adversarial"]])
    if "opposite" in objective.forwards:
        inputs["opposite"] = 2 * batch.images - batch.attacked["adversarial"]
    recording = tuple(name for name in recipe.update_order if name in objective.forwards)
    if objective.forwards == ("joint",):
        recording = ("joint",)
    logits: dict[str, Array] = {}
    clean_gradient = None
    for name in recording + tuple(n for n in objective.forwards if n not in recording):
        forward_key = None
        if dropout_key is not None and recipe.classifier.dropout:
            forward_key = jax.random.fold_in(dropout_key, objective.forwards.index(name))

        def forward(images, name=name, stats=batch_stats, updates=updates, key=forward_key):
            return recipe.classifier.apply(
                params, stats, images, normalize_by=NormalizeBy.BATCH,
                momentum=recipe.momentum(jnp.asarray(batch.step), updates), dropout_key=key,
            )  # fmt: skip

        if name == "clean_again" and forward_key is None:
            # Without dropout the same logits; only the statistics move once more.
            logits[name], new_stats = logits["clean"], forward(inputs[name])[1]
        elif name == "clean" and objective.needs_gradient:
            clean_gradient, (logits[name], new_stats) = _input_gradient(
                forward, batch.images, batch.labels
            )
        else:
            logits[name], new_stats = forward(inputs[name])
        if name in recording:
            batch_stats, updates = new_stats, updates + 1
    if "joint" in logits:
        logits["clean"], logits["adversarial"] = jnp.split(logits.pop("joint"), 2)
    adversarial = batch.attacked.get("adversarial")
    views = Views(
        clean_logits=logits.pop("clean", None),
        adv_logits=logits.pop("adversarial", None),
        other_logits=logits,
        target_probs=batch.target_probs,
        labels=batch.labels,
        robust_steps=batch.robust_steps,
        num_steps=recipe.attack.num_steps if recipe.attack else 0,
        epoch=jnp.asarray(batch.step) // recipe.steps_per_epoch,
        num_epochs=recipe.num_epochs,
        perturbation=None if adversarial is None else adversarial - batch.images,
        clean_gradient=clean_gradient,
    )
    losses = objective.outer(views)
    loss = losses.sum() if recipe.loss_reduction == "sum" else losses.mean()
    return loss, (batch_stats, views)


def _input_gradient(forward: Callable[[Array], Any], images: Array, labels: Array):
    """The input gradient of the cross-entropy, differentiable, and what the forward pass gave."""

    def loss(x):
        logits, stats = forward(x)
        return divergences.label_cross_entropy(logits, labels).sum(), (logits, stats)

    return jax.grad(loss, has_aux=True)(images)
