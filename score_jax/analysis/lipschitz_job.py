"""`score-jax analyze lipschitz`: how fast the logits of a model change near images."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import artifact as artifacts
from score_jax.analysis import lipschitz, subject
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.lipschitz_tangent import EXACT_CLASSES, tangent_slope
from score_jax.analysis.subject import Subject
from score_jax.command_line import Call, UsageError
from score_jax.command_line_run import artifact_of, radius_of
from score_jax.data import sources

SPLITS = ("train", "test")
QUANTILES = (0.1, 0.5, 0.9, 1.0)
NOTE = (
    "official: the released estimator, very probably behind the published numbers, which descends: "
    "no maximum. ascent: the steepest change that a search found within eps. gradient: {gradient}. "
    "But for rounding the latter two never exceed the true constant where the logits are "
    "differentiable."
)
EXACT = "the steepest change in the limit at the image itself, exact for the gradient as computed"
SEARCHED = "the steepest change in the limit at the image itself that was found, from below"


def run(call: Call) -> Iterator[Finding]:
    """The released estimate, the corrected one, and the slope at the images themselves."""
    path = artifact_of(call)
    if call.steps < -1:
        raise UsageError(f"--steps={call.steps} is no walk; give 0 or more")
    if call.restarts < -1 or call.restarts == 0:
        raise UsageError(f"--restarts={call.restarts} is no search; give 1 or more")
    found = measure(
        path,
        splits=(call.split,) if call.values["split"].present else SPLITS,
        data_dir=call.data_dir,
        num_examples=call.num_examples,
        eps=radius_of(call, path, "linf"),
        steps=None if call.steps == -1 else call.steps,
        restarts=lipschitz.RESTARTS if call.restarts == -1 else call.restarts,
        batch_size=call.batch_size,
        seed=call.seed,
    )
    if not call.workdir and not call.out:  # Of all models into one folder.
        found = replace(found, name=_own_name(path, found.facts["eps"]))
    yield found


def _own_name(path: str, eps: float) -> str:
    """'lipschitz_RUN_eps0.03', which another model or radius has not."""
    return f"lipschitz_{re.sub(r'[^A-Za-z0-9_.-]', '-', subject.name_of(path))}_eps{eps:.6g}"


def measure(
    path: str,
    *,
    splits: Sequence[str] = SPLITS,
    data_dir: str = "",
    num_examples: int = 0,
    eps: float | None = None,
    steps: int | None = None,
    restarts: int = lipschitz.RESTARTS,
    batch_size: int = 500,
    seed: int = 0,
) -> Finding:
    """The finding 'lipschitz' of an exported model.

    Args:
      path: of the artifact.
      splits: of 'train', the images that were trained on, and 'test'.
      data_dir: where datasets lie.
      num_examples: the first so many of each split; 0: all.
      eps: L∞ radius, pixel units; None: the model's own.
      steps: of the search, as many as are usual for None; official always takes its 10.
      restarts: of the search.

    Raises:
      UsageError: eps is needed, since the model's own radius is of another norm.
      UserError: a model or dataset that cannot be read, or do not fit each other.
    """
    artifact = artifacts.load(path)
    spec = artifact.spec
    if eps is None and spec["norm"] != "linf":
        raise UsageError(
            f"--eps is needed, such as --eps=8/255: the walk is in the L∞ ball, the model's "
            f"own radius {spec['eps']:g} is of norm {spec['norm']}"
        )
    eps = float(spec["eps"] if eps is None else eps)
    given = {
        "name": Path(path).name, "workdir": None, "artifact": artifact, "norm": "linf", "eps": eps,
        "class_names": sources.class_names(spec["dataset"], data_dir), "seed": seed,
        "steps": lipschitz.SEARCH_STEPS if steps is None else steps, "step_size": 0.0,
        "batch_size": batch_size, "data_dir": data_dir, "num_examples": num_examples,
    }  # fmt: skip
    subjects = {
        split: Subject(
            split=split, **given, **subject.read(artifact, split, data_dir, num_examples)
        )
        for split in splits
    }
    found = {split: estimates(of, restarts) for split, of in subjects.items()}
    return _finding(subjects, found, restarts)


def estimates(of: Subject, restarts: int) -> dict[str, np.ndarray]:
    """'official', 'ascent' and 'gradient' -> f32[n], one an image.

    The steps of the search are the subject's, those of the released estimator as released.
    """

    def compute(logits_fn, keys, images, labels):
        del labels
        noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
        official = lipschitz.local_lipschitz(
            logits_fn, jax.random.key(0), images, eps=of.eps, noise=noise
        )
        gradient, corners = tangent_slope(logits_fn, keys, images)
        searched = lipschitz.steepest(
            logits_fn, keys, images, corners, eps=of.eps, steps=of.steps, restarts=restarts
        )
        # The limit at the image itself is a slope of the ball too.
        return {
            "official": official,
            "ascent": jnp.maximum(searched, gradient),
            "gradient": gradient,
        }

    return subject.per_example(of, compute, f"{of.split}: images searched around")


def _finding(
    subjects: dict[str, Subject],
    found: dict[str, dict[str, np.ndarray]],
    restarts: int,
) -> Finding:
    some = next(iter(subjects.values()))
    num_classes = some.artifact.spec["model"]["num_classes"]
    told = {split: _told(values, len(subjects[split].images)) for split, values in found.items()}
    note = NOTE.format(gradient=EXACT if num_classes <= EXACT_CLASSES else SEARCHED)

    def draw():
        from score_jax.analysis import lipschitz_plots

        return lipschitz_plots.distributions(found, some.eps)

    return Finding(
        name="lipschitz",
        title=f"Local Lipschitz constant, L∞ eps {some.eps:.4g}",
        summary=[*(_sentence(split, told[split]) for split in reversed(told)), note],
        facts={
            "dataset": some.artifact.spec["dataset"],
            "norm": "linf",
            "eps": some.eps,
            "seed": some.seed,
            "official_steps": lipschitz.NUM_STEPS,
            "official_step_size": lipschitz.STEP_SIZE,
            "steps": some.steps,
            "restarts": restarts,
            "gradient_is_exact": num_classes <= EXACT_CLASSES,
            "splits": told,
            "note": note,
            "model_sha256": some.artifact.spec["sha256"][artifacts.WEIGHTS],
            "data_sha256": {split: of.data_sha256 for split, of in subjects.items()},
        },
        table=_table(told),
        pictures={
            "distributions": Picture(
                "Around how many images the logits change how fast: each image's local Lipschitz "
                "constant as released (descending), by ascent, and of the gradient.",
                draw,
            )
        },
        arrays={
            f"{split}_{name}": values for split, of in found.items() for name, values in of.items()
        },
    )


def _told(values: dict[str, np.ndarray], count: int) -> dict[str, Any]:
    """Means and quantiles, in float64."""
    wide = {name: of.astype(np.float64) for name, of in values.items()}
    return {
        "num_examples": count,
        **{name: float(of.mean()) for name, of in wide.items()},
        "quantiles": {
            name: {f"{q:g}": float(np.quantile(of, q)) for q in QUANTILES}
            for name, of in wide.items()
        },
    }


def _sentence(split: str, told: dict[str, Any]) -> str:
    ratio = told["ascent"] / told["official"] if told["official"] else 0.0
    times = f", {ratio:.{0 if ratio >= 10 else 1}f} times that" if ratio else ""
    return (
        f"Around {told['num_examples']} {split} images the mean is {told['official']:.3f} as "
        f"released; the logits do change by {told['ascent']:.3f} a unit of distance{times} "
        f"(ascent), and by {told['gradient']:.3f} at the images themselves (gradient)."
    )


def _table(told: dict[str, dict[str, Any]]) -> list[list[str]]:
    names = ["10%", "median", "90%", "largest"]
    rows = [["estimate", "images", "mean", *names]]
    for name in ("official", "ascent", "gradient"):
        for split, of in told.items():
            quantiles = [f"{value:.3f}" for value in of["quantiles"][name].values()]
            rows.append([name, f"{of['num_examples']} {split}", f"{of[name]:.3f}", *quantiles])
    return rows
