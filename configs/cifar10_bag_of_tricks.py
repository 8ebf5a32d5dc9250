"""Bag of tricks for adversarial training on CIFAR-10 (Pang et al., ICLR 2021).

Command:
  score-jax train --config=configs/cifar10_bag_of_tricks.py --workdir=DIR
  score-jax train --config=configs/cifar10_bag_of_tricks.py:method=at --workdir=DIR
  score-jax train --config=configs/cifar10_bag_of_tricks.py:smoke --workdir=DIR
Expected (published, clean / AutoAttack, trades; not reproduced here): wrn-34-20-relu 86.43 / 54.39,
  wrn-34-10-relu 85.48 / 53.80 (SCORE's table has the first).
Methods: trades is TRADES with their decay of 5e-4 and 110 epochs (their published rows; run there
by code outside their repository, of which epochs counted from 1, eps 8/255 and steps of 2/255 are
assumed here); at is their own training with `--BNeval`, wrn-34-10-relu-normalized.
Differs from the released code: 1,024 training images select, not the test set.
Cost: 43,010 steps of 128 images, 27 (trades) or 25 (at) forward-equivalents each.

Arguments: method=trades|at, label_smoothing=NUMBER (at), model=NAME, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, method="trades", label_smoothing=0.0, model="", smoke=False)
    common.one_of("method", arg.method, dict.fromkeys(("trades", "at")))
    config = common.default()
    common.trades_lineage(config, weight_decay=5e-4)
    config.eps = 8 / 255
    config.attack.step_size = 2 / 255
    common.validation_attack(config, num_steps=10, step_size=2 / 255)
    config.model.name = "wrn-34-20-relu"
    if arg.method == "trades":
        common.objective(config, "trades", beta=6.0)
        common.steps(config, 110, (99.0, 104.0))
        config.batchnorm.update_order = ("clean", "adversarial", "clean")
    else:
        common.objective(config, "madry", label_smoothing=arg.label_smoothing, smoothing="others")
        common.steps(config, 110, (100.0, 105.0), unit="fractional_epoch")
        config.model.name = "wrn-34-10-relu-normalized"
        config.attack.start = "uniform"
        config.data.augmentation = "reflect_crop_flip"
        config.batchnorm.update_order = ("adversarial", "unused_clean", "updated_clean")
    return common.finish(config, arg, "score", "Pang21" if arg.method == "trades" else "")
