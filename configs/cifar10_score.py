"""SCORE on CIFAR-10 with 1M generated images, L∞ 8/255 (Pang et al., ICML 2022, "SE").

Command:
  score-jax train --config=configs/cifar10_score.py:model=wrn-28-10-swish --workdir=DIR
  score-jax train --config=configs/cifar10_score.py:smoke --workdir=DIR
  (smoke: 500 steps on real images, for a laptop)
Data: score-jax data prepare cifar10 --source=cifar-10-python.tar.gz
      score-jax data prepare cifar10_ddpm --source=cifar10_ddpm.npz
Expected (published, clean / AutoAttack; not reproduced here):
  wrn-28-10-swish beta=3 88.61 / 61.04, beta=4 88.10 / 61.51
  wrn-70-16-swish beta=3 89.01 / 63.35, beta=4 88.57 / 63.74
  (score-jax report --table=score)
Differs from the released code: the GPU count of the published runs is not stated, so neither is
their number of BatchNorm groups; here it is one.
Cost: 39,200 steps of 512 images, 27 forward-equivalents each; WRN-28-10 2.8e18 multiply-adds.

Arguments: model=NAME, beta=NUMBER, threat=linf|l2, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, model="", beta=4.0, threat="linf", smoke=False)
    config = common.default()
    config.objective.beta = arg.beta
    config.data.generated = "cifar10_ddpm"
    # "Haiku init": the first step's last forward replaces the initial statistics.
    config.batchnorm.first_step_momentum = 1.0
    common.set_threat(config, arg.threat)
    row = f"SE beta={arg.beta:g}" if arg.threat == "linf" else ""
    return common.finish(config, arg, "score", row)


def sweep():
    for beta in (3.0, 4.0, 5.0):
        yield {"objective.beta": beta}
