"""Robust self-training on CIFAR-10 with 500K TinyImages: Carmon et al. (NeurIPS 2019), GAIR-RST.

Command:
  score-jax train --config=configs/cifar10_rst.py --workdir=DIR
  score-jax train --config=configs/cifar10_rst.py:method=gair --workdir=DIR
  score-jax train --config=configs/cifar10_rst.py:smoke --workdir=DIR
Data: score-jax data prepare cifar10_ti500k --source=ti_500K_pseudo_labeled.pickle
Expected (RobustBench, clean / AutoAttack, wrn-28-10-relu; not reproduced here):
  carmon 89.69 / 59.53 (trained at eps .031, judged at 8/255), gair 89.36 / 59.64 (both at .031)
Methods: carmon is TRADES with half of each batch pseudo-labelled; gair (Zhang et al., ICLR 2021)
reweights its KL term and adds a margin attack from the middle of training on.
Differs from the released code: 1,024 training images select the model (there the last epoch:
--checkpoint=last); during gair's burn-in its margin attack runs, and moves averages, already.
Cost: 39,200 steps of 256 images, 27 forward-equivalents each (gair 50).

Arguments: method=carmon|gair, model=NAME, smoke.
"""

from configs import common

ROWS = {"carmon": "Carmon19", "gair": "GAIR-RST"}


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, method="carmon", model="", smoke=False)
    row = common.one_of("method", arg.method, ROWS)
    config = common.default()
    common.trades_lineage(config, weight_decay=5e-4)
    config.optimizer.nesterov = True
    config.data.batch_size = 256
    config.data.generated = "cifar10_ti500k"
    config.data.generated_fraction = 0.5
    config.model.name = "wrn-28-10-relu"
    config.batchnorm.update_order = ("adversarial", "clean")
    with config.unlocked():
        config.num_epochs = 200
        config.schedule = dict(name="cosine", learning_rate=0.1, unit="epoch")
    if arg.method == "gair":
        common.objective(config, "gair_trades", beta=6.0, weight_lambda=3.0, burn_in_epochs=99)
        config.batchnorm.update_order = ("adversarial", "adversarial_margin", "clean")
    else:
        common.objective(config, "trades", beta=6.0)
        config.eps, config.attack.eps = 8 / 255, 0.031
    return common.finish(config, arg, "robustbench", row)
