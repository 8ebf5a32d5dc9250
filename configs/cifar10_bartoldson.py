"""TRADES on CIFAR-10 at the scale of 500M generated images (Bartoldson et al., ICML 2024).

Command:
  score-jax train --config=configs/cifar10_bartoldson.py --workdir=DIR
  score-jax train --config=configs/cifar10_bartoldson.py:model=wrn-82-8-swish --workdir=DIR
  score-jax train --config=configs/cifar10_bartoldson.py:smoke --workdir=DIR
Expected (published, clean / AutoAttack; not reproduced here):
  wrn-94-16-swish 93.68 / 73.71 (10,000 epochs), wrn-82-8-swish 93.11 / 71.59 (6,820 epochs)
As in their configs: beta 5, label smoothing .1, batch 2048, peak rate .1, 87.5% generated images,
BatchNorm over the whole batch, otherwise the code of Wang et al. (cifar10_wang).
Differs from it: its images, of several generators, were not released, the recipe names the 50M of
EDM; the first 6,000 epochs of the large model saw no real image, here the share is constant.
As there no generated image comes again before all others; there each was seen once or twice, of
the 50M here each is seen about nine times (wrn-82-8 six).
Cost: 250,000 steps of 2048 images (wrn-82-8-swish 170,500), 27 forward-equivalents each.

Arguments: model=wrn-94-16-swish|wrn-82-8-swish, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, model="", smoke=False)
    config = common.default()
    common.objective(config, "trades", beta=5.0, label_smoothing=0.1, smoothing="uniform")
    config.model.name = "wrn-94-16-swish"
    config.num_epochs = 6820 if arg.model == "wrn-82-8-swish" else 10000
    config.data.batch_size = 2048
    config.data.generated = "cifar10_edm_50m"
    config.data.generated_fraction = 0.875
    if not arg.smoke:
        config.data.generated_sampling = "permutation"
    config.schedule.learning_rate = 0.1
    config.batchnorm.first_step_momentum = 1.0
    return common.finish(config, arg, "bartoldson2024", "Bartoldson24")
