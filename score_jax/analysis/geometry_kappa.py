"""κ over training: how long images withstand an attack, which change, and of which class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from score_jax import export_series, report_run
from score_jax.analysis import geometry, subject_words
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.subject import Subject
from score_jax.artifact import WEIGHTS

METRIC = "train/robust_steps"


@dataclass(frozen=True, kw_only=True, eq=False)
class Counted:
    """κ of the same images under one model of a run.

    Attributes:
      epoch: of training, where the run's metrics tell it.
      kappa: i32[n].
      is_exported: whether it is the subject's own model.
    """

    step: int | None
    epoch: float | None
    name: str
    kappa: np.ndarray
    is_exported: bool

    @property
    def label(self) -> str:
        """'epoch 12', 'step 276' where the epoch is not known, or 'the model'."""
        if self.epoch is not None:
            return f"epoch {self.epoch:g}"
        return self.name if self.step is None else f"step {self.step}"


def kappa(subject: Subject) -> Finding:
    """At how many iterates of the attack training images are right, at each kept checkpoint.

    Source: Zhang et al. 2021 (GAIRAT), as released: see `geometry.robust_steps`.
    """
    subject = subject.on("train")
    run = report_run.read(subject.workdir, subject.data_dir) if subject.workdir else None
    epochs, means = run.series(METRIC) if run else ([], [])
    models = over_training(subject, run.metrics[-1] if run and run.metrics else {})
    own = next(one for one in models if one.is_exported)
    num_steps = subject.steps
    shares = [share_of_each(one.kappa, num_steps) for one in models]
    classes = by_class(subject, own.kappa)
    facts = {
        **subject.facts(),
        "num_steps": num_steps,
        "step_size": subject.step_size,
        "trained_with_statistics": _trained_with(subject).get("statistics"),
        "checkpoints": [
            {
                "step": one.step,
                "epoch": one.epoch,
                "is_exported": one.is_exported,
                "mean": float(one.kappa.mean()),
                "shares": mine,
            }
            for one, mine in zip(models, shares, strict=True)
        ],
        "classes": classes,
        "logged": {"metric": METRIC, "epochs": epochs, "means": means},
    }
    from_to = [(one.epoch, float(one.kappa.mean())) for one in models if one.epoch is not None]

    def draw_over():
        from score_jax.analysis import geometry_plots

        rows = [(one.label, mine) for one, mine in zip(models, shares, strict=True)]
        return geometry_plots.shares(f"How long images withstand (κ), {subject.name}", rows)

    def draw_mean():
        from score_jax.analysis import geometry_plots

        return geometry_plots.mean_kappa(
            subject.name, epochs, means, from_to, num_steps, _kind(subject)
        )

    def draw_classes():
        from score_jax.analysis import geometry_plots

        rows = [(entry["name"], entry["shares"]) for entry in classes]
        return geometry_plots.shares(f"How long classes withstand (κ), {own.label}", rows)

    pictures = {
        "over_training": Picture(
            "Share of training images by κ, the tested iterates of the attack at which they are "
            "right, at each kept checkpoint", draw_over,
        ),
        "classes": Picture("Share of training images by κ, hardest class first", draw_classes),
    }  # fmt: skip
    if epochs or len(from_to) > 1:
        pictures["mean"] = Picture(
            "Mean κ in the batches of training, and of the images measured at each kept "
            f"checkpoint. {_apart(subject)}", draw_mean,
        )  # fmt: skip
    return Finding(
        name="geometry_kappa",
        title=f"How long images withstand an attack (κ), {subject.name}",
        summary=_sentences(subject, models, own, classes, bool(epochs)),
        facts=facts,
        table=_table(models, num_steps),
        pictures=pictures,
        arrays={
            "indices": subject.indices,
            "labels": subject.labels,
            "steps": np.array([-1 if one.step is None else one.step for one in models]),
            "kappa": np.stack([one.kappa for one in models]),
        },
    )


def share_of_each(kappa: np.ndarray, num_steps: int) -> list[float]:
    """The share of images of κ = 0, 1, ..., K."""
    return (np.bincount(kappa, minlength=num_steps + 1) / len(kappa)).tolist()


def by_class(subject: Subject, kappa: np.ndarray) -> list[dict[str, Any]]:
    """Mean κ and the share of each κ for every class that has images, hardest first."""
    found = []
    for label in np.unique(subject.labels).tolist():
        mine = kappa[subject.labels == label]
        found.append(
            {
                "class": label,
                "name": class_name(subject, label),
                "num_examples": len(mine),
                "mean": float(mine.mean()),
                "shares": share_of_each(mine, subject.steps),
            }
        )
    return sorted(found, key=lambda entry: entry["mean"])


def class_name(subject: Subject, label: int) -> str:
    """Of the dataset, or 'class 7'."""
    return subject.class_names[label] if label < len(subject.class_names) else f"class {label}"


def counted(number: int, what: str = "image") -> str:
    """'1 image', '3 images'."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def over_training(subject: Subject, line: Mapping[str, float]) -> list[Counted]:
    """κ at each kept checkpoint and of the exported model, in the order of steps.

    Args:
      line: of metrics.jsonl, or {}.
    """
    spec = subject.artifact.spec
    own_sha256, found = spec["sha256"][WEIGHTS], []
    for artifact, kappa in _series(subject):
        step = artifact.spec["step"]
        is_exported = artifact.spec["sha256"][WEIGHTS] == own_sha256
        name, epoch = artifact.spec["checkpoint"], _epoch(step, line)
        found.append(
            Counted(step=step, epoch=epoch, name=name, kappa=kappa, is_exported=is_exported)
        )
    if not any(one.is_exported for one in found):
        step = spec.get("step") if subject.workdir else None
        epoch = None if step is None else _epoch(step, line)
        own, _ = geometry.kappa_of(subject)
        found.append(Counted(step=step, epoch=epoch, name="the model", kappa=own, is_exported=True))
    return sorted(found, key=lambda one: -1 if one.step is None else one.step)


