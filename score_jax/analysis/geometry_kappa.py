"""κ over training: how many attack steps images withstand, which change, and of which class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from score_jax import export_series, report_run
from score_jax.analysis import geometry
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
    """How many steps of the attack training images withstand, at each kept checkpoint.

    Source: Zhang et al. 2021 (GAIRAT), as released: see `geometry.robust_steps`.
    """
    subject = subject.on("train")
    run = report_run.read(subject.workdir, subject.data_dir) if subject.workdir else None
    epochs, means = run.series(METRIC) if run else ([], [])
    counted = over_training(subject, run.metrics[-1] if run and run.metrics else {})
    own = next(one for one in counted if one.is_exported)
    num_steps = subject.steps
    shares = [share_of_each(one.kappa, num_steps) for one in counted]
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
            for one, mine in zip(counted, shares, strict=True)
        ],
        "classes": classes,
        "logged": {"metric": METRIC, "epochs": epochs, "means": means},
    }
    from_to = [(one.epoch, float(one.kappa.mean())) for one in counted if one.epoch is not None]

    def draw_over():
        from score_jax.analysis import geometry_plots

        rows = [(one.label, mine) for one, mine in zip(counted, shares, strict=True)]
        return geometry_plots.shares(f"Attack steps withstood, {subject.name}", rows)

    def draw_mean():
        from score_jax.analysis import geometry_plots

        return geometry_plots.mean_kappa(subject.name, epochs, means, from_to, num_steps)

    def draw_classes():
        from score_jax.analysis import geometry_plots

        rows = [(entry["name"], entry["shares"]) for entry in classes]
        return geometry_plots.shares(f"Attack steps withstood by class, {own.label}", rows)

    pictures = {
        "over_training": Picture(
            "Share of training images by κ, the attack steps that they withstand, at each kept "
            "checkpoint", draw_over,
        ),
        "classes": Picture("Share of training images by κ, hardest class first", draw_classes),
    }  # fmt: skip
    if epochs or len(from_to) > 1:
        pictures["mean"] = Picture(
            "Mean κ in the batches of training, and of the images measured at each kept "
            "checkpoint", draw_mean,
        )  # fmt: skip
    return Finding(
        name="geometry_kappa",
        title=f"Attack steps withstood (κ), {subject.name}",
        summary=_sentences(subject, counted, own, classes),
        facts=facts,
        table=_table(counted, num_steps),
        pictures=pictures,
        arrays={
            "indices": subject.indices,
            "labels": subject.labels,
            "steps": np.array([-1 if one.step is None else one.step for one in counted]),
            "kappa": np.stack([one.kappa for one in counted]),
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
    weights = subject.artifact.spec.get("weights", "ema")
    series = export_series.artifacts(subject.workdir, subject.checkpoints, weights)
    return geometry.kappa_over(subject, series)


def _epoch(step: int, line: Mapping[str, float]) -> float | None:
    """The epoch of a step, by any line of the metrics: steps per epoch never change."""
    return round(step * line["epoch"] / line["step"], 2) if line.get("step") else None


def _trained_with(subject: Subject) -> dict[str, Any]:
    return (subject.artifact.spec.get("config") or {}).get("attack") or {}


def _sentences(
    subject: Subject, counted: Sequence[Counted], own: Counted, classes: Sequence[dict[str, Any]]
) -> list[str]:
    num_steps, kappa = subject.steps, own.kappa
    shares = share_of_each(kappa, num_steps)
    hardest, easiest = classes[0], classes[-1]
    at = "" if own.step is None else f" ({own.label})"
    told = [
        f"Under the exported model{at}, {len(kappa)} training images withstand {kappa.mean():.2f} "
        f"of {num_steps} steps on average: {100 * shares[0]:.1f}% none, "
        f"{100 * shares[-1]:.1f}% all of them.",
        f"The class that falls soonest is {hardest['name']} ({hardest['mean']:.2f} steps), the one "
        f"that stands longest {easiest['name']} ({easiest['mean']:.2f}).",
    ]
    first, last = counted[0], counted[-1]
    if len(counted) > 1:
        rose = 100 * np.mean(last.kappa > first.kappa)
        fell = 100 * np.mean(last.kappa < first.kappa)
        told.append(
            f"From {first.label} to {last.label} the mean goes from {first.kappa.mean():.2f} to "
            f"{last.kappa.mean():.2f}: {rose:.0f}% of the images withstand more steps than "
            f"before, {fell:.0f}% fewer."
        )
        if len(counted) < 4:
            told.append(
                "Few checkpoints are kept; to see more of the training, train with "
                "--config.checkpoint.keep_every_epochs=1."
            )
    told.append(
        f"κ counts the iterates x⁰ .. x^{num_steps - 1} of PGD on the cross-entropy (random start, "
        f"steps of {subject.step_size:.4g}, eps {subject.eps:.4g}) that are right; the last one is "
        "not tested, as GAIRAT released it."
    )
    if _trained_with(subject).get("statistics") == "batch":
        told.append(
            "Here the model normalises by its running statistics; its training attacked with "
            f"those of the batch, so that {METRIC} may differ."
        )
    return told


def _table(counted: Sequence[Counted], num_steps: int) -> list[list[str]]:
    """A row a checkpoint."""
    head = ["checkpoint", "mean κ", "κ = 0", f"0 < κ < {num_steps}", f"κ = {num_steps}"]
    rows = []
    for one in counted:
        none, *between, all_ = share_of_each(one.kappa, num_steps)
        rows.append(
            [
                one.label + (" (exported)" if one.is_exported else ""),
                f"{one.kappa.mean():.2f}",
                *(f"{100 * share:.1f}%" for share in (none, sum(between), all_)),
            ]
        )
    return [head, *rows]
