"""The weights that GAIRAT gives training images by κ: which it turns to, and how many are left."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import objectives
from score_jax.analysis import geometry
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.geometry_kappa import class_name, counted
from score_jax.analysis.subject import Subject
from score_jax.analysis.subject_words import tell_models
from score_jax.objectives.gairat import LOG_WEIGHTS, Gairat

SHOWN = 10  # Images at each end.
LEAST_STEPS = 2  # Of the attack: of one, κ has no middle to weigh from.
PASSES = 50  # Over the images, each in another order, for the spread over batches.


def weights(subject: Subject) -> Finding:
    """ω(κ) of the run's objective, or of GAIRAT as published, normalised over random batches.

    Source: Zhang et al. 2021, `objectives.gairat`.
    """
    subject = subject.on("train")
    objective, is_own = objective_of(subject)
    kappa, final_margin = geometry.kappa_of(subject)
    batch_size = _batch_size(subject)
    found = by_kappa(kappa, subject.steps, objective, batch_size=batch_size, seed=subject.seed)
    each = np.array([entry["normalised"] or 0.0 for entry in found])[kappa]
    classes = _by_class(subject, each)
    # Of equal κ, by the margin that the attack leaves.
    order = np.lexsort((final_margin, kappa))
    shown = min(SHOWN, len(order) // 2)
    most, least = order[:shown], order[::-1][:shown]
    left = float(each.sum() ** 2 / np.square(each).sum() / len(each))
    facts = {
        **subject.facts(),
        "num_steps": subject.steps,
        "step_size": subject.step_size,
        "weighting": objective.weights,
        "lambda": objective.weight_lambda,
        "weights_are_of_the_run": is_own,
        "batch_size": batch_size,
        "kappa": found,
        "classes": classes,
        "effective_share": left,
        "most": _written(subject, most, kappa, each),
        "least": _written(subject, least, kappa, each),
    }

    def draw_shares():
        from score_jax.analysis import geometry_plots

        return geometry_plots.weight_shares(
            subject.name, [entry["share"] for entry in found], [e["weight_share"] for e in found]
        )

    def draw_sheet():
        from score_jax.analysis import geometry_plots

        return geometry_plots.weight_sheet(
            subject.name,
            {
                name: [
                    (subject.images[row], f"{class_name(subject, int(subject.labels[row]))}, "
                     f"κ {kappa[row]}")
                    for row in rows
                ]
                for name, rows in (("weigh\nmost", most), ("weigh\nleast", least))
            },
        )  # fmt: skip

    def draw_classes():
        from score_jax.analysis import geometry_plots

        ratios = [(entry["name"], entry["ratio"]) for entry in classes]
        return geometry_plots.class_weights(subject.name, ratios)

    return Finding(
        name="geometry_weights",
        title=f"Weights of training images (GAIRAT), {subject.name}",
        summary=_sentences(subject, objective, is_own, batch_size, found, classes, left),
        facts=facts,
        table=_table(found),
        pictures={
            "shares": Picture("What share of the weight the images of each κ have", draw_shares),
            "sheet": Picture(
                f"The {shown} training images that weigh most, and those that weigh least",
                draw_sheet,
            ),
            "classes": Picture(
                "Mean weight of each class; 1 is the mean of all images", draw_classes
            ),
        },
        arrays={
            "indices": subject.indices,
            "labels": subject.labels,
            "kappa": kappa,
            "weights": each,
            "final_margin": final_margin,
        },
    )


def objective_of(subject: Subject) -> tuple[Gairat, bool]:
    """The objective whose weights are shown, and whether the run was trained with it."""
    section = dict((subject.artifact.spec.get("config") or {}).get("objective") or {})
    if section.get("name") == "gairat":
        return objectives.create(**section), True
    return Gairat(), False


def by_kappa(
    kappa: np.ndarray, num_steps: int, objective: Gairat, *, batch_size: int, seed: int
) -> list[dict[str, Any]]:
    """What images of each κ weigh at the end of training, for κ = 0 .. K.

    Args:
      kappa: i32[n].
      batch_size: the weights are normalised over random batches of so many of the images.

    Returns:
      'kappa', 'share' of the images, 'raw' ω in (0, 1), 'normalised' the mean of ω̂ over the
      batches, 'low' and 'high' its quantiles .05 and .95, 'weight_share': of all weights; ω̂ of a
      κ that no image has is None.
    """
    rng, size = np.random.default_rng(seed), min(batch_size, len(kappa))
    whole = len(kappa) // size * size
    drawn = np.stack([rng.permutation(kappa)[:whole] for _ in range(PASSES)]).reshape(-1, size)

    def log_weights(steps):
        return LOG_WEIGHTS[objective.weights](steps, num_steps, objective.weight_lambda)

    normalised = jax.jit(lambda steps: size * jax.nn.softmax(log_weights(steps), axis=-1))
    weights = np.asarray(normalised(drawn.astype(np.float32)), np.float64)
    raw = np.exp(log_weights(jnp.arange(num_steps + 1, dtype=jnp.float32)))
    found = []
    for value in range(num_steps + 1):
        mine = weights[drawn == value]
        low, high = np.quantile(mine, (0.05, 0.95)).tolist() if len(mine) else (None, None)
        found.append(
            {
                "kappa": value,
                "share": float((kappa == value).mean()),
                "raw": float(raw[value]),
                "normalised": float(mine.mean()) if len(mine) else None,
                "low": low,
                "high": high,
                "weight_share": float(mine.sum() / weights.sum()),
            }
        )
    return found


def _batch_size(subject: Subject) -> int:
    """Of training; 128, as published, where the model does not tell it; all images if fewer."""
    config = subject.artifact.spec.get("config") or {}
    asked = int((config.get("data") or {}).get("batch_size", 128))
    return min(asked, len(subject.images))


def _by_class(subject: Subject, each: np.ndarray) -> list[dict[str, Any]]:
    """How much an image of each class weighs on average, the heaviest first."""
    found = [
        {
            "class": label,
            "name": class_name(subject, label),
            "num_examples": int(mine.sum()),
            "ratio": float(each[mine].mean() / each.mean()),
        }
        for label in np.unique(subject.labels).tolist()
        for mine in (subject.labels == label,)
    ]
    return sorted(found, key=lambda entry: -entry["ratio"])


def _written(
    subject: Subject, rows: np.ndarray, kappa: np.ndarray, each: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "index": int(subject.indices[row]),
            "label": int(subject.labels[row]),
            "kappa": int(kappa[row]),
            "weight": float(each[row]),
        }
        for row in rows
    ]


def _sentences(
    subject: Subject, objective: Gairat, is_own: bool, batch_size: int,
    found: Sequence[Mapping[str, Any]], classes: Sequence[Mapping[str, Any]], left: float,
) -> list[str]:  # fmt: skip
    there = [entry for entry in found if entry["normalised"] is not None]
    first, last = there[0], there[-1]
    half = len(found) // 2
    soon = [entry for entry in found if entry["kappa"] < half]
    told = [
        f"Images that are right at fewer than {half} of the {subject.steps} tested iterates are "
        f"{100 * sum(entry['share'] for entry in soon):.1f}% of the images and have "
        f"{100 * sum(entry['weight_share'] for entry in soon):.1f}% of the weight.",
        f"An image of κ = {first['kappa']} weighs {first['normalised']:.2f} on average, one of "
        f"κ = {last['kappa']} {last['normalised']:.2g} (1 is the mean of a batch); the effective "
        f"number of images, (Σω)²/Σω², is {100 * left:.0f}% of theirs.",
        f"The class that weighs most is {classes[0]['name']} ({classes[0]['ratio']:.2f} of the "
        f"mean; {counted(classes[0]['num_examples'])}), the one that weighs least "
        f"{classes[-1]['name']} ({classes[-1]['ratio']:.2f}; "
        f"{counted(classes[-1]['num_examples'])}).",
        f"Weights: {objective.weights} with Λ = {objective.weight_lambda:g}, normalised over "
        f"random batches of {counted(batch_size)}.",
        *tell_models([subject]),
    ]
    if not is_own:
        told.append(
            "This run was not trained with objective gairat: these are the weights which GAIRAT, "
            "as published, would give its images."
        )
    return told


def _table(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each κ."""

    def written(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    head = ["κ", "images", "ω", "ω̂ mean", "ω̂ 5%", "ω̂ 95%", "share of the weight"]
    rows = [
        [
            str(entry["kappa"]),
            f"{100 * entry['share']:.1f}%",
            written(entry["raw"]),
            *(written(entry[name]) for name in ("normalised", "low", "high")),
            f"{100 * entry['weight_share']:.1f}%",
        ]
        for entry in found
    ]
    return [head, *rows]
