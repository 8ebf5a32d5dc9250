"""Whether a network's accuracy under attack can be trusted: signs of gradient masking, and slips.

The checks follow Athalye et al. 2018 ("Obfuscated gradients give a false sense of security") and
Carlini et al. 2019 ("On evaluating adversarial robustness"). They find reasons for doubt; none
found is no proof of robustness, and the figure to report stays the official AutoAttack's.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from score_jax import trust_answers as answers
from score_jax import trust_attacks as attacks
from score_jax import trust_gradients as gradients
from score_jax import trust_others as others
from score_jax.config_rules import check_eps
from score_jax.trust_check import Check, Report
from score_jax.trust_subject import LogitsFn, Subject
from score_jax.types import Array, UserError

__all__ = ["CHECKS", "Check", "Report", "Known", "examine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a network beside its function.

    Attributes:
      transfer_from: names and functions of other networks.
      official: AutoAttack's result.json; see `trust_others.gap`.
      coarse: the same network in bfloat16.
      normalisation: (mean, std) of each channel that the network applies.
    """

    transfer_from: Sequence[tuple[str, LogitsFn]] = ()
    official: Mapping[str, Any] | None = None
    coarse: LogitsFn | None = None
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None


# In the order in which they run: those without gradients judge what all gradients left.
CHECKS: dict[str, Callable[[Subject, Known], Check]] = {
    "outputs": lambda subject, known: answers.outputs(subject),
    "repeatable": lambda subject, known: answers.repeatable(subject),
    "batch": lambda subject, known: answers.batch(subject),
    "range": lambda subject, known: answers.input_range(subject, known.normalisation),
    "staircase": lambda subject, known: answers.staircase(subject),
    "gradient": lambda subject, known: gradients.gradient(subject),
    "zero_gradient": lambda subject, known: gradients.zero_gradient(subject),
    "steps": lambda subject, known: attacks.steps(subject),
    "one_step": lambda subject, known: attacks.one_step(subject),
    "start": lambda subject, known: attacks.start(subject),
    "restarts": lambda subject, known: attacks.restarts(subject),
    "radius": lambda subject, known: attacks.radius(subject),
    "loss": lambda subject, known: attacks.loss_choice(subject),
    "black_box": lambda subject, known: others.black_box(subject),
    "transfer": lambda subject, known: others.transfer(subject, known.transfer_from),
    "gap": lambda subject, known: others.gap(subject, known.official),
    "autoattack": lambda subject, known: others.flags(known.official),
    "precision": lambda subject, known: answers.precision(subject, known.coarse),
}


def examine(
    logits_fn: LogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    norm: str,
    eps: float,
    num_classes: int,
    transfer_from: Sequence[tuple[str, LogitsFn]] = (),
    official: Mapping[str, Any] | None = None,
    coarse: LogitsFn | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
    batch_size: int = 200,
    tell: Callable[[Check], None] = lambda check: None,
) -> Report:
    """Runs all `CHECKS`; what there is nothing to examine with comes out grey.

    Args:
      logits_fn: images f32[b, h, w, c] in [0, 1] -> logits f32[b, num_classes], made of jax.numpy.
      images: f32[n, h, w, c] in [0, 1]; 100 or more make the shares mean something.
      labels: i32[n].
      norm: 'linf' or 'l2'.
      eps: radius in pixel units.
      transfer_from, official, coarse, normalisation: as in `Known`.
      seed: of starts and directions.
      batch_size: images in one pass.
      tell: receives each check as it is done.

    Raises:
      UserError: images that are none, labels out of range, an impossible radius, a function that
        cannot be traced or gives another shape.
    """
    images, labels = _checked(images, labels, num_classes)
    if not math.isfinite(eps) or eps <= 0:
        raise UserError(f"eps={eps:g} is not a positive radius; write it as 8/255 for example.")
    check_eps(eps, norm)
    subject = Subject(
        logits_fn, images, labels, norm=norm, eps=eps, num_classes=num_classes, seed=seed,
        batch_size=batch_size,
    )  # fmt: skip
    known = Known(
        transfer_from=tuple(transfer_from), official=official, coarse=coarse,
        normalisation=normalisation,
    )  # fmt: skip
    checks = []
    for check in CHECKS.values():
        started = time.monotonic()
        done = check(subject, known)
        checks.append(dataclasses.replace(done, seconds=round(time.monotonic() - started, 3)))
        tell(checks[-1])
        if not done.numbers.get("finite", True):
            break  # Nothing that follows would mean anything.
    return Report(
        checks=tuple(checks), norm=norm, eps=float(eps), num_examples=len(labels), seed=seed
    )


def _checked(images, labels, num_classes):
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or not len(images) or labels.shape != images.shape[:1]:
        raise UserError(
            f"images {images.shape} and labels {labels.shape}: give f32[n, h, w, c] and i32[n]."
        )
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"images are {images.dtype}; divide by 255 and give float32 in [0, 1].")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"images lie in [{low:g}, {high:g}]; give pixels in [0, 1], not normalised."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels are {labels.dtype}; give class numbers i32[n].")
    if num_classes < 2 or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"labels lie in [{labels.min()}, {labels.max()}], the model has {num_classes} classes."
        )
    return images.astype(np.float32), labels.astype(np.int32)
