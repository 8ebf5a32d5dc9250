"""The official AutoAttack behind one call, whichever of its two packages is installed.

`pyautoattack` (PyPI) and `autoattack` (GitHub, fra31/auto-attack) hold the same attacks and differ
in the names of their arguments, in what they return and in where they log.
"""

import importlib
import importlib.metadata
import inspect
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from score_jax.types import UserError, lookup

NORMS = {"linf": "Linf", "l2": "L2"}
VERSIONS = {"standard": 0, "plus": 0, "rand": 0}
ATTACKS = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
# The smallest number of classes that an attack's loss is defined for; 2 elsewhere.
SMALLEST_NUM_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
# What AutoAttack says when it doubts its own result: name, its words, and what they mean.
FLAGS = (
    ("randomized", "randomized defense", "logits change between passes; use version='rand'"),
    ("probabilities", "probability distribution", "the attacks need logits, not probabilities"),
    (
        "zero_gradient",
        "zero gradient",
        "images with an input gradient of exactly 0: gradient attacks may be blind there; compare "
        "with square, and look for saturated losses or rounding in the network",
    ),
    ("dynamic", "dynamic defense", "the network differentiates while it predicts"),
    (
        "black_box_gain",
        "Square Attack has decreased",
        "a black-box attack went below the gradient attacks: a sign of gradient masking; the "
        "reported accuracy is an upper bound, try more queries and an adaptive attack",
    ),
    ("few_classes", "classes", "a loss or target count does not suit this few classes"),
)


@dataclass(frozen=True, kw_only=True)
class Library:
    """An installed AutoAttack: distribution name, version, class."""

    name: str
    version: str
    factory: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What AutoAttack found.

    adversarial: f32[n, c, h, w], the clean image where no attack succeeded; predictions: i64[n]
    on them; initial: how many were correct before the first attack; attacks: one record each, in
    the order they ran; flags: its doubts.
    """

    adversarial: Tensor
    predictions: Tensor
    initial: int
    attacks: list[dict[str, Any]]
    flags: list[dict[str, Any]]


def find_library() -> Library:
    """The installed AutoAttack.

    Raises:
      UserError: there is none.
    """
    for name in ("pyautoattack", "autoattack"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        return Library(name=name, version=version, factory=module.AutoAttack)
    raise UserError("AutoAttack is not installed; run: pip install 'score-jax[torch]'.")


@dataclass
class Recorder:
    """Stands where the library expects its logger; keeps the counts and times it is told."""

    tell: Callable[[str], None]
    fallen: dict[str, int] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def log(self, text: str) -> None:
        """The method of the GitHub version, which marks warnings in the text."""
        if text.startswith("Warning"):
            self.warning(text.removeprefix("Warning:").strip())
        else:
            self.debug(text)

    def debug(self, text: str) -> None:
        self.tell(text)
        if match := re.match(r"(\S+) - \d+/\d+ - (\d+) out of \d+ ", text):
            name, count = match[1], int(match[2])
            self.fallen[name] = self.fallen.get(name, 0) + count
        elif match := re.match(r"robust accuracy after (\S+):", text):
            self.finished[match[1].lower()] = time.perf_counter()

    info = debug

    def warning(self, text: str) -> None:
        self.tell(f"warning: {text}")
        self.warnings.append(text)

    def flags(self) -> list[dict[str, Any]]:
        """The library's doubts, one entry a kind."""
        found: dict[str, dict[str, Any]] = {}
        for text in self.warnings:
            name, meaning = next(
                ((name, meaning) for name, words, meaning in FLAGS if words in text),
                ("other", "see the message"),
            )
            entry = {"name": name, "message": text, "meaning": meaning, "times": 0}
            found.setdefault(name, entry)["times"] += 1
        return list(found.values())


def choose_attacks(
    version: str, attacks: Sequence[str], num_classes: int
) -> tuple[tuple[str, ...], list[str]]:
    """The attacks to run (empty: those of the version) and what was left out, as sentences.

    Raises:
      UserError: an unknown version or attack, or one that needs more classes.
    """
    lookup(VERSIONS, "AutoAttack version", version)
    for attack in attacks:
        lookup(dict.fromkeys(ATTACKS), "attack", attack)
        if num_classes < SMALLEST_NUM_CLASSES.get(attack, 2):
            raise UserError(
                f"attack {attack!r} needs {SMALLEST_NUM_CLASSES.get(attack, 2)} classes or more, "
                f"the model has {num_classes}; leave it out."
            )
    if attacks:
        return tuple(attacks), []
    usual = {
        "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
        "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        "rand": ("apgd-ce", "apgd-dlr"),
    }[version]
    kept = tuple(name for name in usual if num_classes >= SMALLEST_NUM_CLASSES.get(name, 2))
    notes = [
        f"{name} left out: its loss needs {SMALLEST_NUM_CLASSES[name]} classes, there are "
        f"{num_classes}"
        for name in usual
        if name not in kept
    ]
    return kept, notes


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str,
    eps: float,
    seed: int,
    version: str,
    attacks: Sequence[str],
    num_classes: int,
    batch_size: int,
    tell: Callable[[str], None],
    library: Library | None = None,
) -> Outcome:
    """Runs AutoAttack with the settings of `version`, restricted to `attacks`.

    Args:
      images: f32[n, c, h, w] in [0, 1], on the device to attack on.
      labels: i64[n].
      norm: 'linf' or 'l2'.
      tell: receives every line that the library logs.
    """
    library = library or find_library()
    parameters = inspect.signature(library.factory).parameters
    device = {"device": images.device} if "device" in parameters else {}
    adversary = library.factory(
        model, norm=lookup(NORMS, "norm", norm), eps=eps, seed=seed, version=version, **device
    )
    recorder = Recorder(tell)
    for part in (adversary, adversary.apgd, adversary.apgd_targeted):
        part.logger = recorder
    adversary.attacks_to_run = list(attacks)
    for part in (adversary.apgd_targeted, adversary.fab):
        part.n_target_classes = min(part.n_target_classes, num_classes - 1)
    evaluate = adversary.run_standard_evaluation
    accepted = inspect.signature(evaluate).parameters
    sizes = {"batch_size" if "batch_size" in accepted else "bs": batch_size}
    if "return_labels" in accepted:
        sizes["return_labels"] = True
    start = time.perf_counter()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        adversarial, predictions = evaluate(images, labels, **sizes)
    # The number correct at the start follows from the end and from what fell on the way.
    initial = int((predictions == labels).sum()) + sum(recorder.fallen.values())
    standing, records = initial, []
    for name in attacks:
        standing -= recorder.fallen.get(name, 0)
        end = recorder.finished.get(name, start)
        records.append(
            {
                "name": name,
                "robust_accuracy": standing / len(labels),
                "fallen": recorder.fallen.get(name, 0),
                "seconds": round(end - start, 3),
                "skipped": name not in recorder.finished,
            }
        )
        start = end
    return Outcome(
        adversarial=adversarial.detach(),
        predictions=predictions,
        initial=initial,
        attacks=records,
        flags=recorder.flags(),
    )
