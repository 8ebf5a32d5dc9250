"""From a config to the objects of a run. Nothing is computed here, so mistakes show at once."""

import dataclasses

from ml_collections import ConfigDict

from score_jax import attacks, models, objectives, optimizers
from score_jax import config as config_lib
from score_jax.data import augment, sources
from score_jax.data.sources import DatasetSpec
from score_jax.evaluation import Judge
from score_jax.train_step import Recipe
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
    judge: Judge
    steps_per_epoch: int
    num_train_steps: int


def create_classifier(config: ConfigDict, spec: DatasetSpec, precision: str) -> models.Classifier:
    """The network of a config at one of `precision`'s three values."""
    return models.create(
        config.model.name,
        num_classes=spec.num_classes,
        image_shape=spec.image_shape,
        mean=spec.mean,
        std=spec.std,
        precision=precision,
        remat=config.model.remat,
        batchnorm_groups=config.batchnorm.groups,
    )


def build(config: ConfigDict) -> Run:
    """The objects of a config that `config.validate` accepts.

    Raises:
      UserError: a name or number that nothing can be built from.
    """
    spec = lookup(sources.DATASETS, "config.data.name", config.data.name)
    train_size = spec.split_sizes["train"]
    if train_size is None:
        raise UserError(
            f"config.data.name={config.data.name} is a generated set; train on {spec.extends} "
            f"with --config.data.generated={config.data.name}"
        )
    steps_per_epoch = config_lib.steps_per_epoch(config, train_size)
    objective = objectives.create(**config.objective)
    update_order = tuple(config.batchnorm.update_order)
    if objective.forwards != ("joint",) and not set(update_order) & set(objective.forwards):
        raise UserError(
            f"config.batchnorm.update_order={update_order} records none of the forward passes of "
            f"objective {config.objective.name!r}: {', '.join(objective.forwards)}; name one"
        )
    fields = dict(config.attack)
    statistics = models.NormalizeBy(fields.pop("statistics"))
    rates = optimizers.create_rates(
        **config.schedule,
        num_epochs=config.num_epochs,
        steps_per_epoch=steps_per_epoch,
        momentum=config.optimizer.momentum,
    )
    classifier = create_classifier(config, spec, config.precision.train)
    optimizer = {name: value for name, value in config.optimizer.items() if name != "momentum"}
    # The SCORE code counts floor(N / batch) + 1 updates an epoch here, whatever the loader has.
    updates_per_epoch = config.steps_per_epoch or train_size // config.data.batch_size + 1
    recipe = Recipe(
        classifier=classifier,
        attack_classifier=create_classifier(config, spec, config.precision.attack),
        objective=objective,
        attack=None if objective.forwards == ("clean",) else attacks.create(**fields),
        attack_statistics=statistics,
        update_order=update_order,
        first_step_momentum=config.batchnorm.first_step_momentum,
        optimizer=optimizers.create(rates, classifier.roles, **optimizer),
        num_classes=spec.num_classes,
        augment=lookup(augment.AUGMENTATIONS, "config.data.augmentation", config.data.augmentation),
        ema_decay=config.ema.decay,
        ema_warmup_steps=config.ema.warmup_fraction * config.num_epochs * updates_per_epoch,
        log_every_steps=config.log.every_steps,
    )
    fields = dict(config.validation.attack)
    judge = Judge(loss=fields.pop("loss"), attack=attacks.create(**fields))
    return Run(
        recipe=recipe,
        rates=rates,
        classifier=create_classifier(config, spec, config.precision.evaluation),
        judge=judge,
        steps_per_epoch=steps_per_epoch,
        num_train_steps=config_lib.num_train_steps(config, train_size),
    )
