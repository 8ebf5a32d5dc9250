"""Geometry-aware reweighting on CIFAR-10 (Zhang et al., ICLR 2021) and what it compares with.

Command:
  score-jax train --config=configs/cifar10_gairat.py --workdir=DIR
  score-jax train --config=configs/cifar10_gairat.py:method=gair-fat --workdir=DIR
  score-jax train --config=configs/cifar10_gairat.py:smoke --workdir=DIR
Expected (README of the released code, WRN-32-10, the network of wrn-34-10-relu; best checkpoint by
PGD-20 on the test set, clean / PGD-20 / PGD+; not reproduced here):
  at 86.92 / 51.96 / 51.28        fat 89.16 / 51.24 / 46.14
  gairat 85.75 / 57.81 / 55.61    gair-fat 88.59 / 56.21 / 53.50    gair-trades: none
  Under AutoAttack GAIRAT loses to AT: third parties measured 41.8 and 42.5 (AT 48.3).
Methods: at (uniform weights), fat (the attack of gair-fat, uniform weights: their baseline, not the
FAT of cifar10_fat), gairat (weights by how long an example stands, Λ = -1), gair-fat (both, Λ = 0),
gair-trades (TRADES and a margin attack, weighted by Λ = 3; its released script is broken, so the
objective is GAIR-RST's in GAIRAT's schedule).
Differs from the released code: GAIR-FAT there mismatches labels after the burn-in, here it does
not; here 1,024 training images select the model.
Cost: 46,920 steps of 128 images, 23 forward-equivalents each (gair-trades 50).

Arguments: method=at|fat|gairat|gair-fat|gair-trades, model=NAME, smoke.
"""

from configs import common

ROWS = {"at": "AT", "fat": "FAT", "gairat": "GAIRAT", "gair-fat": "GAIR-FAT", "gair-trades": ""}


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, method="gairat", model="", smoke=False)
    row = common.one_of("method", arg.method, ROWS)
    config = common.default()
    common.trades_lineage(config)
    common.steps(config, 120, (59.0, 89.0, 109.0), factors=(0.1, 0.01, 0.005))
    if arg.method == "gair-trades":
        common.objective(config, "gair_trades", beta=6.0, weight_lambda=3.0, burn_in_epochs=59)
        config.batchnorm.update_order = ("adversarial", "adversarial_margin", "clean")
    else:
        config.attack.start = "uniform"
        config.batchnorm.update_order = ("adversarial",)
    if arg.method in ("at", "fat"):
        common.objective(config, "madry")
    elif arg.method in ("gairat", "gair-fat"):
        weight_lambda = -1.0 if arg.method == "gairat" else 0.0
        common.objective(config, "gairat", weight_lambda=weight_lambda, burn_in_epochs=59)
    if arg.method in ("fat", "gair-fat"):
        config.attack.patience = (0, 3, 6)
        config.attack.patience_epochs = (40, 70)
    return common.finish(config, arg, "gairat", row)


def sweep():
    for method in ROWS:
        yield f"method={method}"
