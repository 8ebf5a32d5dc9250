"""How far images are from being wrong: margins of the logits, and distances in pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from score_jax.analysis import geometry
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.geometry import FAB_STEPS, FAB_TARGETS, PGD_STEPS, Margins
from score_jax.analysis.subject import Subject
from score_jax.analysis.subject_words import tell_models
from score_jax.report_run import NORMS

SPLITS = ("train", "test")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def margins(subject: Subject) -> Finding:
    """Margins of training and test images: clean, under PGD, and as a distance; and κ's part in it.

    Runs beside the subject are measured on the same test images.
    """
    found = {split: geometry.margins_of(subject.on(split)) for split in SPLITS}
    others = {run.name: geometry.margins_of(run.on("test")) for run in subject.beside}
    train, test = (subject.on(split) for split in SPLITS)
    kappa, _ = geometry.kappa_of(train)
    relation = by_kappa(kappa, found["train"].distance, subject.steps)
    rows = {split: _numbers(one, subject.eps) for split, one in found.items()}
    rows |= {f"test, {name}": _numbers(one, subject.eps) for name, one in others.items()}
    facts = {
        **test.facts(),
        "split": list(SPLITS),
        "num_examples": {split: len(one.clean) for split, one in found.items()},
        "train_data_sha256": train.data_sha256,
        "attack": f"PGD-{PGD_STEPS} on the logit margin",
        "distance": f"FAB-T, {FAB_TARGETS} targets, {FAB_STEPS} steps each; PGD where it is nearer",
        "margins": rows,
        "runs": {run.name: run.measured_model() for run in (subject, *subject.beside)},
        "kappa": relation,
    }

    def draw_logits():
        from score_jax.analysis import geometry_margin_plots

        return geometry_margin_plots.logit_margins(subject.name, found)

    def draw_distances():
        from score_jax.analysis import geometry_margin_plots

        shown = {"train": found["train"].distance, "test": found["test"].distance}
        shown |= {f"test, {name}": one.distance for name, one in others.items()}
        title = f"Distance to the nearest wrong image, {subject.name}"
        return geometry_margin_plots.distances(title, shown, subject.eps, NORMS[subject.norm])

    def draw_kappa():
        from score_jax.analysis import geometry_margin_plots

        return geometry_margin_plots.distance_by_kappa(
            subject.name, relation["groups"], subject.eps, NORMS[subject.norm]
        )

    return Finding(
        name="geometry_margins",
        title=f"Margins, {subject.name}",
        summary=_sentences(subject, rows, relation),
        facts=facts,
        table=_table(rows, subject.eps),
        pictures={
            "logits": Picture("Logit margins, clean and under attack", draw_logits),
            "distances": Picture("Distance to the nearest wrong image found", draw_distances),
            "kappa": Picture("Distance to the nearest wrong image, by κ", draw_kappa),
        },
        arrays={
            f"{split}_{name}": getattr(one, name)
            for split, one in found.items()
            for name in ("clean", "attacked", "distance")
        }
        | {f"{split}_indices": subject.on(split).indices for split in SPLITS}
        | {"train_kappa": kappa},
    )


def by_kappa(kappa: np.ndarray, distance: np.ndarray, num_steps: int) -> dict[str, Any]:
    """The quartiles of the distance for each κ that images have, and how the two rank alike.

    Args:
      kappa: i32[n].
      distance: f32[n]; infinite where none was found.

    Returns:
      'spearman': rank correlation, None where either is the same for all; 'spearman_of_fallen':
      the same of images of κ < K; 'groups': kappa, num_examples, quartiles.
    """
    fallen = kappa < num_steps
    groups = []
    for value in np.unique(kappa).tolist():
        mine = distance[kappa == value]
        groups.append(
            {
                "kappa": value,
                "num_examples": len(mine),
                "quartiles": quantiles(mine, (0.25, 0.5, 0.75)),
            }
        )
    return {
        "spearman": _spearman(kappa, distance),
        "spearman_of_fallen": _spearman(kappa[fallen], distance[fallen]),
        "groups": groups,
    }


def quantiles(values: np.ndarray, shares: Sequence[float]) -> list[float | None]:
    """Each is one of the values; None where it is infinite."""
    found = np.quantile(values, shares, method="inverted_cdf").tolist()
    return [value if np.isfinite(value) else None for value in found]


def named_quantiles(values: np.ndarray) -> dict[str, float | None]:
    """'0.05' and the others of `QUANTILES` -> value."""
    return dict(zip(map(str, QUANTILES), quantiles(values, QUANTILES), strict=True))


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return None
    return float(stats.spearmanr(first, second).statistic)


def _numbers(found: Margins, eps: float) -> dict[str, Any]:
    """What the table tells of a set of images."""
    return {
        "num_examples": len(found.clean),
        "clean_accuracy": float((found.clean > 0).mean()),
        "pgd_accuracy": float((found.attacked > 0).mean()),
        "share_beyond_eps": float((found.distance > eps).mean()),
        "not_found": int(np.isinf(found.distance).sum()),
        "clean_margin": named_quantiles(found.clean),
        "attacked_margin": named_quantiles(found.attacked),
        "distance": named_quantiles(found.distance),
    }


def _sentences(
    subject: Subject, rows: Mapping[str, Mapping[str, Any]], relation: Mapping[str, Any]
) -> list[str]:
    train, test = (rows[split] for split in SPLITS)
    norm = NORMS[subject.norm]
    told = [
        f"Half of the test images have a wrong image within {_written(test['distance']['0.5'])} "
        f"({norm}; eps is {subject.eps:.4g}), half of the training images within "
        f"{_written(train['distance']['0.5'])}.",
        f"The median logit margin falls under attack from {test['clean_margin']['0.5']:.2f} to "
        f"{test['attacked_margin']['0.5']:.2f} on test images, from "
        f"{train['clean_margin']['0.5']:.2f} to {train['attacked_margin']['0.5']:.2f} on training "
        "images.",
        f"No wrong image was found within eps for {100 * test['share_beyond_eps']:.1f}% of the "
        f"test images; PGD-{PGD_STEPS} alone leaves {100 * test['pgd_accuracy']:.1f}% right.",
    ]
    if relation["spearman"] is not None:
        standing = relation["groups"][-1]
        told.append(
            f"κ and the distance rank training images alike with a Spearman correlation of "
            f"{relation['spearman']:.2f}"
            + (
                f"; κ cannot tell apart the {standing['num_examples']} that are right at all "
                f"{subject.steps} tested iterates."
                if standing["kappa"] == subject.steps
                else "."
            )
        )
    if test["not_found"]:
        told.append(f"For {test['not_found']} test images no wrong image was found at all.")
    told.append(
        "The distances are those of the nearest wrong images that were found: the true ones may "
        "be less."
    )
    told += tell_models([subject, *subject.beside])
    return told


def _written(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3f}"


def _table(rows: Mapping[str, Mapping[str, Any]], eps: float) -> list[list[str]]:
    """A row a set of images; margins are medians."""
    head = [
        "images", "n", "clean", f"PGD-{PGD_STEPS}", f"beyond {eps:.3g}", "margin", "attacked",
        "distance 5%", "50%", "95%",
    ]  # fmt: skip
    return [
        head,
        *(
            [
                name,
                str(row["num_examples"]),
                *(
                    f"{100 * row[part]:.1f}%"
                    for part in ("clean_accuracy", "pgd_accuracy", "share_beyond_eps")
                ),
                f"{row['clean_margin']['0.5']:.2f}",
                f"{row['attacked_margin']['0.5']:.2f}",
                *(_written(row["distance"][share]) for share in ("0.05", "0.5", "0.95")),
            ]
            for name, row in rows.items()
        ),
    ]
