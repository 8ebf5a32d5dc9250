"""DeepMind's TRADES on CIFAR-100: Gowal et al. (2020) and Rebuffi et al. (2021).

Command:
  score-jax train --config=configs/cifar100_gowal.py --workdir=DIR
  score-jax train --config=configs/cifar100_gowal.py:recipe=rebuffi21 --workdir=DIR
  score-jax train --config=configs/cifar100_gowal.py:smoke --workdir=DIR
Data: score-jax data prepare cifar100 --source=cifar-100-python.tar.gz
      score-jax data prepare cifar100_ddpm --source=cifar100_ddpm.npz
Expected (published, clean / AutoAttack; not reproduced here):
  gowal20    wrn-70-16-swish 60.86 / 30.03
  rebuffi21  wrn-28-10-swish 59.18 / 30.81, wrn-70-16-swish 60.46 / 33.49; with cutmix 62.41 / 32.06
             and 63.56 / 34.64
Differs from the released code: it trains CIFAR-10 only; the settings are those of cifar10_gowal.
Cost: as cifar10_gowal.

Arguments: recipe=gowal20|rebuffi21, cutmix, model=NAME, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, recipe="gowal20", cutmix=False, model="", smoke=False)
    common.one_of("recipe", arg.recipe, dict.fromkeys(("gowal20", "rebuffi21")))
    config = common.default()
    common.deepmind(config, arg.recipe, "cifar10_ddpm", arg.cutmix)
    common.cifar100(config)
    row = "" if arg.cutmix else f"CIFAR-100 {arg.recipe.capitalize()}"
    return common.finish(config, arg, "score", row)
