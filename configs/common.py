"""What recipes share: the default config, the argument after the colon, `PATH:ARG`, and what the
families of published code have in common."""

import difflib
import re
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from configs import published
from score_jax import config as config_module
from score_jax import overrides


def default() -> ConfigDict:
    """A fresh copy of `score_jax.config.default()`, for a recipe to change."""
    return config_module.default()


def parse_arg(arg: str | None, **defaults: Any) -> SimpleNamespace:
    """The argument of a recipe, `'model=wrn-34-20,smoke'`, as typed attributes.

    Args:
      arg: comma-separated `name=value`; a boolean is also set by its bare name.
      **defaults: every known name with its default, which also gives its type.

    Raises:
      ValueError: an unknown name (the known ones are listed), or a value of another type.
    """
    values = dict(defaults)
    for word in (part.strip() for part in (arg or "").split(",")):
        if not word:
            continue
        name, equals, text = word.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown argument {name!r}; known: {', '.join(defaults)}{hint}")
        kind = type(defaults[name])
        if not equals and kind is not bool:
            raise ValueError(f"argument {name!r} needs a value: {name}={defaults[name]}")
        try:
            values[name] = overrides.parse_scalar(text if equals else "true", kind)
        except ValueError:
            raise ValueError(f"argument {name}={text!r} is not {overrides.KINDS[kind]}") from None
    return SimpleNamespace(**values)


def digits(smoke: bool = False) -> ConfigDict:
    """What the recipes for scikit-learn's digits share; `smoke` is a run of seconds."""
    config = default()
    with config.unlocked():
        config.eps = 0.2
        config.num_epochs = 2 if smoke else 60
        config.data.name = "digits"
        config.data.batch_size = 64
        config.data.validation_size = 128
        config.data.augmentation = "none"
        config.model = dict(name="cnn-3", remat=False)
        config.attack.step_size = 0.05
        config.attack.num_steps = 2 if smoke else 10
        config.validation.every_epochs = 1 if smoke else 5
        config.validation.batch_size = 128
        config.validation.attack.step_size = 0.02
        config.validation.attack.num_steps = 4 if smoke else 40
        config.schedule = dict(
            name="one_cycle",
            learning_rate=0.2,
            unit="step",
            warmup_fraction=0.1,
            cycle_momentum=True,
        )
        config.ema.decay = 0.98
        config.checkpoint.every_epochs = 1 if smoke else 5
        config.log.every_steps = 6 if smoke else 12
    return config


def set_threat(config: ConfigDict, threat: str) -> None:
    """L∞ 8/255 with steps of 2/255, or L2 128/255 as the SCORE code attacks it: steps of 2·eps/K
    from a start of 0.001·normal, noise where the gradient is zero; validation steps of 15/255.
    The step is set here, for 128/255 and 10 steps; whoever overrides eps or K sets it too.

    Raises:
      ValueError: another name.
    """
    if threat not in ("linf", "l2"):
        raise ValueError(f"unknown threat {threat!r}; known: linf, l2")
    if threat == "l2":
        config.norm = "l2"
        config.eps = 128 / 255
        config.attack.step_size = 2 * config.eps / config.attack.num_steps
        config.attack.start = "normal"
        config.attack.zero_gradient = "noise"
        config.validation.attack.step_size = 15 / 255


def plain_sgd(config: ConfigDict, weight_decay: float, momentum: float = 0.9) -> None:
    """SGD of the ReLU lineage: no Nesterov, everything decays; no averaged weights."""
    config.optimizer.nesterov = False
    config.optimizer.momentum = momentum
    config.optimizer.weight_decay = weight_decay
    config.optimizer.weight_decay_roles = ("kernel", "bias", "batchnorm")
    config.ema.decay = 0.0


def steps(
    config: ConfigDict, num_epochs: int, boundaries: tuple[float, ...], *,
    learning_rate: float = 0.1, factors: tuple[float, ...] = (), unit: str = "epoch",
) -> None:  # fmt: skip
    """A rate that falls at `boundaries`, epochs from 0: to a tenth each, or by `factors`."""
    schedule = dict(name="step", learning_rate=learning_rate, unit=unit, boundaries=boundaries)
    with config.unlocked():
        config.num_epochs = num_epochs
        config.schedule = schedule | (dict(factors=factors) if factors else {})


def objective(config: ConfigDict, name: str, **fields: Any) -> None:
    """The training method; fields that are not given have the method's own defaults."""
    with config.unlocked():
        config.objective = dict(name=name, **fields)


def trades_lineage(config: ConfigDict, weight_decay: float = 2e-4) -> None:
    """What the code of TRADES, MART, FAT and GAIRAT shares: batches of 128 unnormalised images,
    eps .031 in steps of .007 from 0.001·normal, an attack on the running statistics."""
    config.eps = 0.031
    config.attack.step_size = 0.007
    config.attack.start = "normal"
    config.attack.statistics = "running"
    config.data.batch_size = 128
    config.model.name = "wrn-34-10-relu"
    plain_sgd(config, weight_decay)
    # GAIRAT's models are chosen by PGD-20 with cross-entropy; the others do not choose.
    validation_attack(config, num_steps=20, step_size=0.031 / 4)


