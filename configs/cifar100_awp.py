"""AT-AWP on CIFAR-100 (Wu et al., NeurIPS 2020).

Command:
  score-jax train --config=configs/cifar100_awp.py --workdir=DIR
  score-jax train --config=configs/cifar100_awp.py:smoke --workdir=DIR
Data: score-jax data prepare cifar100 --source=cifar-100-python.tar.gz
Expected (published, clean / AutoAttack; not reproduced here): wrn-34-10-relu-normalized
  60.38 / 28.86
  (their logs; TRADES-AWP there 60.17 / 28.80).
Differs from CIFAR-10: crops are padded with zeros.
Differs from the released code: as in cifar10_awp.
Cost: 78,200 steps of 128 images.

Arguments: model=NAME, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, model="", smoke=False)
    config = common.default()
    common.objective(config, "madry")
    common.rice_lineage(config)
    common.validation_attack(config, num_steps=20, step_size=2 / 255)
    common.cifar100(config)
    config.data.augmentation = "pad_crop_flip"
    config.awp.gamma = 0.01
    config.model.name = "wrn-34-10-relu-normalized"
    return common.finish(config, arg, "score", "CIFAR-100 Wu20")
