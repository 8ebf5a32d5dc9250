"""TRADES on CIFAR-10: the SCORE repository's KL recipe, and the original (Zhang et al., ICML 2019).

Command:
  score-jax train --config=configs/cifar10_trades.py --workdir=DIR
  score-jax train --config=configs/cifar10_trades.py:recipe=original --workdir=DIR
  score-jax train --config=configs/cifar10_trades.py:smoke --workdir=DIR
Recipes:
  score     KL, beta 5, label smoothing .1, wrn-28-10-swish, 1M generated images, 400 epochs: the
            comparison of the SCORE repository's README. No published number of its own there.
  original  beta 6, wrn-34-10-relu, eps .031, 76 epochs, batch 128, start 0.001·normal, attack by
            running statistics; published 84.92 / 53.08 AutoAttack (RobustBench, eps .031; not
            reproduced here). The released model is the last epoch of all 50,000 images; here
            1,024 of them select the best epoch (--checkpoint=last exports the last).
Cost: score as cifar10_score; original 29,716 steps of 128 images.

Arguments: recipe=score|original, model=NAME, threat=linf|l2, smoke.
"""

from configs import common

MODELS = {"score": "wrn-28-10-swish", "original": "wrn-34-10-relu"}


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, recipe="score", model="", threat="linf", smoke=False)
    if arg.recipe not in MODELS:
        raise ValueError(f"unknown recipe {arg.recipe!r}; known: {', '.join(MODELS)}")
    if arg.recipe == "original" and arg.threat != "linf":
        raise ValueError("recipe=original is for threat=linf: its attack is not defined for l2")
    config = common.default()
    with config.unlocked():
        config.objective = dict(name="trades", beta=5.0, label_smoothing=0.1, smoothing="uniform")
    config.model.name = MODELS[arg.recipe]
    common.set_threat(config, arg.threat)
    if arg.recipe == "score":
        config.data.generated = "cifar10_ddpm"
        config.batchnorm.first_step_momentum = 1.0
    else:
        _original(config)
    if arg.smoke:
        common.cifar10_smoke(config)
    if arg.model:
        config.model.name = arg.model
    return config


def _original(config):
    with config.unlocked():
        config.eps = 0.031
        config.num_epochs = 76
        config.data.batch_size = 128
        config.objective.beta = 6.0
        config.objective.label_smoothing = 0.0
        config.attack.step_size = 0.007
        config.attack.start = "normal"
        config.attack.statistics = "running"
        config.batchnorm.update_order = ("clean", "adversarial", "clean")
        config.optimizer.nesterov = False
        config.optimizer.weight_decay = 2e-4
        config.optimizer.weight_decay_roles = ("kernel", "bias", "batchnorm")
        config.schedule = dict(name="step", learning_rate=0.1, unit="epoch", boundaries=(74.0,))
        config.ema.decay = 0.0
