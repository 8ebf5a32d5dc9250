"""What every training method offers to the step."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from score_jax.divergences import SMOOTHINGS
from score_jax.types import Array, UserError, lookup


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Moving:
    """What an attack sees at one of its iterates; all but `logits` and `images` is constant.

    Attributes:
      logits: f[b, k] of the moving images.
      clean_logits: f[b, k] of the clean images.
      target_probs: f[b, k], the labels as the outer loss sees them (smoothed, or CutMix mixtures).
      labels: i32[b].
      images, clean_images: f[b, h, w, c].
      clean_gradient: f[b, h, w, c], of the cross-entropy at the clean images; None unless the
        objective `needs_gradient`.
    """

    logits: Array
    clean_logits: Array
    labels: Array
    target_probs: Array | None = None
    images: Array | None = None
    clean_images: Array | None = None
    clean_gradient: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """The outer forward passes' logits and what they are compared with.

    Attributes:
      clean_logits: f32[b, k], or None where the objective has no clean forward.
      adv_logits: f32[b, k], or None where it has no adversarial forward.
      other_logits: those of further forward passes, by name.
      target_probs: f32[b, k], smoothed labels.
      labels: i32[b].
      robust_steps: i32[b], see `attacks.Attacked`; None without an attack.
      num_steps: of the attack that counted them.
      epoch: i32[], from 0, or None where nothing depends on it; num_epochs: of the whole run.
      batch_size: of the whole batch, of which these examples may be a part.
      weights: f[b], what `Objective.batch_weights` says of these examples; None where it does.
      perturbation: f[b, h, w, c], adversarial minus clean images, a constant.
      clean_gradient: as in `Moving`, but of the outer clean pass and differentiable.
    """

    clean_logits: Array | None
    adv_logits: Array | None
    target_probs: Array
    labels: Array | None = None
    other_logits: dict[str, Array] = dataclasses.field(default_factory=dict)
    robust_steps: Array | None = None
    num_steps: int = dataclasses.field(default=0, metadata=dict(static=True))
    epoch: Array | None = None
    num_epochs: int = dataclasses.field(default=1, metadata=dict(static=True))
    batch_size: int = dataclasses.field(default=1, metadata=dict(static=True))
    weights: Array | None = None
    perturbation: Array | None = None
    clean_gradient: Array | None = None


# The outer forward passes there are: the clean images, the attacked ones, clean and attacked ones
# in one pass that shares its batch statistics, the clean ones a second time (with its own dropout
# mask), the images of a second attack, and the images opposite to the attacked ones.
FORWARDS = ("clean", "adversarial", "joint", "clean_again", "adversarial_margin", "opposite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A training method. Both losses are per example, f[b]; the step takes the one mean.

    Attributes:
      forwards: the outer forward passes it needs, of `FORWARDS`. Without an adversarial one there
        is no attack.
      needs_clean_logits: its attack compares with the clean prediction: one more forward pass.
      needs_gradient: its losses use the input gradient of the clean cross-entropy.
      takes_mixtures: its losses make sense for CutMix targets.
      pairs_views: its outer loss compares each image's augmented views, which stand in equal parts
        of the batch.
      label_smoothing, smoothing: how `target_probs` are made; see `divergences.target_probs`.
    """

    forwards: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    needs_clean_logits: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False
    takes_mixtures: ClassVar[bool] = False
    pairs_views: ClassVar[bool] = False
    label_smoothing: float = 0.0
    smoothing: str = "uniform"

    def __post_init__(self) -> None:
        """Raises UserError where `divergences.target_probs` has no targets for these."""
        lookup(dict.fromkeys(SMOOTHINGS), "config.objective.smoothing", self.smoothing)
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"config.objective.label_smoothing={self.label_smoothing} must lie in [0, 1)"
            )

    def inner(self, moving: Moving) -> Array:
        """What the attack ascends."""
        raise TypeError(f"{type(self).__name__} has no inner maximization")

    def outer(self, views: Views) -> Array:
        """What the optimizer descends: of an example by itself (and its views), and `weights`."""
        raise NotImplementedError

    def batch_weights(self, views: Views) -> Array | None:
        """What only the whole batch can tell of each example, for `outer`; None: nothing.

        Args:
          views: without logits; of the whole batch, its examples along any number of axes.

        Returns:
          f, in the shape of `views.robust_steps`, a constant to differentiation.
        """
        return None

    @property
    def inners(self) -> dict[str, Callable[[Moving], Array]]:
        """What each attack ascends, by the forward pass that it makes images for."""
        return {"adversarial": self.inner}

    def attack(self, configured: Any) -> Any:
        """The attack to use, from the one that the config describes."""
        return configured


def check_not_negative(**fields: float) -> None:
    """Raises UserError naming the first negative field of config.objective."""
    for name, value in fields.items():
        if not value >= 0:
            raise UserError(f"config.objective.{name}={value} must be 0 or more")


def check_not_smoothed(objective: Objective) -> None:
    """Raises UserError where smoothed labels would have no meaning or no effect."""
    if objective.label_smoothing:
        raise UserError(
            f"config.objective.label_smoothing={objective.label_smoothing} has no meaning for "
            f"{type(objective).__name__}, which asks for the label itself; set it to 0"
        )


def check_choice(field: str, value: str, known: tuple[str, ...]) -> None:
    """Raises UserError listing the known values of a field of config.objective."""
    lookup(dict.fromkeys(known), f"config.objective.{field}", value)
