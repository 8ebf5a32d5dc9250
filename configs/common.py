"""What recipes share: the default config and the argument after the colon, `PATH:ARG`."""

import difflib
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

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


def cifar10_smoke(config: ConfigDict) -> None:
    """Shrinks a CIFAR-10 recipe to 500 steps of WRN-10-2 on real images: a laptop's half hour."""
    with config.unlocked():
        config.num_epochs = 10
        config.steps_per_epoch = 50
        config.data.batch_size = 128
        config.data.generated = ""
        config.data.validation_size = 512
        config.model.name = "wrn-10-2-swish"
        config.schedule = dict(
            name="one_cycle",
            learning_rate=0.4,
            unit="step",
            warmup_fraction=0.1,
            cycle_momentum=True,
        )
        config.validation.every_epochs = 2
        config.validation.batch_size = 128
        config.validation.attack.num_steps = 20
        config.checkpoint.every_epochs = 1
        config.log.every_steps = 10
