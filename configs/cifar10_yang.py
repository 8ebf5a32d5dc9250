"""Methods of "A Closer Look at Accuracy vs. Robustness" on CIFAR-10 (Yang et al., NeurIPS 2020).

Command:
  score-jax train --config=configs/cifar10_yang.py:method=trades,beta=6 --workdir=DIR
  score-jax train --config=configs/cifar10_yang.py:method=llr,variant=qin2019 --workdir=DIR
  score-jax train --config=configs/cifar10_yang.py:method=at,dropout --workdir=DIR
  score-jax train --config=configs/cifar10_yang.py:smoke --workdir=DIR
Expected (published, test / adversarial test, L∞ .031, last epoch: export --checkpoint=last):
  natural 93.81 / 0.00   gr 80.74 / 21.32   llr 91.44 / 22.05   rst 84.61 / 40.89
  at 83.51 / 43.51   trades beta=1 84.96 / 43.66, beta=3 85.55 / 46.63, beta=6 84.46 / 48.58
  gr and llr are numbers of the released code (variant=released), which is not what the cited papers
  say: variant=finlay and variant=qin2019 are. The weight of rst is not stated; 2 is that of the
  dropout experiments. (score-jax report --table=yang)
As in their code: losses are summed over the batch, SGD without momentum or decay, rates by method;
at and rst attack in training mode, with dropout and moving averages; trades and llr do not.
Differs from it: 1,024 training images are held out, and every batch is full (there the last of an
epoch has 16 images and, the loss being a sum, a smaller step). finlay and qin2019 are the cited
papers' penalties inside Yang et al.'s training, not those papers' rates and decay.
Cost: 93,840 steps of 64 images, WRN-40-10; forward-equivalents each: natural 3, gr 8, llr 10
(qin2019 31), at 23, rst 26, trades 27 (with dropout 30).

Arguments: method=natural|gr|llr|rst|at|trades, beta=NUMBER (trades), weight=NUMBER (rst),
variant=NAME (gr: released|finlay, llr: released|qin2019), dropout, model=NAME, smoke.
"""

from configs import common

METHODS = ("natural", "gr", "llr", "rst", "at", "trades")


def get_config(arg: str = ""):
    arg = common.parse_arg(
        arg, method="trades", beta=3.0, weight=2.0, variant="released", dropout=False, model="",
        smoke=False,
    )  # fmt: skip
    common.one_of("method", arg.method, dict.fromkeys(METHODS))
    config = common.default()
    common.trades_lineage(config, weight_decay=0.0)
    config.optimizer.momentum = 0.0
    config.loss_reduction = "sum"
    config.data.batch_size = 64
    config.model.name = "wrn-40-10-relu"
    config.model.dropout = 0.2 if arg.dropout else 0.0
    config.attack.step_size = 0.0062
    # The loss is a sum: these are 64 times larger than they look.
    learning_rate = 0.001 if arg.method == "rst" else 0.01
    common.steps(config, 120, (40.0, 80.0, 100.0), learning_rate=learning_rate)
    common.validation_attack(config, num_steps=10, step_size=0.0062)
    _set_method(config, arg)
    row = {"natural": "Natural", "trades": f"TRADES beta={arg.beta:g}"}
    row = row.get(arg.method, arg.method.upper())
    is_published = not arg.dropout and arg.variant == "released" and arg.weight == 2.0
    return common.finish(config, arg, "yang", row if is_published else "")


def _set_method(config, arg):
    if arg.method == "natural":
        common.objective(config, "standard")
        config.batchnorm.update_order = ("clean",)
    elif arg.method == "trades":
        common.objective(config, "trades", beta=arg.beta, clean_again=True)
        config.batchnorm.update_order = ("clean", "adversarial", "clean_again")
    elif arg.method in ("at", "rst"):
        config.attack.start = "uniform"
        config.attack.statistics = "batch"
        config.attack.dropout = arg.dropout
        if arg.method == "at":
            common.objective(config, "madry")
            config.batchnorm.update_order = ("attack", "adversarial")
        else:
            common.objective(config, "rst", robust_weight=arg.weight)
            config.batchnorm.update_order = ("attack", "adversarial", "clean")
    elif arg.method == "gr":
        released = arg.variant == "released"
        weight, step = (1.0, 1.0) if released else (0.1, 0.01)
        common.objective(config, "gr", variant=arg.variant, weight=weight, step=step)
        config.attack.statistics = "batch"
    else:
        common.objective(config, "llr", variant=arg.variant, weight=4.0)
        if arg.variant == "qin2019":  # Ten steps of Adam; the radius grows for 500 steps.
            config.attack.rule = "adam"
            config.attack.step_size = 0.1
            config.attack.warmup_steps = 500


def sweep():
    for method in METHODS:
        yield f"method={method}"
    for beta in (1, 6):
        yield f"method=trades,beta={beta}"
    for method in ("natural", "rst", "at", "trades", "trades,beta=6"):
        yield f"method={method},dropout"
