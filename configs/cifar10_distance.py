"""PGD-AT and TRADES with any divergence, without generated data (Pang et al., ICML 2022).

Command:
  score-jax train --config=configs/cifar10_distance.py:divergence=sqrt_js --workdir=DIR
  score-jax train --config=configs/cifar10_distance.py:method=trades --workdir=DIR
  score-jax train --config=configs/cifar10_distance.py:smoke --workdir=DIR
Expected: the code's README prints no table; its settings are PreActResNet-18, 110 epochs, batch
128, decay 5e-4, rate .1 (squared error .05), and the loss clipped at .4 (madry) or .3 (trades, λ 6)
for squared error.
As in their code: the attack of madry runs in training mode, and its passes move BatchNorm's
averages; the attack of trades runs on running statistics from 0.001·normal.
Differs from it: it selects on the test set by the smaller of two PGD-10s, here 1,024 training
images select.
Cost: 43,010 steps of 128 images, 23 (madry) or 27 forward-equivalents each.

Arguments: method=madry|trades, divergence=NAME, model=NAME, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, method="madry", divergence="squared_error", model="", smoke=False)
    is_madry = common.one_of("method", arg.method, {"madry": True, "trades": False})
    is_squared = arg.divergence == "squared_error"
    config = common.default()
    config.model.name = "preact-resnet-18-relu-normalized"
    config.data.batch_size = 128
    clip_loss = (0.4 if is_madry else 0.3) if is_squared else 0.0
    fields = dict(divergence=arg.divergence, clip_loss=clip_loss)
    common.objective(config, f"distance_{arg.method}", **fields)
    common.plain_sgd(config, 5e-4)
    learning_rate = 0.05 if is_squared else 0.1
    common.steps(config, 110, (100.0, 105.0), learning_rate=learning_rate, unit="fractional_epoch")
    if is_madry:
        config.batchnorm.update_order = ("attack", "adversarial")
    else:
        config.batchnorm.update_order = ("adversarial", "clean")
        config.attack.start = "normal"
        config.attack.statistics = "running"
    common.validation_attack(config, num_steps=10, step_size=2 / 255)
    return common.finish(config, arg)
