"""TRADES on CIFAR-100 with images of EDM (Wang et al., ICML 2023).

Command:
  score-jax train --config=configs/cifar100_wang.py --workdir=DIR
  score-jax train --config=configs/cifar100_wang.py:smoke --workdir=DIR
Data: score-jax data prepare cifar100 --source=cifar-100-python.tar.gz
      score-jax data prepare cifar100_edm_50m --source=50m_part1.npz --source=50m_part2.npz ...
Expected (published, clean / AutoAttack, 50M images; not reproduced here):
  wrn-28-10-swish 72.58 / 38.83, wrn-70-16-swish 75.22 / 42.67
Their batch and epochs are not stated; here they are those of the README's 1M run on CIFAR-10.
Differs from CIFAR-10: each image is also rotated by up to 15 degrees, as in the SCORE code.
Cost: 39,200 steps of 512 images, 27 forward-equivalents each.

Arguments: generated=cifar100_edm|cifar100_edm_50m, model=NAME, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, generated="cifar100_edm_50m", model="", smoke=False)
    config = common.default()
    common.objective(config, "trades", beta=5.0, label_smoothing=0.1, smoothing="uniform")
    config.data.generated = arg.generated
    common.cifar100(config)
    config.data.augmentation = "pad_crop_flip_rotate"
    config.batchnorm.first_step_momentum = 1.0
    size = arg.generated.removeprefix("cifar100_edm_").upper()
    return common.finish(config, arg, "wang2023", f"CIFAR-100 Wang23 {size}")