def _series(subject: Subject) -> Iterator[tuple[Any, np.ndarray]]:
    if subject.workdir is None:
        return iter(())
    series = export_series.artifacts(subject.workdir, subject.checkpoints, _kind(subject))
    return geometry.kappa_over(subject, series)


def _epoch(step: int, line: Mapping[str, float]) -> float | None:
    """The epoch of a step, by any line of the metrics: steps per epoch never change."""
    return round(step * line["epoch"] / line["step"], 2) if line.get("step") else None


def _trained_with(subject: Subject) -> dict[str, Any]:
    return (subject.artifact.spec.get("config") or {}).get("attack") or {}


def _kind(subject: Subject) -> str:
    """Of the weights that are measured at each checkpoint: as the run was exported."""
    return subject.artifact.spec.get("weights") or "ema"


def _apart(subject: Subject) -> str:
    """What the logged mean κ differs in from that of the checkpoints."""
    return (
        f"In training κ ({METRIC}) is of the live weights on the batches as augmented, at the "
        f"checkpoints of {subject_words.WEIGHTS[_kind(subject)]} on the images as they are."
    )


def _sentences(
    subject: Subject, models: Sequence[Counted], own: Counted, classes: Sequence[dict[str, Any]],
    is_logged: bool,
) -> list[str]:  # fmt: skip
    num_steps, kappa = subject.steps, own.kappa
    shares = share_of_each(kappa, num_steps)
    hardest, easiest = classes[0], classes[-1]
    at = "" if own.step is None else f" ({own.label})"
    told = [
        f"Under the exported model{at}, {len(kappa)} training images are right at "
        f"{kappa.mean():.2f} of the {num_steps} tested iterates on average: "
        f"{100 * shares[0]:.1f}% at none, {100 * shares[-1]:.1f}% at all of them.",
        f"The class that falls soonest is {hardest['name']} (mean κ {hardest['mean']:.2f}; "
        f"{counted(hardest['num_examples'])}), the one that stands longest {easiest['name']} "
        f"({easiest['mean']:.2f}; {counted(easiest['num_examples'])}).",
    ]
    first, last = models[0], models[-1]
    if len(models) > 1:
        rose = 100 * np.mean(last.kappa > first.kappa)
        fell = 100 * np.mean(last.kappa < first.kappa)
        told.append(
            f"From {first.label} to {last.label} the mean goes from {first.kappa.mean():.2f} to "
            f"{last.kappa.mean():.2f}: {rose:.0f}% of the images are right at more iterates than "
            f"before, {fell:.0f}% at fewer."
        )
        if len(models) < 4:
            told.append(
                "Few checkpoints are kept; to see more of the training, train with "
                "--config.checkpoint.keep_every_epochs=1."
            )
    told.append(
        f"κ counts the iterates x⁰ .. x^{num_steps - 1} of PGD on the cross-entropy (random start, "
        f"steps of {subject.step_size:.4g}, eps {subject.eps:.4g}) that are right; what the "
        f"last step reaches is not tested, as GAIRAT released it: κ = {num_steps} is to withstand "
        f"{counted(num_steps - 1, 'step')}."
    )
    told += subject_words.tell_models([subject])
    if is_logged:
        told.append(_apart(subject))
    if _trained_with(subject).get("statistics") == "batch":
        told.append(
            "Here the model normalises by its running statistics; its training attacked with "
            f"those of the batch, so that {METRIC} may differ."
        )
    return told


def _table(models: Sequence[Counted], num_steps: int) -> list[list[str]]:
    """A row a checkpoint."""
    head = ["checkpoint", "mean κ", "κ = 0", f"0 < κ < {num_steps}", f"κ = {num_steps}"]
    rows = []
    for one in models:
        none, *between, all_ = share_of_each(one.kappa, num_steps)
        rows.append(
            [
                one.label + (" (exported)" if one.is_exported else ""),
                f"{one.kappa.mean():.2f}",
                *(f"{100 * share:.1f}%" for share in (none, sum(between), all_)),
            ]
        )
    return [head, *rows]
