"""The configuration of a run: its defaults and its form on disk.

A config is locked data: names, numbers, strings, tuples and booleans. Sections whose fields depend
on a choice (`objective`, `model`, `schedule`) are replaced as a whole by a recipe; their names are
checked where they are built. `eps` and `norm` have one home, the top; the attacks refer to it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from score_jax import config_rules
from score_jax import overrides as overrides_module


def default() -> ConfigDict:
    """The SCORE recipe for CIFAR-10 (Pang et al., 2022), locked; every recipe starts here."""
    config = ConfigDict(
        dict(
            seed=0,
            init_from="",  # An artifact, or a run's folder, whose weights training begins with.
            eps=8 / 255,  # Radius in pixel units, images in [0, 1].
            norm="linf",
            num_epochs=400,
            steps_per_epoch=0,  # 0: ceil(official train size / images loaded in a step).
            loss_reduction="mean",
            label_smoothing_scope="all",
            data=dict(
                name="cifar10",
                dir="",  # '': $TFDS_DATA_DIR, or ~/tensorflow_datasets.
                batch_size=512,  # Global.
                validation_size=1024,
                augmentation="pad_crop_flip",
                generated="",  # Prepared sets of generated images: NAME, or NAME:WEIGHT,...
                generated_fraction=0.7,
                generated_sampling="replacement",  # permutation: each once before any again.
                mixing="batch",  # Exact numbers in each batch; pool: all images alike.
                take=0,  # Labelled images to train on, as many of each class; 0: all.
                generated_take=0,  # The first so many of each generated set; 0: all.
                pseudo_labels="",  # Files of `data label`, instead of the generated sets' labels.
                label_noise=0.0,  # Share of the labelled images that get a wrong label.
                label_noise_seed=0,
                repeats=1,  # Each labelled image of a batch, at as many augmentations.
                emulated_workers=0,  # Equal parts of a batch with the same labelled images.
                augmented_views=1,  # Independent augmentations of the batch, one after the other.
                cutmix=0,  # Versions of each loaded image; batch_size counts the versions.
                # Parts of a batch that are attacked and differentiated one after the other, where
                # memory is short; the update is that of the whole batch.
                microbatches=1,
                prefetch=4,
                # Where images lie: memory, memmap (files that the processes of a host share),
                # records (the shards), device; auto: memory where they fit, else records.
                storage="auto",
            ),
            # Devices that divide weights, optimizer and averages among them; 1: each has all.
            mesh=dict(fsdp=1),
            model=dict(name="wrn-28-10-swish", remat=False, dropout=0.0, init="torch"),
            batchnorm=dict(
                groups=1,
                unbiased=True,
                debias=False,
                first_step_momentum=placeholder(float),
                update_order=("clean", "adversarial"),
            ),
            objective=dict(
                name="score", beta=4.0, clip=0.0, label_smoothing=0.0, smoothing="others"
            ),
            optimizer=dict(
                name="sgd",
                momentum=0.9,
                nesterov=True,
                weight_decay=5e-4,
                weight_decay_roles=("kernel", "bias"),
                clip_norm=0.0,  # 0: no clipping.
                trust_coefficient=0.001,  # Of LARS.
            ),
            # The rate grows with the batch: times batch_size / reference_batch_size, reached along
            # a line over warmup_epochs (Goyal et al. 2017). 0: the schedule's rate as it is.
            large_batch=dict(reference_batch_size=0, warmup_epochs=0.0),
            schedule=dict(
                name="one_cycle",
                learning_rate=0.2,
                unit="epoch",
                warmup_fraction=0.025,
                cycle_momentum=True,
            ),
            ema=dict(decay=0.995, warmup_fraction=0.025, warmup_steps=-1),
            awp=dict(gamma=0.0, start_epoch=0),
            published=dict(table="", row=""),  # The row of a published table that this recipe is.
            precision=dict(train="float32", attack="float32", evaluation="float32"),
            # The last `keep` stay, and the one of each keep_every_epochs; 0: no more.
            checkpoint=dict(every_epochs=1, every_minutes=10.0, keep=2, keep_every_epochs=0),
            # The process ends where nothing happens for so long, or for `factor` usual steps if
            # that is longer. minutes=0: never.
            watchdog=dict(minutes=10.0, factor=10.0),
            log=dict(every_steps=50, tensorboard=False, attack_share=True),
        )
    )
    config.attack = dict(
        norm=config.get_oneway_ref("norm"),
        eps=config.get_oneway_ref("eps"),
        step_size=2 / 255,
        num_steps=10,
        start="uniform",
        rule="steepest",
        step_schedule=(1.0,),
        step_noise=0.0,
        patience=(),
        patience_epochs=(),
        statistics="batch",
        dropout=False,
        warmup_steps=0,
        zero_gradient="stay",
    )
    config.validation = dict(
        every_epochs=1,
        batch_size=512,
        attack=dict(
            name="pgd",  # apgd-ce, apgd-t: AutoAttack's, which need no step_size, start or loss.
            norm=config.get_oneway_ref("norm"),
            eps=config.get_oneway_ref("eps"),
            step_size=2 / 255,
            num_steps=40,
            start="uniform",
            loss="margin",
        ),
    )
    return config.lock()


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked config of a recipe, `PATH[:ARG]`, with `FIELD=VALUE` overrides applied in order.

    Raises:
      UserError: no such file, the file raises, an unknown field, or a value of another type.
    """
    return overrides_module.apply(overrides_module.load_recipe(path), overrides)


