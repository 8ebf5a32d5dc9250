"""PGD adversarial training on CIFAR-10 with early stopping (Madry et al. 2018; Rice et al. 2020).

Command:
  score-jax train --config=configs/cifar10_madry.py --workdir=DIR
  score-jax train --config=configs/cifar10_madry.py:model=wrn-34-20-relu-normalized --workdir=DIR
  score-jax train --config=configs/cifar10_madry.py:smoke --workdir=DIR
Expected (published by Rice et al., in SCORE's table; not reproduced here):
  wrn-34-20-relu-normalized 85.34 clean / 53.42 AutoAttack, the best of 200 epochs (the 101st).
As in their code: attack on batch statistics, each of whose passes moves BatchNorm's averages, one
more after it and a clean one after the update; a rate by the iteration; padding by reflection.
Differs from it: its published model is the best on the test set, here 1,000 training images choose
by PGD-10 (its own `--val`).
Cost: 78,200 steps of 128 images, 10·2 + 3 + 2 = 25 forward-equivalents each.

Arguments: model=NAME, threat=linf|l2, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, model="", threat="linf", smoke=False)
    config = common.default()
    config.model.name = "preact-resnet-18-relu-normalized"
    common.objective(config, "madry", keep_clean=False, label_smoothing=0.0, smoothing="uniform")
    common.rice_lineage(config)
    common.set_threat(config, arg.threat)
    if arg.threat == "l2":  # PGD-AT's own: a random start on the sphere.
        config.attack.start = "uniform"
        config.attack.step_size = 15 / 255
        config.attack.zero_gradient = "stay"
    return common.finish(config, arg, "score", "Rice20" if arg.threat == "linf" else "")
