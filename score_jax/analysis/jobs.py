"""The job `score-jax analyze WHAT`: the table of measurements, and where their files go.

A measurement is a module WHAT_job with a function `run`: the call -> its findings. Nothing heavy is
imported before one runs, so that `--help` answers at once.
"""

import importlib
import time
from dataclasses import dataclass
from pathlib import Path

from score_jax.command_line import Call, Job, UsageError, suggest

FOLDER = "runs/analysis"  # Of what is measured without a run.


@dataclass(frozen=True)
class Analysis:
    """What a measurement answers, and its flags besides --workdir and --out."""

    question: str
    own_flags: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        return ("workdir", "out", *self.own_flags)


ANALYSES = {
    "separation": Analysis(
        "How far apart do images of different classes lie?",
        ("data", "data_dir", "norm", "p", "eps", "outliers", "seed", "num_examples"),
    ),
    "lipschitz": Analysis(
        "How fast do the logits of a model change near images?",
        (
            "artifact", "data_dir", "split", "eps", "steps", "restarts", "batch_size", "seed",
            "num_examples",
        ),
    ),
    "theorem": Analysis(
        "Is there a smooth classifier that is right all around the training images?",
        ("data", "data_dir", "norm", "p", "radius", "outliers", "probes", "seed", "num_examples"),
    ),
    "gaps": Analysis(
        "How much better is a run on training images, and does it overfit to the attack?",
        (
            "data_dir", "checkpoints", "weights", "num_examples", "eps", "steps", "step_size",
            "batch_size", "seed",
        ),
    ),
    "score-bounds": Analysis(
        "Does SCORE's robust error lie between its bounds, and how far does the truth change?",
        (
            "problem", "dimensions", "artifact", "surrogate", "temperature", "data_dir", "norm",
            "eps", "divergence", "train_steps", "steps", "restarts", "batch_size", "seed",
            "num_examples",
        ),
    ),
    "table": Analysis(
        "Which runs are accurate, robust, smooth, and how large are their gaps?",
        ("runs", "measure", "data_dir", "num_examples", "eps", "batch_size", "seed"),
    ),
    "toy": Analysis(
        "What do SCORE and others learn where the truth is known?",
        ("show", "demo", "divergence", "train_steps", "seed", "num_examples"),
    ),
    "geometry": Analysis(
        "How does a model look around images: who falls soonest, how far is the edge?",
        (
            "artifact", "data_dir", "split", "eps", "steps", "batch_size", "seed", "num_examples",
            "show", "checkpoints", "images", "beside",
        ),
    ),
}  # fmt: skip


def folder_of(call: Call) -> Path:
    """Where the files of a measurement go: --out, or the run's own folder, or `FOLDER`."""
    if call.out:
        return Path(call.out)
    return Path(call.workdir) / "analysis" if call.workdir else Path(FOLDER)


def analyze(call: Call) -> list[str]:
    """Runs one measurement, writes each of its findings, and gives what to print of it.

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
    job = importlib.import_module(f"score_jax.analysis.{what.replace('-', '_')}_job")
    from score_jax.analysis import finding

    told, started = [], time.monotonic()
    for found in job.run(call):
        seconds = round(time.monotonic() - started, 3)
        told.append(finding.write(folder_of(call), what, found, seconds))
        started = time.monotonic()
    return told


def _known(what: str) -> str:
    return suggest(what, ANALYSES) if what else f"known: {', '.join(ANALYSES)}"


ANALYZE = Job(
    "Measure what the papers measure: "
    + "; ".join(f"{what}: {analysis.question}" for what, analysis in ANALYSES.items()),
    "score-jax analyze separation --data=cifar10 --norm=linf\n"
    "score-jax analyze lipschitz --workdir=runs/score --num_examples=1000\n"
    "score-jax analyze toy --demo=score --num_examples=6000",
    tuple(dict.fromkeys(flag for analysis in ANALYSES.values() for flag in analysis.flags)),
    analyze,
    takes_words=True,
)
