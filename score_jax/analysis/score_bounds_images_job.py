"""`score-jax analyze score-bounds --problem=images`: estimates with a surrogate for p(y|x)."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from score_jax import artifact as artifacts
from score_jax.analysis import ball_words, score_bounds, score_bounds_images, score_bounds_words
from score_jax.analysis.finding import Finding
from score_jax.analysis.score_bounds import Errors, Predictor
from score_jax.artifact import SPEC, WEIGHTS, Artifact
from score_jax.command_line import Call, UsageError
from score_jax.command_line_run import artifact_of, radius_of
from score_jax.data import sources
from score_jax.types import UserError
from score_jax.writers_progress import counted


def run(call: Call, names: tuple[str, ...]) -> Iterator[Finding]:
    """Errors of an exported model on test images, against each surrogate."""
    path = artifact_of(call)
    given = _temperature(call)
    eps = radius_of(call, path)
    artifact = artifacts.load(path)
    spec = artifact.spec
    eps = float(spec["eps"] if eps is None else eps)
    if spec["norm"] not in ("linf", "l2"):
        raise UserError(f"{path}: norm {spec['norm']!r} has no ball here; known: linf, l2")
    surrogate = _surrogate(call.surrogate, artifact) if call.surrogate else None
    data = sources.test_split(spec["dataset"], call.data_dir)
    count = min(call.num_examples or len(data), len(data))
    images, labels = data.images[:count], data.labels[:count]
    num_classes = spec["model"]["num_classes"]
    truths: dict[str, Callable[[jax.Array], Predictor]] = {
        "labels": functools.partial(_targets, num_classes, 0.0),
        "smoothed": functools.partial(_targets, num_classes, score_bounds_images.SMOOTHING),
    }
    facts: dict[str, Any] = {
        "problem": "images",
        "artifact": str(path),
        "dataset": data.name,
        "split": "test",
        "num_examples": count,
        "norm": spec["norm"],
        "eps": eps,
        "smoothing": score_bounds_images.SMOOTHING,
        "seed": call.seed,
        "model_sha256": spec["sha256"][WEIGHTS],
        "data_sha256": data.fingerprint,
    }
    if surrogate:
        logits = score_bounds_images.clean_logits(surrogate, images, call.batch_size)
        temperature = given or score_bounds_images.fit_temperature(logits, labels)
        answers = score_bounds_images.softmax(surrogate, temperature)
        truths["surrogate"] = lambda batch: answers
        facts["surrogate"] = {
            "path": str(surrogate.path),
            "sha256": surrogate.spec["sha256"][WEIGHTS],
            "temperature": temperature,
            "is_temperature_fitted": not given,
            "accuracy": float((logits.argmax(-1) == labels).mean()),
        }
    facts["steps"] = score_bounds_images.NUM_STEPS if call.steps == -1 else call.steps
    facts["restarts"] = 1 if call.restarts == -1 else call.restarts
    model = score_bounds_images.softmax(artifact)
    errors: dict[str, Errors] = {}
    for name, truth_of in truths.items():
        with counted(f"{name} for p(y|x): images", count) as tell:
            errors[name] = score_bounds_images.measure(
                names, truth_of, model, images, labels, norm=spec["norm"], eps=eps,
                num_steps=facts["steps"], restarts=facts["restarts"], seed=call.seed,
                batch_size=call.batch_size, tell=tell,
            )  # fmt: skip
    rows = {name: score_bounds.bounds(names, found) for name, found in errors.items()}
    facts["errors"] = {
        name: {of: bound.facts() for of, bound in found.items()} for name, found in rows.items()
    }
    facts["standard_error_of_score"] = {
        name: score_bounds.standard_errors(names, found) for name, found in errors.items()
    }
    ball = ball_words.in_titles(spec["norm"], eps)
    stem = ["score_bounds_images", ball_words.in_file_names(spec["norm"], eps)]
    stem += [_stem(call.surrogate)] if surrogate else []
    against = f", surrogate {call.surrogate}" if surrogate else ""
    yield Finding(
        name="_".join(stem),
        title=f"SCORE's bounds of {path} on {count} test images of {data.name}, {ball}, estimates",
        summary=[
            *_stated(facts, call), *score_bounds_words.verdict(rows), _lesson(rows, names),
            f"Every number is an estimate, every maximum over the ball, {ball}, one from below: "
            f"{facts['restarts']} x {facts['steps']} steps of ascent for each of the errors.",
        ],
        facts=facts,
        table=score_bounds_words.table_of(rows, f"p(y|x), {ball}"),
        pictures={
            "intervals": score_bounds_words.picture_of(
                rows, f"Does R_SCORE on {data.name} lie between its bounds?",
                f"{path}, {count} test images, {ball}{against}",
            )
        },
        arrays={
            f"{name}_{kind}": values
            for name, found in errors.items()
            for kind, values in (("standard", found.standard), ("largest", found.largest))
        },
    )  # fmt: skip


def _targets(num_classes: int, smoothing: float, labels: jax.Array) -> Predictor:
    return score_bounds_images.targets(labels, num_classes, smoothing)


def _temperature(call: Call) -> float:
    """The one given; 0 for one to be fitted."""
    if not call.temperature:
        return 0.0
    if not call.surrogate:
        raise UsageError(f"--temperature={call.temperature} is of a --surrogate, which is missing")
    try:
        value = float(call.temperature)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"--temperature={call.temperature} is none; give a number above 0, such as 1.5"
        )
    return value


def _surrogate(path: str, artifact: Artifact) -> Artifact:
    """Another model of the same images and classes."""
    surrogate = artifacts.load(path)
    same = "is the model itself, whose errors against itself are 0; give another export"
    if surrogate.spec["sha256"][WEIGHTS] == artifact.spec["sha256"][WEIGHTS]:
        raise UserError(f"--surrogate={path} {same}")
    here, there = (a.spec["model"] for a in (artifact, surrogate))
    trained = [a.spec["dataset"] for a in (artifact, surrogate)]
    if trained[0] != trained[1]:
        raise UserError(
            f"--surrogate={path} was trained on {trained[1]} as its {SPEC} says, the model on "
            f"{trained[0]}; give a model of {trained[0]}"
        )
    for field in ("image_shape", "num_classes"):
        if here[field] != there[field]:
            raise UserError(
                f"--surrogate={path} has {field} {there[field]} in its {SPEC}, the model has "
                f"{here[field]}; give a model of {artifact.spec['dataset']}"
            )
    return surrogate


def _stem(path: str) -> str:
    """A surrogate in a file's name: the folder of its run, or its own."""
    place = Path(path).absolute()
    name = place.parent.name if place.name == "export" else place.name
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _stated(facts: dict[str, Any], call: Call) -> Sequence[str]:
    said = [
        "p(y|x) of images is not known. 'labels' and 'smoothed' take the label of an image, "
        f"one-hot or with {facts['smoothing']:g} shared by the other classes, for the truth "
        "everywhere in its ball: so C = 0 and R_SCORE = R_Madry. With one-hot labels that is the "
        "finite-sample form R_Madry(θ; n) on these images."
    ]
    if "surrogate" not in facts:
        return [*said, "With --surrogate=EXPORT another model's softmax is the truth as well."]
    other = facts["surrogate"]
    how = "fitted to the labels of these images" if other["is_temperature_fitted"] else "given"
    return [
        *said,
        f"'surrogate' takes the softmax of {call.surrogate} at temperature "
        f"{other['temperature']:.3f} ({how}; accuracy {other['accuracy']:.1%}).",
    ]


def _lesson(rows, names: Sequence[str]) -> str:
    of = next((name for name in names if name in score_bounds.METRICS), names[0])
    if "surrogate" not in rows:
        bound = rows["labels"][of]
        return f"In {of} R_Standard is {bound.standard:.4f}, R_Madry and R_SCORE {bound.madry:.4f}."
    bound = rows["surrogate"][of]
    return (
        f"In {of}, against the surrogate, R_Standard is {bound.standard:.4f}, R_Madry "
        f"{bound.madry:.4f} and R_SCORE {bound.score:.4f}, while the surrogate itself changes by "
        f"C = {bound.change:.4f} within a ball."
    )