def rice_lineage(config: ConfigDict) -> None:
    """What the code of Rice et al. and of AT-AWP shares: batches of 128, 200 epochs, rates that
    fall within an epoch, an attack whose forward passes move BatchNorm's averages."""
    config.data.batch_size = 128
    config.data.augmentation = "reflect_crop_flip"
    config.attack.statistics = "batch"
    config.batchnorm.update_order = ("attack", "attacked", "adversarial", "updated_clean")
    plain_sgd(config, 5e-4)
    steps(config, 200, (100.0, 150.0), unit="fractional_epoch")
    # `--val` of their code: 1,000 training images and PGD-10 choose the model.
    config.data.validation_size = 1000
    validation_attack(config, num_steps=10, step_size=2 / 255)


def validation_attack(config: ConfigDict, *, num_steps: int, step_size: float) -> None:
    """Selection by cross-entropy PGD."""
    config.validation.attack.loss = "cross_entropy"
    config.validation.attack.num_steps = num_steps
    config.validation.attack.step_size = step_size


def deepmind(config: ConfigDict, recipe: str, generated: str, cutmix: bool) -> None:
    """The JAX code of Gowal et al. (2020, 2021) and Rebuffi et al. (2021): TRADES with Adam inside.

    Args:
      recipe: 'gowal20' (batch 512, 200 epochs, real images only), 'rebuffi21' (1024, 800) or
        'gowal21' (1024, 2000).
      generated: the set that the last two add, 70% of each batch.
      cutmix: mix images (Rebuffi et al.).
    """
    lengths = {"gowal20": (512, 200), "rebuffi21": (1024, 800), "gowal21": (1024, 2000)}
    config.data.batch_size, config.num_epochs = one_of("recipe", recipe, lengths)
    config.data.generated = "" if recipe == "gowal20" else generated
    config.data.emulated_workers = 4  # They read the same real images.
    config.data.cutmix = int(cutmix)
    smoothing = 0.0 if recipe == "gowal20" else 0.1
    # With CutMix the attack leaves the mixed labels, not the clean prediction.
    fields = dict(label_smoothing=smoothing, smoothing="uniform", cutmix=cutmix)
    objective(config, "trades", beta=6.0, **fields)
    config.label_smoothing_scope = "generated"
    config.attack.rule = "adam"
    config.attack.step_size = 0.1
    config.attack.step_schedule = (1.0, 0.1)
    config.batchnorm.update_order = ("adversarial",)
    config.batchnorm.unbiased = False
    config.batchnorm.debias = True
    config.model.name = "wrn-70-16-swish"
    config.model.init = "haiku"
    steps_per_epoch = -(-50000 // config.data.batch_size)
    with config.unlocked():
        config.schedule = dict(
            name="cosine",
            learning_rate=0.1 * config.data.batch_size / 256,
            unit="step",
            warmup=10.0 * steps_per_epoch,
        )
    config.ema.warmup_steps = 1


def cifar100(config: ConfigDict) -> None:
    """CIFAR-100 in place of CIFAR-10, with the generated set of the same kind."""
    config.data.name = "cifar100"
    config.data.generated = config.data.generated.replace("cifar10_", "cifar100_")


def one_of(name: str, value: str, known: Any) -> Any:
    """What `known` holds for the argument `name`.

    Raises:
      ValueError: an unknown value; the known ones are listed.
    """
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    return known[value]


def finish(config: ConfigDict, arg: SimpleNamespace, table: str = "", row: str = "") -> ConfigDict:
    """The last step of a recipe: `smoke`, `model=NAME`, and the published row that this is.

    Args:
      arg: with `smoke` and `model`; '' for the recipe's own.
      table, row: of `published.TABLES`; the row's name goes on with that of the network. Where
        there is no such row, and for `smoke`, the config names none.
    """
    if arg.smoke:
        smoke(config)
    if arg.model:
        config.model.name = arg.model
    name = f"{row} {config.model.name}"
    if table and not arg.smoke and name in published.TABLES[table].rows:
        config.published.table = table
        config.published.row = name
    return config


def smoke(config: ConfigDict) -> None:
    """Shrinks a recipe to 500 steps of WRN-10-2 on real images, a laptop's half hour.

    The method stays: objective, attack, statistics and the kind of schedule. What happens at an
    epoch happens at the same share of the ten epochs.
    """
    share = 10 / config.num_epochs

    def moved(epochs):
        return tuple(type(epoch)(max(1, round(epoch * share))) for epoch in epochs)

    with config.unlocked():
        config.num_epochs = 10
        config.steps_per_epoch = 50
        config.data.batch_size = min(config.data.batch_size, 128)
        config.data.update(generated="", generated_fraction=0.7)
        config.data.validation_size = 512
        kind = re.search(r"(swish|relu|relu-normalized)$|$", config.model.name).group()
        config.model.name = f"wrn-10-2-{kind or 'relu'}"
        if config.schedule.name == "one_cycle":
            config.schedule.learning_rate = 0.4
            config.schedule.unit = "step"
            config.schedule.warmup_fraction = 0.1
        elif config.schedule.name == "cosine" and "warmup" in config.schedule:
            config.schedule.warmup = 50.0
        elif config.schedule.name == "step":
            config.schedule.boundaries = moved(config.schedule.boundaries)
        if "burn_in_epochs" in config.objective:
            (config.objective.burn_in_epochs,) = moved([config.objective.burn_in_epochs])
        config.attack.patience_epochs = moved(config.attack.patience_epochs)
        if config.awp.start_epoch:
            (config.awp.start_epoch,) = moved([config.awp.start_epoch])
        config.validation.every_epochs = 2
        config.validation.batch_size = 128
        config.validation.attack.num_steps = min(config.validation.attack.num_steps, 20)
        config.checkpoint.every_epochs = 1
        config.log.every_steps = 10
