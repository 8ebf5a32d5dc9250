"""TRADES on CIFAR-10 with images of a better diffusion model, EDM (Wang et al., ICML 2023).

Command:
  score-jax train --config=configs/cifar10_wang.py --workdir=DIR
  score-jax train --config=configs/cifar10_wang.py:generated=cifar10_edm_20m --workdir=DIR
  score-jax train --config=configs/cifar10_wang.py:augmentation=idbh --workdir=DIR
  score-jax train --config=configs/cifar10_wang.py:smoke --workdir=DIR
Data: score-jax data prepare cifar10_edm --source=1m.npz
Expected (published, clean / AutoAttack; not reproduced here):
  linf wrn-28-10-swish 92.44 / 67.31 (20M images), wrn-70-16-swish 93.25 / 70.69 (50M)
  l2   wrn-28-10-swish 95.16 / 83.63 (50M), wrn-70-16-swish 95.54 / 84.86 (50M)
The default is the one command of the README: 1M images, beta 5, label smoothing .1, batch 512, 400
epochs. It states neither batch nor epochs of the runs with 20M and 50M images, nor their share of a
batch: set data.batch_size, num_epochs, data.generated_fraction.
Cost: 39,200 steps of 512 images, 27 forward-equivalents each.

The published rows are of crops and flips. Other augmentations of their code, for CIFAR-10:
cutout, autoaugment (with cutout), randaugment (its translations leave a quarter of the images
black, as in their code), idbh; `score-jax data preview --config=...` draws what they make.

Arguments: generated=cifar10_edm|cifar10_edm_20m|cifar10_edm_50m, threat=linf|l2, model=NAME,
augmentation=pad_crop_flip|cutout|autoaugment|randaugment|idbh, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(
        arg, generated="cifar10_edm", threat="linf", model="", augmentation="pad_crop_flip",
        smoke=False,
    )  # fmt: skip
    config = common.default()
    common.objective(config, "trades", beta=5.0, label_smoothing=0.1, smoothing="uniform")
    config.data.generated = arg.generated
    config.data.augmentation = arg.augmentation
    config.batchnorm.first_step_momentum = 1.0
    common.set_threat(config, arg.threat)
    size = arg.generated.removeprefix("cifar10_edm_").upper()
    row = f"Wang23 {size}" if arg.threat == "linf" else f"Wang23 L2 {size}"
    table = "wang2023" if arg.augmentation == "pad_crop_flip" else ""
    return common.finish(config, arg, table, row)
