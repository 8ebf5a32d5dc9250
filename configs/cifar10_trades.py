"""TRADES on CIFAR-10: the SCORE repository's KL recipe, and the original (Zhang et al., ICML 2019).

Command:
  score-jax train --config=configs/cifar10_trades.py --workdir=DIR
  score-jax train --config=configs/cifar10_trades.py:recipe=original --workdir=DIR
  score-jax train --config=configs/cifar10_trades.py:smoke --workdir=DIR
Recipes:
  score     KL, beta 5, label smoothing .1, wrn-28-10-swish, 1M generated images, 400 epochs: the
            comparison of the SCORE repository's README.
  original  beta 6, wrn-34-10-relu, eps .031, 76 epochs, batch 128, start 0.001·normal, attack by
            running statistics.
Expected (published, clean / AutoAttack; not reproduced here): original 84.92 / 53.08 (RobustBench,
  eps .031); score has no published number.
Differs from the released code: the released original is the last epoch of all 50,000 images; here
1,024 of them select the best epoch (--checkpoint=last exports the last).
Cost: score as cifar10_score; original 29,716 steps of 128 images.

Arguments: recipe=score|original, model=NAME, threat=linf|l2, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, recipe="score", model="", threat="linf", smoke=False)
    config = common.default()
    common.one_of("recipe", arg.recipe, {"score": _score, "original": _original})(config)
    if arg.recipe == "original" and arg.threat != "linf":
        raise ValueError("recipe=original is for threat=linf: its attack is not defined for l2")
    common.set_threat(config, arg.threat)
    return common.finish(config, arg, "robustbench", "TRADES" if arg.recipe == "original" else "")


def _score(config):
    common.objective(config, "trades", beta=5.0, label_smoothing=0.1, smoothing="uniform")
    config.data.generated = "cifar10_ddpm"
    config.batchnorm.first_step_momentum = 1.0


def _original(config):
    common.objective(config, "trades", beta=6.0, label_smoothing=0.0, smoothing="uniform")
    common.trades_lineage(config)
    common.steps(config, 76, (74.0,))
    config.batchnorm.update_order = ("clean", "adversarial", "clean")
