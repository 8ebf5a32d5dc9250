"""What a config may hold: choices, bounds, and the mistakes that would make a wrong number."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from score_jax import config_rules_data, overrides
from score_jax.types import UserError, nearest

# Their fields depend on their name, or are a table's.
FREE_SECTIONS = ("objective", "model", "schedule", "published")
OPTIONAL = ("batchnorm.first_step_momentum",)
CHOICES = {
    "norm": ("linf", "l2"),
    "attack.norm": ("linf", "l2"),
    "attack.start": ("uniform", "normal", "zero"),
    "attack.rule": ("steepest", "adam"),
    "attack.statistics": ("batch", "running"),
    "attack.zero_gradient": ("stay", "noise"),
    "data.generated_sampling": ("replacement", "permutation"),
    "data.mixing": ("batch", "pool"),
    "data.storage": ("auto", "memory", "memmap", "records", "device"),
    "schedule.unit": ("epoch", "fractional_epoch", "step"),
    "loss_reduction": ("mean", "sum"),
    "label_smoothing_scope": ("all", "generated"),
    "optimizer.name": ("sgd", "adam", "lars", "lamb"),
    "precision.train": ("float32", "tf32", "bfloat16"),
    "precision.attack": ("float32", "tf32", "bfloat16"),
    "precision.evaluation": ("float32", "tf32", "bfloat16"),
    "validation.attack.name": ("pgd", "apgd-ce", "apgd-t"),
    "validation.attack.norm": ("linf", "l2"),
    "validation.attack.start": ("uniform", "normal", "zero"),
    "validation.attack.loss": ("margin", "cross_entropy"),
}
CHOICE_TUPLES = {
    "batchnorm.update_order": (
        "clean",
        "adversarial",
        "clean_again",
        "adversarial_margin",
        "opposite",
        "attack",
        "attacked",
        "updated_clean",
    ),
    "optimizer.weight_decay_roles": ("kernel", "bias", "batchnorm"),
}
# Field: smallest value, whether it is itself allowed, upper bound (excluded) or None.
BOUNDS = {
    "seed": (0, True, None),
    "num_epochs": (1, True, None),
    "steps_per_epoch": (0, True, None),
    "data.batch_size": (1, True, None),
    "data.validation_size": (1, True, None),
    "data.generated_fraction": (0.0, False, 1.0),
    "data.prefetch": (0, True, None),
    "data.take": (0, True, None),
    "data.generated_take": (0, True, None),
    "data.label_noise": (0.0, True, math.nextafter(1.0, 2.0)),
    "data.label_noise_seed": (0, True, None),
    "data.repeats": (1, True, None),
    "data.emulated_workers": (0, True, None),
    "data.augmented_views": (1, True, None),
    "data.cutmix": (0, True, None),
    "data.microbatches": (1, True, None),
    "mesh.fsdp": (1, True, None),
    "awp.gamma": (0.0, True, None),
    "awp.start_epoch": (0, True, None),
    "batchnorm.groups": (1, True, None),
    "batchnorm.first_step_momentum": (0.0, True, math.nextafter(1.0, 2.0)),
    "attack.num_steps": (1, True, None),
    "attack.step_noise": (0.0, True, None),
    "attack.warmup_steps": (0, True, None),
    "optimizer.momentum": (0.0, True, 1.0),
    "optimizer.weight_decay": (0.0, True, None),
    "optimizer.clip_norm": (0.0, True, None),
    "optimizer.trust_coefficient": (0.0, False, None),
    "large_batch.reference_batch_size": (0, True, None),
    "large_batch.warmup_epochs": (0.0, True, None),
    "schedule.learning_rate": (0.0, True, None),
    "ema.decay": (0.0, True, 1.0),
    "ema.warmup_fraction": (0.0, True, math.nextafter(1.0, 2.0)),
    "ema.warmup_steps": (-1, True, None),
    "validation.every_epochs": (1, True, None),
    "validation.batch_size": (1, True, None),
    "validation.attack.num_steps": (1, True, None),
    "checkpoint.every_epochs": (1, True, None),
    "checkpoint.every_minutes": (0.0, True, None),
    "checkpoint.keep": (1, True, None),
    "checkpoint.keep_every_epochs": (0, True, None),
    "watchdog.minutes": (0.0, True, None),
    "watchdog.factor": (1.0, True, None),
    "log.every_steps": (1, True, None),
}


def validate(config: ConfigDict, reference: ConfigDict, train_size: int | None) -> list[str]:
    """Refuses an impossible config and returns warnings; `reference` has every section and field.

    Raises:
      UserError: the first thing that cannot be; value, field and remedy in one line.
    """
    _check_sections(config, reference)
    fields = dict(overrides.flatten(config.to_dict()))
    # The home of a value before what refers to it.
    for name, value in sorted(fields.items(), key=lambda field: field[0].count(".")):
        if value is None and name not in OPTIONAL and name.split(".")[0] not in FREE_SECTIONS:
            raise UserError(f"config.{name}=None is not optional; give it a value")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name}={value} is not a finite number")
    for name, known in CHOICES.items():
        _check_choice(name, fields.get(name, known[0]), known)
    for name, known in CHOICE_TUPLES.items():
        for value in fields[name]:
            _check_choice(name, value, known)
    for name, bounds in BOUNDS.items():
        if fields.get(name) is not None:
            _check_bounds(name, fields[name], *bounds)
    for name in ("eps", "attack.eps", "validation.attack.eps"):
        norm = fields[name.replace("eps", "norm")]
        check_eps(fields[name], norm, f"config.{name}")
    for attack in ("attack", "validation.attack"):
        if fields[f"{attack}.step_size"] <= 0:
            raise UserError(
                f"config.{attack}.step_size={fields[f'{attack}.step_size']} must be above 0; "
                "write 2/255"
            )
    _check_sizes(config, train_size)
    config_rules_data.check(fields)
    _check_large_batch(fields)
    return _warnings(fields)


def loaded_batch_size(batch_size: int, cutmix: int) -> int:
    """Images that a step loads: the batch, or, with CutMix, one of its `cutmix` equal versions.

    Epochs count loaded images: SCORE's code at 128 loaded images trains on batches of 4 * 128
    and takes 391 steps for 50,000 images.

    Args:
      batch_size: images that a step trains on.
      cutmix: CutMix versions of each loaded image; 0: no CutMix.

    Raises:
      UserError: a negative number of versions, or versions that do not divide the batch.
    """
    if cutmix < 0:
        raise UserError(f"config.data.cutmix={cutmix} is negative; give 0 (off) or more")
    if batch_size % max(1, cutmix):
        raise UserError(
            f"config.data.batch_size={batch_size} does not divide by data.cutmix={cutmix} "
            "versions, all of which it counts; give a multiple"
        )
    return batch_size // max(1, cutmix)


def check_eps(eps: float, norm: str, field: str = "eps") -> None:
    """Refuses a radius that is negative, not finite, or that was meant in units of 1/255.

    Raises:
      UserError: naming `field` and how to write the value.
    """
    if not math.isfinite(eps) or eps < 0:
        raise UserError(f"{field}={eps:g} is not a radius; give 0 or more, such as 8/255")
    if norm == "linf" and eps >= 1:
        raise UserError(
            f"{field}={eps:g} is not a radius in pixel units: images are in [0, 1]; "
            f"write {eps:g}/255"
        )


def _check_sections(config: ConfigDict, reference: ConfigDict) -> None:
    for section, value in reference.items():
        if section not in config:
            raise UserError(f"config.{section} is missing; start a recipe from config.default()")
        if not isinstance(value, ConfigDict):
            continue
        if "name" in value and "name" not in config[section]:
            raise UserError(f"config.{section} has no name; write config.{section}.name")
        if section in FREE_SECTIONS:
            continue
        for name, _ in overrides.flatten(value.to_dict()):
            if name not in dict(overrides.flatten(config[section].to_dict())):
                raise UserError(f"config.{section}.{name} is missing; start from config.default()")


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        close = nearest(str(value), known)
        hint = f"; did you mean {close!r}?" if close else ""
        raise UserError(f"config.{name}={value!r} is unknown; known: {', '.join(known)}{hint}")


def _check_bounds(name: str, value: float, low: float, closed: bool, high: float | None) -> None:
    if value < low or (value == low and not closed):
        raise UserError(f"config.{name}={value} must be {'at least' if closed else 'above'} {low}")
    if high is not None and value >= high:
        word = "at most 1.0" if high > 1 else f"below {high}"
        raise UserError(f"config.{name}={value} must be {word}")


def _check_sizes(config: ConfigDict, train_size: int | None) -> None:
    batch_size, groups = config.data.batch_size, config.batchnorm.groups
    if batch_size % groups:
        lower = batch_size - batch_size % groups
        near = f"{lower} or {lower + groups}" if lower else f"{groups}"
        raise UserError(
            f"config.data.batch_size={batch_size} must be divisible by config.batchnorm.groups="
            f"{groups}; use {near}"
        )
    loaded_batch_size(batch_size, config.data.cutmix)
    if config.data.cutmix and config.data.augmented_views > 1:
        raise UserError(
            "config.data.cutmix and config.data.augmented_views exclude each other; set one of them"
        )
    if train_size is not None and config.data.validation_size >= train_size:
        raise UserError(
            f"config.data.validation_size={config.data.validation_size} leaves nothing to "
            f"train on: {config.data.name} has {train_size} training images; use fewer"
        )


def _check_large_batch(fields: Mapping[str, Any]) -> None:
    warmup, epochs = fields["large_batch.warmup_epochs"], fields["num_epochs"]
    if warmup > epochs:
        raise UserError(
            f"config.large_batch.warmup_epochs={warmup} is longer than the run, num_epochs="
            f"{epochs}; give fewer"
        )


def _optimizer_warnings(fields: Mapping[str, Any]) -> Iterator[str]:
    name, momentum = fields["optimizer.name"], fields["optimizer.momentum"]
    if fields.get("schedule.cycle_momentum") and momentum != 0.9:
        yield (
            f"config.optimizer.momentum={momentum} is not used: the schedule cycles the momentum; "
            "set config.schedule.cycle_momentum=false"
        )
    elif name in ("adam", "lamb") and momentum != 0.9:
        yield f"config.optimizer.momentum={momentum} is not used: {name}'s first moment has 0.9"
    if name != "lars" and fields["optimizer.trust_coefficient"] != 0.001:
        yield (
            f"config.optimizer.trust_coefficient={fields['optimizer.trust_coefficient']} is not "
            f"used: {name} has none; it is of optimizer 'lars'"
        )
    reference = fields["large_batch.reference_batch_size"]
    if fields["large_batch.warmup_epochs"] and not reference:
        yield (
            f"config.large_batch.warmup_epochs={fields['large_batch.warmup_epochs']} is not used: "
            "set config.large_batch.reference_batch_size, the batch that the rate was made for"
        )
    if reference and name in ("adam", "lamb"):
        yield (
            f"config.large_batch.reference_batch_size={reference} scales the rate by the batch, a "
            f"rule for SGD; for {name} You et al. (2020) take the square root: write the rate out"
        )


def _warnings(fields: Mapping[str, Any]) -> list[str]:
    warnings = []
    eps = fields["eps"]
    if 0.0309 < eps < 0.0314 and abs(eps - 8 / 255) > 1e-6 and fields["norm"] == "linf":
        warnings.append(
            f"config.eps={eps} looks like 8/255={8 / 255:.6f} rounded; write 8/255 if that is meant"
        )
    if eps >= 10 and fields["norm"] == "l2":
        warnings.append(f"config.eps={eps:g} is large for l2 in pixel units; {eps:g}/255 meant?")
    if fields["label_smoothing_scope"] == "generated" and not fields["data.generated"]:
        if fields.get("objective.label_smoothing"):
            warnings.append(
                "config.label_smoothing_scope=generated and config.data.generated='': no label is "
                "smoothed"
            )
    if fields["init_from"] and (
        fields.get("batchnorm.first_step_momentum") == 1 or fields["batchnorm.debias"]
    ):
        field = "debias" if fields["batchnorm.debias"] else "first_step_momentum"
        warnings.append(
            f"config.batchnorm.{field}={fields[f'batchnorm.{field}']} forgets the running "
            f"statistics of config.init_from in the first step; set it to "
            f"{'false' if field == 'debias' else None} to keep them"
        )
    walks = ["attack"]
    if fields.get("validation.attack.name", "pgd") == "pgd":
        walks.append("validation.attack")  # Others find their own steps.
    for name in walks:
        reach = fields[f"{name}.step_size"] * fields[f"{name}.num_steps"]
        if 0 < reach < fields[f"{name}.eps"] * (1 - 1e-9):
            warnings.append(
                f"config.{name}.step_size*num_steps={reach:.4g} cannot reach the boundary of the "
                f"ball, eps={fields[f'{name}.eps']:.4g}, from the clean image"
            )
    return [*warnings, *_optimizer_warnings(fields), *config_rules_data.warnings(fields)]
