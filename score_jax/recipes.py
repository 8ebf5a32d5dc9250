"""From a config to the objects of a run. Nothing is computed here, so mistakes show at once."""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from score_jax import attacks, microbatches, models, objectives, optimizers
from score_jax import config as config_lib
from score_jax import overrides as overrides_module
from score_jax.attacks.apgd import SMALLEST_NUM_CLASSES
from score_jax.data import augment, sources
from score_jax.data.datasets import DatasetSpec
from score_jax.evaluation import APGDJudge, Judge, create_judge
from score_jax.recipe import EXTRA_UPDATES, FIRST_UPDATES, Recipe
from score_jax.types import UserError, lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a config describes.

    Attributes:
      recipe: everything the step depends on.
      rates: the schedules, for the log.
      classifier: the network at the precision of evaluation.
      judge: the validation attack.
      steps_per_epoch, num_train_steps: of the optimizer.
    """

    recipe: Recipe
    rates: optimizers.Rates
    classifier: models.Classifier
    judge: Judge | APGDJudge
    steps_per_epoch: int
    num_train_steps: int


# What a recipe may leave out of its model section.
MODEL_DEFAULTS = dict(remat=False, dropout=0.0, init="torch")


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """`config.load`, with every field of the objective and the model written out.

    So each can be overridden, and each stands in the log and in the run's config.json. An override
    of objective.name begins with that method's own defaults.

    Raises:
      UserError: what `config.load` and `config.validate` refuse, or a model field that is none.
    """
    config = overrides_module.load_recipe(path)
    method = config.objective.name
    for text in overrides:
        field, _, value = text.partition("=")
        method = value.strip() if field.removeprefix("config.") == "objective.name" else method
    if method in objectives.OBJECTIVES and method != config.objective.name:
        with config.unlocked():
            config.objective = ConfigDict(dict(name=method))
    sections = {"model": (config.model, MODEL_DEFAULTS)}
    if kind := objectives.OBJECTIVES.get(config.objective.name):
        sections["objective"] = (config.objective, objectives.defaults(kind))
    with config.unlocked():
        for section, defaults in sections.values():
            for field, default in defaults.items():
                if field not in section:
                    section[field] = default
    for field in config.model:
        if field not in ("name", *MODEL_DEFAULTS):
            raise UserError(
                f"config.model has no field {field!r}; it has name, {', '.join(MODEL_DEFAULTS)}"
            )
    return overrides_module.apply(config, overrides)


def create_classifier(
    config: ConfigDict, spec: DatasetSpec, precision: str, parts: int = 1
) -> models.Classifier:
    """The network of a config at one of `precision`'s three values.

    Args:
      parts: that a batch comes in; each holds its share of the BatchNorm groups.
    """
    return models.create(
        config.model.name,
        num_classes=spec.num_classes,
        image_shape=spec.image_shape,
        mean=spec.mean,
        std=spec.std,
        precision=precision,
        remat=config.model.get("remat", False),
        batchnorm_groups=max(config.batchnorm.groups // parts, 1),
        batchnorm_unbiased=config.batchnorm.unbiased,
        dropout=config.model.get("dropout", 0.0),
        init=config.model.get("init", "torch"),
    )


def build(config: ConfigDict) -> Run:
    """The objects of a config that `config.validate` accepts.

    Raises:
      UserError: a name or number that nothing can be built from.
    """
    spec = sources.spec(config.data.name, config.data.dir)
    train_size = spec.split_sizes["train"]
    if spec.any_size and train_size is None:
        raise UserError(
            f"config.data.name={config.data.name} is not prepared in "
            f"{sources.data_folder(config.data.dir)}, and only then its size is known; run: "
            f"{sources.prepare_command(config.data.name)}"
        )
    if spec.extends or train_size is None:
        raise UserError(
            f"config.data.name={config.data.name} is a generated set; train on {spec.extends} "
            f"with --config.data.generated={config.data.name}"
        )
    steps_per_epoch = config_lib.steps_per_epoch(config, train_size)
    objective = objectives.create(**config.objective)
    fields = dict(config.attack)
    statistics = models.NormalizeBy(fields.pop("statistics"))
    update_order = _update_order(config, objective, statistics)
    _check_combinations(config, objective)
    attack_dropout, warmup_steps = fields.pop("dropout"), fields.pop("warmup_steps")
    attack = None
    if objective.forwards != ("clean",):
        attack = objective.attack(attacks.create(**fields))
    rates = optimizers.create_rates(
        **config.schedule,
        num_epochs=config.num_epochs,
        steps_per_epoch=steps_per_epoch,
        momentum=config.optimizer.momentum,
    )
    if config.large_batch.reference_batch_size:
        rates = optimizers.scaled(
            rates,
            config.data.batch_size / config.large_batch.reference_batch_size,
            config.large_batch.warmup_epochs * steps_per_epoch,
        )
    parts = config.data.microbatches
    classifier = create_classifier(config, spec, config.precision.train, parts)
    optimizer = {name: value for name, value in config.optimizer.items() if name != "momentum"}
    # The SCORE code counts floor(N / batch) + 1 updates an epoch here, whatever the loader has.
    loaded = config_lib.loaded_images(config)
    updates_per_epoch = config.steps_per_epoch or train_size // loaded + 1
    warmup = config.ema.warmup_fraction * config.num_epochs * updates_per_epoch
    recipe = Recipe(
        classifier=classifier,
        attack_classifier=create_classifier(config, spec, config.precision.attack, parts),
        objective=objective,
        attack=attack,
        attack_statistics=statistics,
        attack_dropout=attack_dropout,
        attack_warmup_steps=warmup_steps,
        update_order=update_order,
        first_step_momentum=config.batchnorm.first_step_momentum,
        debias=config.batchnorm.debias,
        loss_reduction=config.loss_reduction,
        label_smoothing_scope=config.label_smoothing_scope,
        awp_gamma=config.awp.gamma,
        awp_start_epoch=config.awp.start_epoch,
        optimizer=optimizers.create(rates, classifier.roles, **optimizer),
        num_classes=spec.num_classes,
        augment=lookup(augment.AUGMENTATIONS, "config.data.augmentation", config.data.augmentation),
        ema_decay=config.ema.decay,
        augmented_views=config.data.augmented_views,
        cutmix=config.data.cutmix,
        emulated_workers=config.data.emulated_workers,
        microbatches=parts,
        ema_warmup_steps=warmup if config.ema.warmup_steps < 0 else config.ema.warmup_steps,
        steps_per_epoch=steps_per_epoch,
        num_epochs=config.num_epochs,
        log_every_steps=config.log.every_steps,
    )
    microbatches.check(config, recipe)
    return Run(
        recipe=recipe,
        rates=rates,
        classifier=create_classifier(config, spec, config.precision.evaluation),
        judge=_judge(config, spec.num_classes),
        steps_per_epoch=steps_per_epoch,
        num_train_steps=config_lib.num_train_steps(config, train_size),
    )


def _judge(config: ConfigDict, num_classes: int) -> Judge | APGDJudge:
    judge = create_judge(**config.validation.attack)
    name, least = config.validation.attack.get("name"), SMALLEST_NUM_CLASSES["targeted_dlr"]
    if name == "apgd-t" and num_classes < least:
        raise UserError(
            f"config.validation.attack.name=apgd-t needs {least} classes or more, "
            f"{config.data.name} has {num_classes}; use apgd-ce or pgd"
        )
    return judge


def _update_order(config: ConfigDict, objective, statistics) -> tuple[str, ...]:
    """The forward passes that record statistics, checked against those that there are."""
    order, passes = tuple(config.batchnorm.update_order), ", ".join(objective.forwards)
    if objective.forwards != ("joint",) and not set(order) & set(objective.forwards):
        raise UserError(
            f"config.batchnorm.update_order={order} records none of the forward passes of "
            f"objective {config.objective.name!r}: {passes}; name one"
        )
    known = (*objective.forwards, *EXTRA_UPDATES, "clean", "adversarial")
    if order != tuple(sorted(order, key=_place)):
        raise UserError(
            f"config.batchnorm.update_order={order} is not the order in which the passes run: "
            f"{' and '.join(FIRST_UPDATES)} come first, updated_clean comes last"
        )
    for name in order:
        if name not in known:
            raise UserError(
                f"config.batchnorm.update_order names {name!r}, which objective "
                f"{config.objective.name!r} has not; it has {passes}, {', '.join(EXTRA_UPDATES)}"
            )
    if set(order) & set(FIRST_UPDATES) and objective.forwards == ("clean",):
        raise UserError(
            f"config.batchnorm.update_order={order} names the attack, and objective "
            f"{config.objective.name!r} has none"
        )
    if set(order) & set(FIRST_UPDATES) and statistics is not models.NormalizeBy.BATCH:
        raise UserError(
            "config.batchnorm.update_order names the attack, whose passes record only with "
            "config.attack.statistics=batch"
        )
    if config.batchnorm.debias and config.batchnorm.first_step_momentum is not None:
        raise UserError(
            "config.batchnorm.debias=true and config.batchnorm.first_step_momentum exclude each "
            "other; set one"
        )
    return order


def _place(name: str) -> int:
    """Where in a step a recording pass stands: before, among or after the outer passes."""
    return FIRST_UPDATES.index(name) - 2 if name in FIRST_UPDATES else name == "updated_clean"


def _check_combinations(config: ConfigDict, objective) -> None:
    """Refuses choices that are sound alone and would silently mean something else together."""
    name = config.objective.name
    if config.data.cutmix and not objective.takes_mixtures:
        raise UserError(
            f"config.data.cutmix={config.data.cutmix} mixes labels, which objective {name!r} "
            "cannot use; set it to 0, or train with standard, trades, score or distance_trades"
        )
    if getattr(objective, "cutmix", False) and not config.data.cutmix:
        raise UserError(
            "config.objective.cutmix=true attacks the mixed labels and there are none; set "
            "config.data.cutmix, the number of versions, too"
        )
    if getattr(objective, "consistency_weight", 0) and config.data.augmented_views != 2:
        raise UserError(
            f"config.objective.consistency_weight={objective.consistency_weight} compares two "
            "views of each image; set config.data.augmented_views=2"
        )
    from_clean = objective.needs_clean_logits and not getattr(objective, "cutmix", False)
    if from_clean and config.attack.start == "zero" and config.attack.zero_gradient != "noise":
        raise UserError(
            f"config.attack.start=zero: what objective {name!r} attacks has no gradient at the "
            "clean image; start with 'uniform' or 'normal'"
        )
    if config.optimizer.name in ("adam", "lamb") and config.schedule.get("cycle_momentum"):
        raise UserError(
            "config.schedule.cycle_momentum=true has no effect on optimizer "
            f"{config.optimizer.name!r}; set it to false"
        )
    if any(patience < 0 for patience in config.attack.patience):
        raise UserError(f"config.attack.patience={config.attack.patience} must be 0 or more each")
