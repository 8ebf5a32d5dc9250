"""SCORE on CIFAR-100 with 1M generated images, L∞ 8/255 (Pang et al., ICML 2022, "SE").

Command:
  score-jax train --config=configs/cifar100_score.py:beta=3 --workdir=DIR
  score-jax train --config=configs/cifar100_score.py:smoke --workdir=DIR
Data: score-jax data prepare cifar100 --source=cifar-100-python.tar.gz
      score-jax data prepare cifar100_ddpm --source=cifar100_ddpm.npz
Expected (published, clean / AutoAttack; not reproduced here):
  wrn-28-10-swish beta=3 63.66 / 31.08, beta=4 62.08 / 31.40
  wrn-70-16-swish beta=3 65.56 / 33.05, beta=4 63.99 / 33.65
  (score-jax report --table=score)
Differs from CIFAR-10: each image is also rotated by up to 15 degrees.
Differs from the released code: one BatchNorm group; its number is not stated.
Cost: 39,200 steps of 512 images, 27 forward-equivalents each.

Arguments: model=NAME, beta=NUMBER, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, model="", beta=4.0, smoke=False)
    config = common.default()
    config.objective.beta = arg.beta
    config.data.generated = "cifar10_ddpm"
    common.cifar100(config)
    config.data.augmentation = "pad_crop_flip_rotate"
    config.batchnorm.first_step_momentum = 1.0
    return common.finish(config, arg, "score", f"CIFAR-100 SE beta={arg.beta:g}")
