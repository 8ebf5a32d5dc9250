"""The job `score-jax analyze WHAT`: each measurement with its flags, told and kept as JSON.

Nothing heavy is imported before a measurement runs, so that `--help` answers at once.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from score_jax.command_line import Call, Job, UsageError, suggest
from score_jax.command_line_run import artifact_of, radius_of

if TYPE_CHECKING:
    from score_jax.analysis.separation import Nearest
    from score_jax.data.sources import Images

NUM_SMALLEST = 10
NORMS = {"linf": math.inf, "l2": 2, "l1": 1}


def _first(data: "Images", count: int) -> tuple[Any, Any]:
    """Images and labels; of the first `count` where that is not 0."""
    end = min(count, len(data)) or len(data)
    return data.images[:end], data.labels[:end]


def _separation(call: Call) -> dict[str, Any]:
    from score_jax.analysis.separation import nearest_other
    from score_jax.data import sources
    from score_jax.writers import LOGGER

    norm = call.norm or "linf"
    train = sources.train_split(call.data, call.data_dir)
    test = sources.test_split(call.data, call.data_dir)
    references = _first(train, call.num_examples)
    facts: dict[str, Any] = {
        "dataset": call.data,
        "norm": norm,
        "num_train": len(references[1]),
        "num_test": len(_first(test, call.num_examples)[1]),
        "data_sha256": {"train": train.fingerprint, "test": test.fingerprint},
    }
    for name, queries in (
        ("test_train", _first(test, call.num_examples)),
        ("train_train", references),
    ):
        LOGGER.info("%s: %d x %d images", name, len(queries[1]), len(references[1]))
        before = time.monotonic()
        found = nearest_other(*queries, *references, p=NORMS[norm])
        facts[name] = {**_distances(found), "seconds": round(time.monotonic() - before, 3)}
        LOGGER.info("%s: smallest distance %.4f", name, facts[name]["smallest"])
    return facts


def _distances(found: "Nearest") -> dict[str, Any]:
    """What tells a dataset's separation, and which few pairs it hangs on."""
    order = found.distances.argsort(kind="stable")[:NUM_SMALLEST]
    return {
        "smallest": float(found.distances.min()),
        "mean": float(found.distances.mean()),
        "nearest_pairs": [
            {"query": int(i), "train": int(found.indices[i]), "distance": float(found.distances[i])}
            for i in order
        ],
    }


def _lipschitz(call: Call) -> dict[str, Any]:
    path = artifact_of(call)
    if call.steps < -1:
        raise UsageError(f"--steps={call.steps} is no walk; give 0 or more")
    eps = radius_of(call, path, "linf")
    from score_jax import artifact as artifacts
    from score_jax.analysis import lipschitz
    from score_jax.data import sources

    artifact = artifacts.load(path)
    spec = artifact.spec
    if eps is None and spec["norm"] != "linf":
        raise UsageError(
            f"--eps is needed, such as --eps=8/255: the walk is in the L∞ ball, the model's "
            f"own radius {spec['eps']:g} is of norm {spec['norm']}"
        )
    eps = float(spec["eps"] if eps is None else eps)
    read = {"test": sources.test_split, "train": sources.train_split}[call.split]
    data = read(spec["dataset"], call.data_dir)
    steps = lipschitz.NUM_STEPS if call.steps == -1 else call.steps
    images, _ = _first(data, call.num_examples)
    return {
        "dataset": data.name,
        "split": call.split,
        "num_examples": len(images),
        "eps": eps,
        "steps": steps,
        "step_size": lipschitz.STEP_SIZE,
        "seed": call.seed,
        **{
            lip_sign: lipschitz.average(
                artifact, images, eps=eps, lip_sign=lip_sign, steps=steps, seed=call.seed,
                batch_size=call.batch_size,
            )
            for lip_sign in lipschitz.LIP_SIGNS
        },
        "note": "official descends the ratio, as the code behind the published numbers did; "
        "ascent is an estimate of the maximum that was meant, from below",
        "model_sha256": spec["sha256"]["model.safetensors"],
        "data_sha256": data.fingerprint,
    }  # fmt: skip


