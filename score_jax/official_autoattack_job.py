"""The job `score-jax autoattack`."""

from typing import Any

from score_jax.command_line import JUDGED, Call, Job
from score_jax.command_line_run import artifact_of, radius_of


def autoattack(call: Call) -> dict[str, Any]:
    """Runs the official AutoAttack; its lines are told as it goes, the result is in its file."""
    artifact = artifact_of(call)
    eps = radius_of(call, artifact, call.norm)
    from score_jax import official_autoattack

    result = official_autoattack.run(
        artifact,
        data_dir=call.data_dir,
        num_examples=call.num_examples,
        batch_size=call.batch_size,
        eps=eps,
        norm=call.norm or None,
        attacks=tuple(call.attacks),
        version=call.version,
        seed=call.seed,
        name=call.name or "autoattack",
        backend=call.backend,
    )
    return {name: result[name] for name in ("clean_accuracy", "robust_accuracy", "num_examples")}


AUTOATTACK = Job(
    "Have the official PyTorch AutoAttack judge an exported model.",
    "score-jax autoattack --workdir=runs/score --num_examples=1000",
    (*JUDGED, "norm", "version", "attacks", "backend"),
    autoattack,
)
