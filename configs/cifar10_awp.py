"""Adversarial weight perturbation on CIFAR-10 (Wu et al., NeurIPS 2020): AT-AWP and TRADES-AWP.

Command:
  score-jax train --config=configs/cifar10_awp.py:objective=trades --workdir=DIR
  score-jax train --config=configs/cifar10_awp.py:objective=at --workdir=DIR
  score-jax train --config=configs/cifar10_awp.py:smoke --workdir=DIR
Expected (published, clean / AutoAttack, wrn-34-10-relu; not reproduced here):
  objective=trades 85.36 / 56.17 (SCORE's table), objective=at 86.23 / 53.97 (their logs)
Objectives:
  trades  gamma .005 from the tenth epoch, beta 6, attack on running statistics from 0.001·normal.
  at      gamma .01 from the start, the code of Rice et al. otherwise (cifar10_madry).
Differs from the released code: AT-AWP attacks each epoch's first batch on running statistics there
and selects on the test set; TRADES-AWP does not select (--checkpoint=last exports the last epoch).
Cost: 78,200 steps of 128 images, 33 (trades) or 28 (at) forward-equivalents each.

Arguments: objective=trades|at, model=NAME, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, objective="trades", model="", smoke=False)
    config = common.default()
    common.one_of("objective", arg.objective, {"trades": _trades, "at": _at})(config)
    config.model.name = "wrn-34-10-relu" + ("-normalized" if arg.objective == "at" else "")
    return common.finish(config, arg, "score", "Wu20" if arg.objective == "trades" else "")


def _trades(config):
    common.objective(config, "trades", beta=6.0)
    common.trades_lineage(config, weight_decay=5e-4)
    config.eps = 8 / 255
    config.attack.step_size = 2 / 255
    common.validation_attack(config, num_steps=20, step_size=2 / 255)
    common.steps(config, 200, (99.0, 149.0))
    config.batchnorm.update_order = ("adversarial", "clean", "clean")
    config.awp.gamma = 0.005
    config.awp.start_epoch = 9


def _at(config):
    common.objective(config, "madry")
    common.rice_lineage(config)
    common.validation_attack(config, num_steps=20, step_size=2 / 255)
    config.awp.gamma = 0.01