def with_defaults(config: ConfigDict) -> ConfigDict:
    """The config with the fields that it lacks, at their defaults: an older version wrote it."""
    complete = config.copy_and_resolve_references().unlock()
    for section, value in default().items():
        if section not in complete:
            complete[section] = value
        elif isinstance(value, ConfigDict) and section not in config_rules.FREE_SECTIONS:
            _fill(complete[section], value)
    return complete.lock()


def _fill(section: ConfigDict, reference: ConfigDict) -> None:
    for name, value in reference.items():
        if name not in section:
            section[name] = value
        elif isinstance(value, ConfigDict):
            _fill(section[name], value)


def steps_per_epoch(config: ConfigDict, train_size: int) -> int:
    """Optimizer steps in one epoch; `train_size` is the size of the official training split."""
    return config.steps_per_epoch or math.ceil(train_size / loaded_images(config))


def loaded_images(config: ConfigDict) -> int:
    """Images that a step reads: the batch, or its share before CutMix multiplies it."""
    return config_rules.loaded_batch_size(config.data.batch_size, config.data.cutmix)


def num_train_steps(config: ConfigDict, train_size: int) -> int:
    """Optimizer steps in the whole run."""
    return config.num_epochs * steps_per_epoch(config, train_size)


def validate(config: ConfigDict, *, train_size: int | None = None) -> list[str]:
    """Refuses an impossible config and returns warnings about a doubtful one.

    Args:
      config: the config of a run.
      train_size: the size of the official training split, where the caller knows it.

    Raises:
      UserError: the first thing that cannot be; value, field and remedy in one line.
    """
    return config_rules.validate(config, default(), train_size)


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON data: references resolved, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


def to_json(config: ConfigDict) -> str:
    """The config as JSON text, indented; floats round-trip exactly."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The locked config that `to_json` wrote: exactly its fields, nothing filled in.

    Raises:
      ValueError: `text` is not a JSON object.
    """

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: restore(entry) for name, entry in value.items()}
        if isinstance(value, list):
            return tuple(restore(entry) for entry in value)
        return value

    fields = restore(json.loads(text))
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    return ConfigDict(fields).lock()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two configs in `to_dict` form: 'objective.beta: 4.0 there, 5.0 here'."""
    there, here = dict(overrides_module.flatten(there)), dict(overrides_module.flatten(here))

    def write(fields: Mapping[str, Any], name: str) -> str:
        return repr(fields[name]) if name in fields else "absent"

    return [
        f"{name}: {write(there, name)} there, {write(here, name)} here"
        for name in sorted(there.keys() | here.keys())
        if write(there, name) != write(here, name)
    ]


def describe(config: ConfigDict) -> Iterator[str]:
    """One line a section with every choice in it, for the start of a log."""

    def write(name: str, value: Any) -> str:
        is_radius = name.split(".")[-1] in ("eps", "step_size")
        return f"{name}={write_eps(value) if is_radius else json.dumps(value)}"

    sections = to_dict(config)
    top = {name: value for name, value in sections.items() if not isinstance(value, dict)}
    for section, fields in [("run", top), *sections.items()]:
        if isinstance(fields, dict):
            words = [write(*field) for field in overrides_module.flatten(fields)]
            yield f"{section}: {' '.join(words)}"


def write_eps(eps: float) -> str:
    """A radius as people write it: '8/255' for multiples of 1/255, short decimals as they are."""
    count = round(eps * 255)
    if round(eps, 2) != eps and abs(eps - count / 255) < 1e-9:
        return f"{count}/255"
    return repr(float(eps))
