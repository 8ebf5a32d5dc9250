"""DeepMind's TRADES on CIFAR-10: Gowal et al. (2020, 2021) and Rebuffi et al. (2021).

Command:
  score-jax train --config=configs/cifar10_gowal.py --workdir=DIR
  score-jax train --config=configs/cifar10_gowal.py:recipe=rebuffi21,cutmix --workdir=DIR
  score-jax train --config=configs/cifar10_gowal.py:smoke --workdir=DIR
Expected (published, clean / AutoAttack; not reproduced here):
  gowal20    batch 512, 200 epochs, real images: wrn-70-16-swish 85.29 / 57.14
  rebuffi21  batch 1024, 800 epochs, 1M generated: wrn-28-10-swish 85.97 / 60.73, wrn-70-16-swish
             86.94 / 63.58; with cutmix 87.33 / 60.75 and 88.54 / 64.25
  gowal21    batch 1024, 2000 epochs, 100M generated: wrn-70-16-swish 88.74 / 66.10
As in their JAX code: Adam in the attack, an attack on batch statistics, averages moved by the
attacked images alone and debiased, Haiku's initialisation, four copies of each real image, label
smoothing for generated images only, a warm-up of ten epochs by the step.
Differs from it: BatchNorm is not split by device (their device count is not stated); 70% of a batch
is generated whatever the set (gowal21's share is not known); 100M images were not released, the
recipe names the 1M set; epochs are rounded up to whole steps (19,600 for 19,531); their released
code does not hold out the 1,024 training images that select the model, their papers do. CutMix has
one box a step for all four emulated workers, as in that code; the workers that their published
runs had were machines, with a box each.
Cost: gowal20 19,600 steps of 512, rebuffi21 39,200 and gowal21 98,000 of 1024 images, 27
forward-equivalents each.

Arguments: recipe=gowal20|rebuffi21|gowal21, cutmix, model=NAME, smoke.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, recipe="gowal20", cutmix=False, model="", smoke=False)
    config = common.default()
    common.deepmind(config, arg.recipe, "cifar10_ddpm", arg.cutmix)
    return common.finish(config, arg, "score", "" if arg.cutmix else arg.recipe.capitalize())
