"""The official AutoAttack's parts, whichever of its two packages is installed.

`pyautoattack` (PyPI) and `autoattack` (GitHub, fra31/auto-attack) hold the same attacks and differ
in the arguments of their constructor and in how they log. Their attack objects keep state between
calls: the number of FAB's restarts, the loss of APGD, the radius of its last phase under L1. So
every call here has objects of its own, and its result depends on nothing that ran before.
"""

import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from score_jax.attacks.autoattack import SMALLEST_NUM_CLASSES
from score_jax.types import UserError, lookup

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
# The attacks of each version, in their order.
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
# Attack: the object that runs it, and what `run_standard_evaluation` sets on it before.
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "apgd-ce": ("apgd", {"loss": "ce"}),
    "apgd-dlr": ("apgd", {"loss": "dlr"}),
    "fab": ("fab", {"targeted": False}),
    "square": ("square", {}),
    "apgd-t": ("apgd_targeted", {}),
    "fab-t": ("fab", {"targeted": True, "n_restarts": 1}),
}
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
    """An installed AutoAttack: distribution name, version, class, and its checks."""

    name: str
    version: str
    factory: Callable[..., Any]
    checks: ModuleType

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which attacks, with whose settings: norm 'linf', 'l2' or 'l1', eps in pixel units."""

    norm: str
    eps: float
    version: str
    attacks: tuple[str, ...]
    num_classes: int


@dataclass
class Recorder:
    """Stands where the library expects its logger; keeps its warnings."""

    warnings: list[str] = field(default_factory=list)

    def log(self, text: str) -> None:
        """The method of the GitHub version, which marks warnings in the text."""
        if text.startswith("Warning"):
            self.warning(text.removeprefix("Warning:").strip())

    def debug(self, text: str) -> None:
        """Progress is told by who calls the attacks."""

    info = debug

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def find_library() -> Library:
    """The installed AutoAttack.

    Raises:
      UserError: there is none.
    """
    for name in ("pyautoattack", "autoattack"):
        try:
            module = importlib.import_module(name)
            checks = importlib.import_module(f"{name}.checks")
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        return Library(name=name, version=version, factory=module.AutoAttack, checks=checks)
    raise UserError("AutoAttack is not installed; run: pip install 'score-jax[torch]'.")


def choose_attacks(
    version: str, attacks: Sequence[str], num_classes: int
) -> tuple[tuple[str, ...], list[str]]:
    """The attacks to run (empty: those of the version) and what was left out, as sentences.

    Raises:
      UserError: an unknown version or attack, one given twice, or one that needs more classes.
    """
    usual = lookup(VERSIONS, "AutoAttack version", version)
    for attack in attacks:
        lookup(ATTACKS, "attack", attack)
        if num_classes < SMALLEST_NUM_CLASSES.get(attack, 2):
            raise UserError(
                f"attack {attack!r} needs {SMALLEST_NUM_CLASSES.get(attack, 2)} classes or more, "
                f"the model has {num_classes}; leave it out."
            )
        if list(attacks).count(attack) > 1:
            raise UserError(f"attack {attack!r} is given twice; name each attack once.")
    kept = tuple(name for name in usual if num_classes >= SMALLEST_NUM_CLASSES.get(name, 2))
    notes = [
        f"{name} left out: its loss needs {SMALLEST_NUM_CLASSES[name]} classes, there are "
        f"{num_classes}"
        for name in usual
        if name not in kept
    ]
    return (kept, notes) if tuple(attacks) in ((), kept) else (tuple(attacks), [])


def build(
    library: Library, model: nn.Module, device: torch.device, settings: Settings, logger: Recorder
) -> Any:
    """A fresh AutoAttack object with the settings of its version."""
    parameters = inspect.signature(library.factory).parameters
    # Only the GitHub version prints what it sets, and is silent only when asked.
    quiet = {"verbose": False} if "verbose" in parameters else {}
    adversary = library.factory(
        model, norm=lookup(NORMS, "norm", settings.norm), eps=settings.eps, seed=0,
        version=settings.version, device=device, **quiet,
    )  # fmt: skip
    for part in (adversary, adversary.apgd, adversary.apgd_targeted):
        part.logger = logger
    for part in (adversary.apgd_targeted, adversary.fab):
        part.n_target_classes = min(part.n_target_classes, settings.num_classes - 1)
    return adversary


def perturb(
    library: Library,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: str,
    seed: int,
    settings: Settings,
    logger: Recorder,
) -> Tensor:
    """One official attack on one batch, as `run_standard_evaluation` calls it.

    Its settings are those that it has in the version's own order of attacks.

    Args:
      images: f32[b, c, h, w] in [0, 1], on the device to attack on; labels: i64[b].
      logger: receives the library's warnings.

    Returns:
      f32[b, c, h, w].
    """
    place, changes = lookup(ATTACKS, "attack", attack)
    part = getattr(build(library, model, images.device, settings, logger), place)
    for name, value in {**changes, "seed": seed}.items():
        setattr(part, name, value)
    with torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return part.perturb(images.clone(), labels.clone()).detach()


def check_defense(
    library: Library,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    settings: Settings,
    logger: Recorder,
) -> None:
    """The library's checks of the kind of defense; its doubts become warnings of the logger."""
    adversary = build(library, model, images.device, settings, logger)
    checks, size = library.checks, len(images)
    if settings.version != "rand":
        checks.check_randomized(model, images, labels, bs=size, logger=logger)
    num_classes = checks.check_range_output(model, images, logger=logger)
    # The counts of this check outlive it, and it leaves no trace function behind.
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    tracer = sys.gettrace()
    try:
        checks.check_dynamic(model, images, False, logger=logger)
    finally:
        sys.settrace(tracer)
    checks.check_n_classes(
        num_classes, settings.attacks, adversary.apgd_targeted.n_target_classes,
        adversary.fab.n_target_classes, logger=logger,
    )  # fmt: skip


def check_square(library: Library, accuracies: Mapping[str, float], logger: Recorder) -> None:
    """The library's check of what Square gained; robust accuracy after each attack, and 'clean'."""
    library.checks.check_square_sr(dict(accuracies), logger=logger)


def explain_flags(warnings: Sequence[str]) -> list[dict[str, Any]]:
    """The library's doubts with what they mean, one entry a kind."""
    found: dict[str, dict[str, Any]] = {}
    for text in warnings:
        name, meaning = next(
            ((name, meaning) for name, words, meaning in FLAGS if words in text),
            ("other", "see the message"),
        )
        entry = {"name": name, "message": text, "meaning": meaning, "times": 0}
        found.setdefault(name, entry)["times"] += 1
    return list(found.values())
