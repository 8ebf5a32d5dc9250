"""What a trust report says: checks with a colour each, and the table of what colours them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from score_jax.types import lookup

# From harmless to worst. Grey: there was nothing to examine it with.
COLOURS = ("grey", "green", "amber", "red")
FEW_IMAGES = 2  # A share of fewer images than this is chance, and colours nothing.
# A part lost of a small accuracy is large soon: colours take so many points as well.
AMBER_POINTS, RED_POINTS = 0.03, 0.06
STANDARD_ERRORS = 2.0  # Of the paired difference: what chance may take.
_PART = (
    f"; amber takes {100 * AMBER_POINTS:g} points and more than {STANDARD_ERRORS:g} standard "
    f"errors as well, red {100 * RED_POINTS:g} points beyond {STANDARD_ERRORS:g} standard errors"
)


@dataclass(frozen=True)
class Threshold:
    """Above `amber` a finding is amber, above `red` it is red.

    Attributes:
      is_share: of images; the rule of `FEW_IMAGES` holds.
      reason: where the two numbers are from.
    """

    amber: float
    red: float
    is_share: bool
    reason: str


# Every number that decides a colour. "Published" is on CIFAR-10, by the tables of the papers and of
# those who repeated them; "here" is the README's table of digits, 200 test images.
THRESHOLDS: dict[str, Threshold] = {
    "saturated": Threshold(
        0.01, 0.05, True,
        "share of images whose two largest logits lie 50 apart; from 17 on float32 rounds the "
        "label's probability to 1, and e^-50 leaves a gradient of 1e-22",
    ),
    "unrepeatable": Threshold(
        1e-4, 1e-3, False,
        "difference between two passes over the same images, relative to the largest logit; "
        "float32 sums in another order differ by 1e-6",
    ),
    "batch_dependence": Threshold(
        1e-4, 1e-3, False, "as for two passes: the company of an image must not matter",
    ),
    "other_range": Threshold(
        0.05, 0.1, True,
        "accuracy gained by giving pixels in [0, 255] or normalised ones; a network that wants "
        "[0, 1] gains nothing, one that wants the other goes from chance to its accuracy",
    ),
    "foreign_normalisation": Threshold(
        0.5, 2.0, False,
        "distance of the network's channel means from those of the images, in deviations; those "
        "of published recipes differ by 0.1 at most",
    ),
    "staircase": Threshold(
        0.1, 0.5, True,
        "share of images whose logits stay the same, bit by bit, when four random values move by "
        "1/2040; a float32 network answers to less, 8-bit input is constant for six in ten",
    ),
    "gradient_error": Threshold(
        0.02, 0.1, False,
        "median relative error of autodiff's directional derivatives against finite differences; "
        "float32 networks with kinks stay below 0.01",
    ),
    "zero_gradient": Threshold(
        0.0, 0.05, True,
        "share of right images with an input gradient of exactly 0; AutoAttack warns of the first",
    ),
    "weaker_with_steps": Threshold(
        0.03, 0.06, True,
        "accuracy by which more steps do worse than fewer; the last iterates of honest networks "
        "wander by 1 to 2 points",
    ),
    "unconverged": Threshold(
        0.03, 0.06, True, "accuracy that steps 50 to 100 still take; an easy surface is done by 20",
    ),
    "one_step_gain": Threshold(
        0.01, 0.02, True, "accuracy by which one step does better than twenty (Athalye et al. 2018)"
    ),
    "start_difference": Threshold(
        0.05, 0.1, True,
        "difference of accuracy between PGD from the clean image and from a random start; "
        "gradients that mislead at the clean image show here (Tramèr et al. 2018)",
    ),
    "restarts_go_on": Threshold(
        0.06, 0.12, False,
        "part of the accuracy that restarts 6 to 10 still take; 2 to 3% on honest networks" + _PART,
    ),
    "left_at_large_eps": Threshold(
        0.0, 0.05, True,
        "accuracy left where every image may become any other; it must be 0 (Carlini et al. 2019)",
    ),
    "rises_with_eps": Threshold(
        0.03, 0.06, True, "accuracy gained by a larger radius; a larger ball contains the smaller",
    ),
    "loss_choice": Threshold(
        0.08, 0.12, False,
        "part of the accuracy that scale-free losses and targets take beyond cross-entropy with "
        "as many runs; here 1 to 2% for TRADES and SCORE, 9% for GAIRAT; published, one run each, "
        "6% for AT and TRADES, 24% for GAIRAT" + _PART,
    ),
    "black_box_gain": Threshold(
        0.005, 0.02, True,
        "share of images that withstood every gradient and fall to random search; AutoAttack "
        "warns of any",
    ),
    "transfer_gain": Threshold(
        0.005, 0.02, True, "share of images that withstood every gradient and fall to another's",
    ),
    "transfer_below": Threshold(
        0.03, 0.06, True,
        "accuracy by which another network's images do better than its own; those of its twin do "
        "as well, give or take 1 to 2 points",
    ),
    "gap": Threshold(
        0.2, 0.25, False,
        "part of the accuracy under PGD-20 that the strongest attack takes; published 6 to 9%, for "
        "GAIRAT 27%; here, where images have 64 pixels, 12 to 15%, for GAIRAT 35%" + _PART,
    ),
    "beats_official": Threshold(
        0.01, 0.03, True,
        "share of images that AutoAttack left and the weaker attacks here fool; chance finds a few",
    ),
    "precision_changes": Threshold(
        0.02, 0.1, True,
        "share of clean images whose class changes in bfloat16, or change of the accuracy on "
        "attacked ones, the larger",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was examined.

    Attributes:
      name: a key of `trust.CHECKS`.
      colour: one of `COLOURS`.
      finding: what was found, in one sentence with its numbers.
      numbers: the same for programs; JSON values.
      remedy: what to do, in one sentence; '' where nothing is to be done.
      seconds: what it took.
    """

    name: str
    colour: str
    finding: str
    numbers: Mapping[str, Any]
    remedy: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """All checks of one network.

    Attributes:
      norm, eps: of the attacks; eps in pixel units.
      settings: what else the findings depend on.
    """

    checks: tuple[Check, ...]
    norm: str
    eps: float
    num_examples: int
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def colour(self) -> str:
        """The worst of the checks."""
        return worst(*(check.colour for check in self.checks))

    @property
    def verdict(self) -> str:
        """One sentence."""
        done = [check for check in self.checks if check.colour != "grey"]
        named = {
            colour: ", ".join(check.name for check in done if check.colour == colour)
            for colour in ("red", "amber")
        }
        if named["red"]:
            further = f"; amber: {named['amber']}" if named["amber"] else ""
            return (
                "red: do not rely on accuracies under gradient attacks of this network; see "
                f"{named['red']}{further}"
            )
        if named["amber"]:
            return f"amber: look at {named['amber']}; no other check gives reason for doubt"
        return f"green: nothing found in {len(done)} checks"

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        return lookup({check.name: check for check in self.checks}, "check", name)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the thresholds and their reasons; what is not finite is null."""
        return finite(
            {
                "colour": self.colour,
                "verdict": self.verdict,
                "norm": self.norm,
                "eps": self.eps,
                "num_examples": self.num_examples,
                "seed": self.seed,
                **self.settings,
                "checks": [asdict(check) for check in self.checks],
                "thresholds": {name: asdict(entry) for name, entry in THRESHOLDS.items()},
            }
        )


def worst(*colours: str) -> str:
    """The colour that counts; grey without any."""
    return max(colours, key=COLOURS.index, default="grey")


def grade(name: str, value: float, num_images: int = 0) -> str:
    """The colour of a value by `THRESHOLDS`; what is not a number is red.

    Args:
      num_images: of which a share is a share.
    """
    threshold = THRESHOLDS[name]
    if not math.isfinite(value):
        return "red"
    if threshold.is_share and round(value * num_images) < FEW_IMAGES:
        return "green"
    return "red" if value > threshold.red else "amber" if value > threshold.amber else "green"


def grade_loss(name: str, before: np.ndarray, after: np.ndarray) -> tuple[str, float]:
    """The colour of a loss of accuracy, and what part of the accuracy is gone.

    A part is graded by `THRESHOLDS`, and coloured only where it is enough points: amber takes
    `AMBER_POINTS` that are no chance, red `RED_POINTS` beyond chance.

    Args:
      before, after: bool[n], which of the same images are right.
    """
    difference = np.subtract(before, after, dtype=np.float64)
    lost = float(difference.mean())
    part = lost / float(before.mean()) if lost > 0 else 0.0
    chance = STANDARD_ERRORS * float(difference.std()) / math.sqrt(len(difference))
    if lost < AMBER_POINTS or lost <= chance:
        return "green", part
    colour = grade(name, part)
    return ("amber" if colour == "red" and lost - chance < RED_POINTS else colour), part


def advice(colour: str, remedy: str) -> str:
    """The remedy, where a colour asks for one."""
    return "" if colour == "green" else remedy


def percent(value: float) -> str:
    """'61.5%'."""
    return f"{100 * value:.1f}%"


def finite(value: Any) -> Any:
    """The same as JSON values: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(name): finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