def _toy(call: Call) -> dict[str, Any]:
    import jax

    from score_jax.analysis import toy, toy_training

    num_draws = call.num_examples or sum(toy.COUNTS)
    if not call.demo:
        key = jax.random.key(call.seed)
        places = jax.numpy.asarray(toy_training.PLACES)[:, None]
        return {
            "class_0_at": toy_training.by_place(toy.truth(places)),
            "widest_change": {
                name: {
                    "dense_grid": toy.dense_change(name),
                    "official_estimate": toy.attacked_change(name, key, num_draws),
                }
                for name in ("kl", "squared_error", "l1", "l2")
            },
        }
    params, loss = toy_training.train(
        call.demo, divergence=call.divergence, num_steps=call.train_steps, num_draws=num_draws,
        seed=call.seed,
    )  # fmt: skip
    return {
        "demo": call.demo,
        "divergence": call.divergence,
        "train_steps": call.train_steps,
        "draws_per_step": num_draws,
        "train_loss": loss,
        **toy_training.measure(params, num_draws=num_draws, seed=call.seed),
    }


@dataclass(frozen=True)
class Analysis:
    """A measurement: its flags, besides --workdir and --num_examples, and its function."""

    own_flags: tuple[str, ...]
    run: Callable[[Call], dict[str, Any]]

    @property
    def flags(self) -> tuple[str, ...]:
        return ("workdir", "num_examples", *self.own_flags)


ANALYSES = {
    "separation": Analysis(("data", "data_dir", "norm"), _separation),
    "lipschitz": Analysis(
        ("artifact", "data_dir", "split", "eps", "steps", "batch_size", "seed"), _lipschitz
    ),
    "toy": Analysis(("demo", "divergence", "train_steps", "seed"), _toy),
}


def analyze(call: Call) -> dict[str, Any]:
    """Runs one measurement; writes WORKDIR/analysis/WHAT.json where there is a --workdir.

    Raises:
      UsageError: no measurement of that name, or a flag that is not one of its own.
    """
    what = call.words[0] if call.words else ""
    if what not in ANALYSES or len(call.words) > 1:
        raise UsageError(f"analyze needs one word, not {' '.join(call.words)!r}; {_known(what)}")
    analysis = ANALYSES[what]
    foreign = [
        flag for flag in ANALYZE.flags if call.values[flag].present and flag not in analysis.flags
    ]
    if foreign:
        raise UsageError(
            f"--{foreign[0]} is not for `analyze {what}`, whose flags are "
            f"{', '.join(f'--{flag}' for flag in analysis.flags)}"
        )
    started = time.monotonic()
    facts = {"analysis": what, **analysis.run(call)}
    facts["seconds"] = round(time.monotonic() - started, 3)
    if call.workdir:
        facts["result"] = str(_write(Path(call.workdir), what, facts))
    return facts


def _known(what: str) -> str:
    return suggest(what, ANALYSES) if what else f"known: {', '.join(ANALYSES)}"


def _write(workdir: Path, what: str, facts: dict[str, Any]) -> Path:
    from score_jax.workdir import library_versions, write_json_atomic

    path = workdir / "analysis" / f"{what}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, {**facts, "versions": library_versions()})
    return path


def _all_flags(analyses: Iterable[Analysis]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flag for analysis in analyses for flag in analysis.flags))


ANALYZE = Job(
    "Measure a dataset's separation, a model's local Lipschitz constant, or SCORE's toy problem.",
    "score-jax analyze separation --data=cifar10 --norm=linf\n"
    "score-jax analyze lipschitz --workdir=runs/score --num_examples=1000\n"
    "score-jax analyze toy --demo=score --num_examples=6000",
    _all_flags(ANALYSES.values()),
    analyze,
    takes_words=True,
)
