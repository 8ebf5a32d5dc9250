"""`score-jax analyze gaps`: training against test images, clean and attacked, over a run."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from score_jax import attacks, export_series, report_run
from score_jax import config as config_module
from score_jax.analysis import gaps, gaps_words, subject
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.gaps import KINDS, SPLITS, Measured
from score_jax.analysis.gaps_words import Setting
from score_jax.analysis.subject import Subject
from score_jax.artifact import Artifact
from score_jax.command_line import Call, UsageError
from score_jax.command_line_run import number_of, radius_of, workdir_of
from score_jax.data import sources
from score_jax.report_run import Run


def run(call: Call) -> Iterator[Finding]:
    """The gaps over the checkpoints of a run, and the classes at the last of them."""
    folder = workdir_of(call)
    run = report_run.read(folder, call.data_dir)
    setting = _setting(call, run)
    series = export_series.artifacts(folder, call.checkpoints, setting.weights)
    first = next(series)  # What is wrong with the choice is told before any image is read.
    train, test = (_subject(call, first, split, setting) for split in SPLITS)
    attack = attacks.create(
        norm=setting.norm, eps=setting.eps, step_size=setting.step_size, num_steps=setting.steps
    )
    models = itertools.chain([first], series)
    measured = list(gaps.measure(models, train, test, attack, _steps_per_epoch(run, train)))
    facts = {
        **setting.facts(),
        "num_examples": {"train": len(train.labels), "test": len(test.labels)},
        "data_sha256": {"train": train.data_sha256, "test": test.data_sha256},
    }
    yield _over_training(setting, run, measured, facts)
    yield _by_class(setting, measured, test, facts)


def _setting(call: Call, run: Run) -> Setting:
    norm, own = run.config["norm"], float(run.config["eps"])
    if call.steps < -1 or call.steps == 0:
        raise UsageError(f"--steps={call.steps} is no attack; give 1 or more")
    asked = radius_of(call, "", norm)
    eps = own if asked is None else asked
    if not 0 < eps < float("inf"):
        raise UsageError(f"--eps={eps:g} leaves nothing to attack; give a radius such as 8/255")
    steps = gaps.NUM_STEPS if call.steps == -1 else call.steps
    step_size, rule = gaps.step_size(eps, steps)
    if call.step_size:
        step_size, rule = number_of(call, "step_size"), "as asked"
        if not 0 < step_size < float("inf"):
            raise UsageError(f"--step_size={call.step_size} is no step; give one such as 2/255")
    weights = call.weights
    if not call.values["weights"].present:  # As the run was exported.
        weights = run.model.get("weights", weights)
    return Setting(
        dataset=run.config["data"]["name"], norm=norm, eps=eps, steps=steps, step_size=step_size,
        rule=rule, weights=weights, seed=call.seed, notes=tuple(gaps_words.notes(run.config)),
    )  # fmt: skip


def _subject(call: Call, artifact: Artifact, split: str, setting: Setting) -> Subject:
    """The images of a split: of training those that were trained on."""
    wanted = call.num_examples
    fields = subject.read(artifact, split, call.data_dir, wanted, is_asked=bool(wanted))
    return Subject(
        name=setting.dataset, workdir=None, artifact=artifact, split=split, **fields,
        class_names=sources.class_names(setting.dataset, call.data_dir),
        norm=setting.norm, eps=setting.eps, steps=setting.steps, step_size=setting.step_size,
        seed=call.seed, batch_size=call.batch_size, data_dir=call.data_dir, num_examples=wanted,
    )  # fmt: skip


def _steps_per_epoch(run: Run, train: Subject) -> int:
    size = sources.train_size(run.config["data"]["name"], train.data_dir) or len(train.labels)
    return config_module.steps_per_epoch(run.workdir.read_config(), size)


def _over_training(
    setting: Setting, run: Run, measured: Sequence[Measured], facts: dict[str, Any]
) -> Finding:
    last, trend = measured[-1], gaps_words.trend_of(measured)
    validation = gaps_words.validation_of(run)
    pictures = {}
    if len(measured) > 1:
        pictures["epochs"] = Picture(
            f"Accuracy on training and on test images, clean and under {setting.attack}.",
            lambda: _plots().over_epochs(measured, trend, setting.attack),
        )
    if validation:
        pictures["validation"] = Picture(
            "Accuracy under attack while training: on its own batches, by the attack of training, "
            "and on the images held out for validation, by the attack that selects checkpoints.",
            lambda: _plots().over_validation(validation),
        )
    return Finding(
        name="gaps",
        title="Gaps between training and test images",
        summary=[
            gaps_words.tell_gaps(last, setting),
            *gaps_words.tell_overfitting(trend, validation, setting, len(measured)),
            gaps_words.tell_attack(setting),
            *setting.notes,
        ],
        table=gaps_words.table(measured, setting),
        facts={
            **facts,
            "checkpoints": [_facts_of(one) for one in measured],
            "robust_overfitting": gaps_words.facts_of(trend, validation),
        },
        pictures=pictures,
        arrays={
            "steps": np.asarray([one.step for one in measured]),
            **{
                f"{split}_{kind}": np.stack([one.right[split][kind] for one in measured])
                for split in SPLITS
                for kind in KINDS
            },
        },
    )


def _facts_of(one: Measured) -> dict[str, Any]:
    return {
        "name": one.name,
        "step": one.step,
        "epoch": one.epoch,
        "model_sha256": one.sha256,
        **{split: {kind: one.accuracy(split, kind) for kind in KINDS} for split in SPLITS},
        "gap": one.gap("clean"),
        "adv_gap": one.gap("adversarial"),
        "gap_error": one.gap_error("clean"),
        "adv_gap_error": one.gap_error("adversarial"),
    }


def _by_class(
    setting: Setting, measured: Sequence[Measured], test: Subject, facts: dict[str, Any]
) -> Finding:
    last = measured[-1]
    num_classes = int(test.artifact.spec["model"]["num_classes"])
    names = list(test.class_names) or [str(label) for label in range(num_classes)]
    return Finding(
        name="gaps_classes",
        title="Gaps of each class",
        summary=list(gaps_words.tell_classes(measured, names, setting)),
        table=gaps_words.class_table(last, names, setting),
        facts={
            **facts,
            "classes": names,
            "checkpoints": [
                {
                    "name": one.name, "step": one.step, "model_sha256": one.sha256,
                    "by_class": _plain(one, len(names)),
                }  # fmt: skip
                for one in measured
            ],
        },
        pictures={
            "accuracy": Picture(
                f"Accuracy on training and on test images of each class at {last.name}, clean "
                f"and under {setting.attack}.",
                lambda: _plots().classes(last, names, setting.attack),
            )
        },
    )


def _plain(one: Measured, num_classes: int) -> dict[str, Any]:
    """As JSON tells it: None for a class without images."""
    return {
        split: {
            kind: [None if np.isnan(value) else float(value) for value in values]
            for kind, values in kinds.items()
        }
        for split, kinds in one.by_class(num_classes).items()
    }


def _plots() -> Any:
    from score_jax.analysis import gaps_plots

    return gaps_plots
