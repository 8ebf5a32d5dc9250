"""The job `score-jax analyze WHAT`: runs a measurement, and knows where its files go.

A measurement is a module WHAT_job with a function `run`: the call -> its findings. Nothing heavy is
imported before one runs, so that `--help` answers at once.
"""

import importlib
import os
import time
from pathlib import Path

from score_jax.analysis.topics import TOPICS
from score_jax.command_line import Call, Job, UsageError, suggest

FOLDER = "runs/analysis"  # Of what is measured without a run.


def folder_of(call: Call) -> Path:
    """Where the files of a measurement go: --out, or the run's own folder, or `FOLDER`."""
    if call.out:
        return Path(call.out)
    return Path(call.workdir) / "analysis" if call.workdir else Path(FOLDER)


def analyze(call: Call) -> list[str]:
    """Runs one measurement, writes each of its findings, and gives what to print of it.

    Raises:
      UsageError: no measurement of that name, or a flag that is not one of its own.
      UserError: this is one process of several; or the measurement's own.
    """
    what = call.words[0] if call.words else ""
    if what not in TOPICS or len(call.words) > 1:
        raise UsageError(f"analyze needs one word, not {' '.join(call.words)!r}; {_known(what)}")
    topic = TOPICS[what]
    foreign = [
        flag for flag in ANALYZE.flags if call.values[flag].present and flag not in topic.flags
    ]
    if foreign:
        raise UsageError(
            f"--{foreign[0]} is not for `analyze {what}`, whose flags are "
            f"{', '.join(f'--{flag}' for flag in topic.flags)}"
        )
    from score_jax import distributed_cluster

    distributed_cluster.check_alone(
        os.environ,
        f"analyze {what}",
        "start it once, such as with srun -n 1: it uses every device that it sees",
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
    return suggest(what, TOPICS) if what else f"known: {', '.join(TOPICS)}"


ANALYZE = Job(
    f"Measure what the papers measure, with pictures: {', '.join(TOPICS)}.",
    "score-jax analyze separation --data=cifar10\n"
    "score-jax analyze lipschitz --workdir=runs/score --num_examples=1000",
    tuple(dict.fromkeys(flag for topic in TOPICS.values() for flag in topic.flags)),
    analyze,
    takes_words=True,
    topics=TOPICS,
)
