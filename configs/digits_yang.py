"""The comparison of "A Closer Look at Accuracy vs. Robustness" (Yang et al., NeurIPS 2020) on
scikit-learn's digits: each method with and without dropout, all else equal.

Command:
  score-jax sweep --config=configs/digits_yang.py
  score-jax train --config=configs/digits_yang.py:method=trades,beta=3,dropout --workdir=DIR
Expected, local Lipschitz constant on test images (as released): natural 12.2, llr 8.0, gr 5.2,
rst 2.8, at 2.5, trades 2.1, 1.3 and 0.8 (beta 1, 3, 6): the order of the paper. Dropout changes the
gap by -0.3 and the adversarial gap by -1.7 points, on average over the 8 pairs; a point or two is
the noise of one seed.
From their code: PGD of 10 steps of eps / 5, the released GR and LLR, RST of weight 2, and that the
last epoch is judged. The same for all methods, and not from it: cnn-3, L∞ 0.2, momentum and one
cycle of the rate.
Cost: 690 steps of 64 images a method, at most 10 attack steps each; the sweep about 10 minutes on
two idle cores (20 of CPU).

Arguments: method=natural|gr|llr|rst|at|trades, beta=NUMBER (trades), dropout, smoke.
"""

from configs import common

TABLE = "yang"  # What a sweep measures: the columns of the paper.
METHODS = {
    "natural": dict(name="standard"),
    "gr": dict(name="gr", variant="released"),
    "llr": dict(name="llr", variant="released", weight=4.0),
    "rst": dict(name="rst", robust_weight=2.0),
    "at": dict(name="madry"),
    "trades": dict(name="trades"),
}
SETTINGS = (*list(METHODS)[:-1], "trades,beta=1", "trades,beta=3", "trades,beta=6")


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, method="trades", beta=6.0, dropout=False, smoke=False)
    objective = common.one_of("method", arg.method, METHODS)
    if arg.method == "trades":
        objective = objective | dict(beta=arg.beta)
    config = common.digits(smoke=arg.smoke)
    common.objective(config, **objective)
    with config.unlocked():
        config.model.dropout = 0.2 if arg.dropout else 0.0
    config.ema.decay = 0.0
    config.attack.step_size = config.eps / 5
    config.validation.attack.step_size = config.eps / 5
    config.validation.attack.loss = "cross_entropy"
    config.validation.attack.num_steps = config.attack.num_steps
    if not arg.smoke:
        config.num_epochs = 30
        config.log.attack_share = False
        config.validation.every_epochs = 10
        config.checkpoint.every_epochs = 10
    return config


def sweep():
    for method in SETTINGS:
        yield f"method={method}"
    for method in SETTINGS:
        yield f"method={method},dropout"
