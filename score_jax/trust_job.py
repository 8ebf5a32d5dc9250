"""The job `score-jax trust`."""

from score_jax.command_line import Call, Job
from score_jax.command_line_flags import JUDGED
from score_jax.command_line_run import artifact_of, radius_of


def trust(call: Call) -> None:
    """Examines an exported model; a line a check is told as it goes."""
    artifact = artifact_of(call)
    eps = radius_of(call, artifact, call.norm)
    from score_jax import trust_artifact

    trust_artifact.examine(
        artifact,
        data_dir=call.data_dir,
        num_examples=call.num_examples or trust_artifact.NUM_EXAMPLES,
        batch_size=min(call.batch_size, trust_artifact.NUM_EXAMPLES),
        eps=eps,
        norm=call.norm or None,
        seed=call.seed,
        against=tuple(call.against),
        name=call.name or "trust",
    )


TRUST = Job(
    "Look for signs of gradient masking and other reasons not to trust a robust accuracy.",
    "score-jax trust --workdir=runs/score --against=runs/natural",
    (*JUDGED, "norm", "against"),
    trust,
)
