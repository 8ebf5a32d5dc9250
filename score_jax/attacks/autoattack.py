"""AutoAttack in JAX: the ensemble of Croce and Hein 2020 on any function images -> logits.

Each attack meets only the images that those before it left. The attacks are those of the official
program, written anew; the figure to report is the official program's. In L1, APGD goes
through three stages of radii in 'plus' too, where the official program has a single one.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from score_jax.attacks import autoattack_inputs as inputs
from score_jax.attacks import autoattack_searches as searches
from score_jax.attacks.apgd import is_wrong
from score_jax.attacks.autoattack_batches import Batches
from score_jax.attacks.autoattack_searches import ATTACKS
from score_jax.types import Array, UserError, lookup

NOT_OFFICIAL = (
    "AutoAttack in JAX is a check by the same algorithms; the figure to report is the official "
    "one: score-jax autoattack"
)
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
}
SMALLEST_NUM_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  # 2 elsewhere.
BLACK_BOX_GAIN = 0.002  # Square finding more than this after gradient attacks is a sign.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttackResult:
    """What AutoAttack in JAX found on n images.

    Attributes:
      images: f32[n, h, w, c], adversarial, or clean where nothing succeeded.
      robust: bool[n], whether each is still classified right, counted anew on `images`.
      predictions: i32[n], on `images`.
      clean_accuracy, robust_accuracy: fractions.
      attacks: of each in order {name, robust_accuracy after it, fallen by it, seconds, skipped}.
      norm, eps, version, seed: as given.
      notes: what was left out or looks doubtful, as sentences.
      official: that this is not the official program.
      note: which figure to report.
    """

    images: np.ndarray
    robust: np.ndarray
    predictions: np.ndarray
    clean_accuracy: float
    robust_accuracy: float
    attacks: list[dict[str, Any]]
    norm: str
    eps: float
    version: str
    seed: int
    notes: list[str]
    official: bool = False
    note: str = NOT_OFFICIAL


def autoattack(
    logits_fn: Callable[[Array], Array],
    images: Any,
    labels: Any,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    version: str = "standard",
    attacks: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 500,
    report: Callable[[str], None] | None = None,
) -> AutoAttackResult:
    """Attacks a classifier on all devices; what an image meets does not depend on its batch.

    Args:
      logits_fn: images f32[b, h, w, c] in [0, 1] -> logits f[b, k]; each row of its own image.
        Arrays that it closes over travel as arguments of the compiled programs. Called again and
        again, as in training, give `jax.tree_util.Partial(fn, variables)`: other variables then
        compile nothing.
      images: f[n, h, w, c] in [0, 1].
      labels: integers [n].
      norm: 'linf', 'l2' or 'l1'.
      eps: radius in pixel units.
      version: 'standard' or 'plus', with the settings of the official program.
      attacks: a part of the attacks, in this order; empty for all of the version.
      seed: of all random starts and proposals.
      batch_size: images computed at once, over all devices.
      report: receives a line after each attack.

    Raises:
      UserError: arguments, images, labels or logits that would make a wrong number.
    """
    images = inputs.check_images(images)
    labels = inputs.check_labels(labels, len(images))
    inputs.check_threat(norm, float(eps))
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} is not positive; write 500 or less")
    batches = Batches(logits_fn, images, labels, batch_size)
    shape = (batches.largest, *images.shape[1:])
    num_classes = inputs.num_classes(logits_fn, shape, labels)
    names, notes = choose_attacks(version, attacks, num_classes)
    everyone = np.arange(len(images))
    clean = batches.logits(everyone)
    again = batches.logits(everyone[: batches.largest])
    notes += inputs.check_logits(clean, again, batches.logits_of_few())

    standing = everyone[clean.argmax(1) == labels]
    clean_accuracy = len(standing) / len(images)
    settings = searches.settings(version, norm, num_classes)
    adversarial, records = images.copy(), []
    tell = report or (lambda line: None)
    tell(f"clean accuracy {clean_accuracy:.2%} on {len(images)} images")
    for name in names:
        started, before, skipped = time.monotonic(), len(standing), not len(standing)
        key = jax.random.fold_in(jax.random.key(seed), list(ATTACKS).index(name))
        if not skipped:
            batches.fit(len(standing))
        search = ATTACKS[name](batches, standing, clean, key, np.float32(eps), settings)
        for indices, found in () if skipped else search:
            adversarial[indices] = found
        broken = ~np.isfinite(adversarial).all((1, 2, 3))
        if broken.any():
            adversarial[broken] = images[broken]
            notes.append(f"{name} left {broken.sum()} images that are no numbers; they stand")
        fallen = standing[(adversarial[standing] != images[standing]).any((1, 2, 3))]
        if len(fallen):
            # Counted by the program of the clean images: rounding may decide at the boundary.
            wrong = np.asarray(is_wrong(batches.logits(fallen, adversarial), labels[fallen]))
            adversarial[fallen[~wrong]] = images[fallen[~wrong]]
            standing = np.setdiff1d(standing, fallen[wrong])
        records.append(
            {
                "name": name,
                "robust_accuracy": len(standing) / len(images),
                "fallen": before - len(standing),
                "seconds": round(time.monotonic() - started, 3),
                "skipped": skipped,
            }
        )
        tell(
            f"robust accuracy after {name}: {len(standing) / len(images):.2%} "
            f"({before - len(standing)} of {before} fell, {records[-1]['seconds']:.1f} s)"
        )
    inputs.check_found(adversarial, images, norm, float(eps))
    predictions = batches.logits(everyone, adversarial).argmax(1).astype(np.int32)
    robust = predictions == labels
    if (differing := int((np.isin(everyone, standing) != robust).sum())) > 0:
        notes.append(f"{differing} images were classified otherwise when all were counted again")
    notes += _doubts(records)
    return AutoAttackResult(
        images=adversarial,
        robust=robust,
        predictions=predictions,
        clean_accuracy=clean_accuracy,
        robust_accuracy=float(robust.mean()),
        attacks=records,
        norm=norm,
        eps=float(eps),
        version=version,
        seed=seed,
        notes=notes,
    )


def choose_attacks(
    version: str, attacks: Sequence[str], num_classes: int
) -> tuple[tuple[str, ...], list[str]]:
    """The attacks to run, and what was left out or cut, as sentences.

    Raises:
      UserError: an unknown version or attack, or one that needs more classes.
    """
    if version == "rand":
        raise UserError(
            "version='rand' averages over a defence's randomness, and a function of images alone "
            "has none; for a random defence use score-jax autoattack --version=rand"
        )
    usual = lookup(VERSIONS, "AutoAttack version", version)
    for name in attacks:
        lookup(ATTACKS, "attack", name)
        if num_classes < (least := SMALLEST_NUM_CLASSES.get(name, 2)):
            raise UserError(
                f"attack {name!r} needs {least} classes or more, logits_fn has {num_classes}; "
                "leave it out"
            )
    chosen = tuple(attacks) or usual
    kept = tuple(name for name in chosen if num_classes >= SMALLEST_NUM_CLASSES.get(name, 2))
    notes = [
        f"{name} left out: its loss needs {SMALLEST_NUM_CLASSES[name]} classes, there are "
        f"{num_classes}"
        for name in chosen
        if name not in kept
    ]
    return kept, notes


def _doubts(records: list[dict[str, Any]]) -> list[str]:
    before = None
    for record in records:
        gain = (before or 0) - record["robust_accuracy"]
        if record["name"] == "square" and before is not None and gain > BLACK_BOX_GAIN:
            return [
                f"square, which sees no gradient, lowered the robust accuracy by {gain:.2%}: a "
                "sign of gradient masking; the figure is an upper bound"
            ]
        before = record["robust_accuracy"]
    return []
