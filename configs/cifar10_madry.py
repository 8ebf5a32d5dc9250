"""PGD adversarial training on CIFAR-10 with early stopping (Madry et al. 2018; Rice et al. 2020).

Command:
  score-jax train --config=configs/cifar10_madry.py --workdir=DIR
  score-jax train --config=configs/cifar10_madry.py:model=wrn-34-20-relu --workdir=DIR
  score-jax train --config=configs/cifar10_madry.py:smoke --workdir=DIR
Expected (published by Rice et al., in SCORE's table; not reproduced here):
  wrn-34-20-relu 85.34 clean / 53.42 AutoAttack, the best checkpoint of 200 epochs.
Differs from Rice et al.'s released code, which normalises the input after the perturbation, pads by
reflection, lets the attack's forward passes and a last clean one move BatchNorm's averages, lowers
the rate one iteration earlier, and selects on the test set by PGD-10 with cross-entropy. Here the
ReLU networks take pixels as they are, padding is zeros, only the training pass records, and
selection is on held-out images by PGD-40 with the margin loss.
Cost: 78,200 steps of 128 images, 10·2 + 3 = 23 forward-equivalents each.

Arguments: model=NAME, threat=linf|l2, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, model="", threat="linf", smoke=False)
    config = common.default()
    config.model.name = "preact-resnet-18-relu"
    config.num_epochs = 200
    config.data.batch_size = 128
    config.optimizer.nesterov = False
    config.optimizer.weight_decay_roles = ("kernel", "bias", "batchnorm")
    config.ema.decay = 0.0
    with config.unlocked():
        config.objective = dict(
            name="madry", keep_clean=False, label_smoothing=0.0, smoothing="uniform"
        )
        config.schedule = dict(
            name="step", learning_rate=0.1, unit="epoch", boundaries=(100.0, 150.0)
        )
    common.set_threat(config, arg.threat)
    if arg.threat == "l2":  # PGD-AT's own: a random start on the sphere.
        config.attack.start = "uniform"
        config.attack.step_size = 15 / 255
        config.attack.zero_gradient = "stay"
    if arg.smoke:
        common.cifar10_smoke(config)
    if arg.model:
        config.model.name = arg.model
    return config
