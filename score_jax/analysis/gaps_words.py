"""What `score-jax analyze gaps` says: sentences, tables, and the facts of its alarm."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from score_jax.analysis import gaps_alarm
from score_jax.analysis.gaps import KINDS, SPLITS, Measured
from score_jax.analysis.gaps_alarm import Trend
from score_jax.config import write_eps
from score_jax.report_run import Run

MOST_CLASSES = 20  # Of a table and a picture: those with the widest adversarial gaps.


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How it is measured.

    Attributes:
      rule: where the step size is from.
      weights: 'ema' or 'live'.
      notes: sentences on what this run's numbers do not tell.
    """

    dataset: str
    norm: str
    eps: float
    steps: int
    step_size: float
    rule: str
    weights: str
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def attack(self) -> str:
        return f"PGD-{self.steps}"

    def facts(self) -> dict[str, Any]:
        """All but the notes, for JSON."""
        found = dataclasses.asdict(self)
        del found["notes"]
        return {**found, "attack": self.attack}


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The validations of a run while it trained.

    Attributes:
      judge: the attack, such as 'PGD-40'.
      epochs, values: accuracy under it on the `num_images` held out.
      train_epochs, train: accuracy on training batches under the attack of training.
      trend: of them.
    """

    judge: str
    num_images: int
    epochs: Sequence[float]
    values: Sequence[float]
    train_epochs: Sequence[float]
    train: Sequence[float]
    trend: Trend


def trend_of(measured: Sequence[Measured]) -> Trend:
    """What became of accuracy under attack on the test images."""
    return gaps_alarm.of_images(
        [one.step for one in measured],
        [one.epoch for one in measured],
        np.stack([one.right["test"]["adversarial"] for one in measured]),
        [one.accuracy("train", "adversarial") for one in measured],
    )


def validation_of(run: Run) -> Validation | None:
    """The validations of adversarial training; None where there were not two of them."""
    epochs, values = run.series(run.judge) if run.judge else ([], [])
    train_epochs, train = run.series("train/adv_accuracy")
    num_images = run.config["data"].get("validation_size", 0)
    steps = [int(line["step"]) for line in run.metrics if run.judge in line]
    if len(values) < 2 or not train or not num_images:
        return None
    # Of the batches since the validation before: one batch alone says little.
    meanwhile = [
        _mean_between(train_epochs, train, before, epoch)
        for before, epoch in zip([0.0, *epochs[:-1]], epochs, strict=True)
    ]
    name = run.judge.removeprefix("val/").removesuffix("_accuracy").upper().replace("_", "-")
    return Validation(
        judge=name.replace("PGD", "PGD-") if name.startswith("PGD") else name,
        num_images=num_images,
        epochs=epochs,
        values=values,
        train_epochs=train_epochs,
        train=train,
        trend=gaps_alarm.of_accuracies(steps, epochs, values, num_images, meanwhile),
    )


def _mean_between(
    epochs: Sequence[float], values: Sequence[float], low: float, high: float
) -> float:
    inside = [v for e, v in zip(epochs, values, strict=True) if low < e <= high]
    nearest = min(range(len(epochs)), key=lambda index: abs(epochs[index] - high))
    return float(np.mean(inside)) if inside else values[nearest]


def notes(config: Mapping[str, Any]) -> Iterator[str]:
    """What a run's training images do not tell of it."""
    data = config["data"]
    if data.get("generated"):
        yield f"Training images are the labelled ones: those of {data['generated']} are left out."
    if data.get("label_noise"):
        yield (
            "Training labels are those that the run was given, of which "
            f"{data['label_noise']:.0%} are wrong."
        )


def tell_gaps(one: Measured, setting: Setting) -> str:
    """Both gaps, and how sure they are."""
    told = [
        f"{one.accuracy('train', kind):.1%} of training and {one.accuracy('test', kind):.1%} of "
        f"test images are right{under}: {name} gap of {100 * one.gap(kind):.1f} points (standard "
        f"error {100 * one.gap_error(kind):.1f})"
        for kind, under, name in zip(
            KINDS, ("", f" under {setting.attack}"), ("a", "an adversarial"), strict=True
        )
    ]
    return f"At {one.name}, {'; '.join(told)}."


def tell_overfitting(
    trend: Trend, validation: Validation | None, setting: Setting, count: int
) -> Iterator[str]:
    """Is it robust overfitting? By the checkpoints that are kept, and by the validations."""
    if count > 1:
        yield gaps_alarm.tell(trend, f"{setting.attack} test accuracy", "on training images")
    else:
        yield (
            "One checkpoint tells nothing of robust overfitting; a run keeps more with "
            "--config.checkpoint.keep_every_epochs."
        )
    if validation:
        told = gaps_alarm.tell(
            validation.trend,
            f"{validation.judge} accuracy on {validation.num_images} images",
            "on attacked training batches",
        )
        yield f"By {len(validation.values)} validations while training: {told}"


