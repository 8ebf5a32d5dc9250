"""The job `score-jax submit`."""

import shlex
from typing import Any

from score_jax.command_line import Call, Job, UsageError
from score_jax.command_line_run import artifact_of

# What only the authors know, with an example of each.
NEEDED = {
    "paper": "https://arxiv.org/abs/2202.10103",
    "title": "Robustness and Accuracy",
    "authors": "Tianyu Pang, Min Lin",
    "venue": "arXiv, Feb 2022",
}


def submit(call: Call) -> Any:
    """Writes the bundle of one run; returns what to tell of it."""
    artifact = artifact_of(call)
    absent = [name for name in NEEDED if not getattr(call, name).strip()]
    if absent:
        example = " ".join(f"--{name}={shlex.quote(NEEDED[name])}" for name in absent)
        raise UsageError(
            f"missing: {', '.join(f'--{name}' for name in absent)}; such as: {example}"
        )
    from score_jax import submit, submit_paper

    paper = submit_paper.describe(
        link=call.paper,
        title=call.title,
        authors=call.authors,
        venue=call.venue,
        year=call.year,
        license=call.license,
        hub=call.hub,
    )
    return submit.submit(
        artifact,
        paper,
        name=call.name or "autoattack",
        out=call.out,
        additional_data=call.additional_data,
        footnote=call.footnote,
        draft=call.draft,
        hub_only=call.hub_only,
    )


SUBMIT = Job(
    "Write what RobustBench and the Hugging Face Hub ask of a new model, from its AutoAttack.",
    'score-jax submit --workdir=runs/score --paper=https://arxiv.org/abs/2202.10103 --title="..." '
    '--authors="A B, C D" --venue="arXiv, Nov 2026" --hub=user/repo',
    (
        "workdir", "artifact", "name", "paper", "title", "authors", "venue", "year", "license",
        "footnote", "additional_data", "hub", "out", "draft", "hub_only",
    ),
    submit,
)  # fmt: skip