def tell_attack(setting: Setting) -> str:
    """What 'adversarial' means here."""
    return (
        f"{setting.attack}: eps {write_eps(setting.eps)} ({setting.norm}), steps of "
        f"{setting.step_size:.4g} = {setting.rule}, one uniform start, cross-entropy, last "
        f"iterate; {setting.weights} weights. An upper estimate of robust accuracy. Every image is "
        "attacked, and counts by how it ends (Yang et al.); the table of runs counts one that is "
        "wrong unattacked as lost."
    )


def facts_of(trend: Trend, validation: Validation | None) -> dict[str, Any]:
    """The alarm as numbers: of the checkpoints, and of the validations."""

    def plain(found: Trend) -> dict[str, Any]:
        return {
            **dataclasses.asdict(found),
            "fall": found.fall,
            "rise": found.rise,
            "standard_errors": found.standard_errors,
            "is_overfitting": found.is_overfitting,
        }

    return {
        "source": gaps_alarm.SOURCE,
        "least_fall": gaps_alarm.FALL,
        "false_alarms": gaps_alarm.FALSE_ALARMS,
        "checkpoints": plain(trend),
        "validations": plain(validation.trend) if validation else None,
    }


def _points(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def _columns(setting: Setting) -> list[str]:
    attack = setting.attack
    return ["train", "test", "gap", f"train {attack}", f"test {attack}", "adv gap"]


def table(measured: Sequence[Measured], setting: Setting) -> list[list[str]]:
    """A row a checkpoint, in percent and points."""
    rows = [["checkpoint", "epoch", *_columns(setting)]]
    for one in measured:
        cells = [one.name, f"{one.epoch:.4g}"]
        for kind in KINDS:
            cells += [_points(one.accuracy(split, kind)) for split in SPLITS]
            cells.append(_points(one.gap(kind)))
        rows.append(cells)
    return rows


def shown_classes(one: Measured, num_classes: int) -> list[int]:
    """All classes in order, or those with the widest adversarial gaps, the widest first."""
    if num_classes <= MOST_CLASSES:
        return list(range(num_classes))
    found = one.by_class(num_classes)
    widths = found["train"]["adversarial"] - found["test"]["adversarial"]
    return np.argsort(-np.nan_to_num(widths, nan=-np.inf), kind="stable")[:MOST_CLASSES].tolist()


def class_table(one: Measured, names: Sequence[str], setting: Setting) -> list[list[str]]:
    """A row a class, in percent and points."""
    found = one.by_class(len(names))
    rows = [["class", "train+test images", *_columns(setting)]]
    for label in shown_classes(one, len(names)):
        counts = [int((one.labels[split] == label).sum()) for split in SPLITS]
        cells = [names[label], f"{counts[0]}+{counts[1]}"]
        for kind in KINDS:
            train, test = (found[split][kind][label] for split in SPLITS)
            cells += [_points(train), _points(test), _points(train - test)]
        rows.append(cells)
    return rows


def tell_classes(
    measured: Sequence[Measured], names: Sequence[str], setting: Setting
) -> Iterator[str]:
    """The widest and narrowest adversarial gaps, and which class lost most since the best."""
    last, trend = measured[-1], trend_of(measured)
    found = last.by_class(len(names))
    train, test = (found[split]["adversarial"] for split in SPLITS)
    widths = train - test
    if np.isnan(widths).all():
        return
    parts = [
        f"class {names[label]} the {word} one ({100 * widths[label]:.1f} points: "
        f"{_counted(last, 'train', label)} training and {_counted(last, 'test', label)} test images"
        " right)"
        for word, label in (
            ("widest", int(np.nanargmax(widths))), ("narrowest", int(np.nanargmin(widths))),
        )
    ]  # fmt: skip
    yield f"At {last.name}, of the adversarial gaps under {setting.attack} {' and '.join(parts)}."
    if len(names) > MOST_CLASSES:
        yield f"Shown are the {MOST_CLASSES} classes of {len(names)} with the widest ones."
    if trend.has_fallen:
        best = next(one for one in measured if one.step == trend.best_step)
        lost = best.by_class(len(names))["test"]["adversarial"] - test
        label = int(np.nanargmax(lost))
        yield (
            f"Since {best.name} class {names[label]} has lost most of {len(names)}: "
            f"{100 * lost[label]:.1f} points, from {_counted(best, 'test', label)} test images "
            f"right to {_counted(last, 'test', label)}; of many classes one loses much by chance."
        )


def _counted(one: Measured, split: str, label: int) -> str:
    """'19 of 27': the images of a class that are right under attack."""
    right = one.right[split]["adversarial"][one.labels[split] == label]
    return f"{int(right.sum())} of {len(right)}"
