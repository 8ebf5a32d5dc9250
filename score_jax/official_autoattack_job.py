"""The job `score-jax autoattack`."""

import shlex
from typing import Any

from score_jax.command_line import Call, Job, UsageError
from score_jax.command_line_flags import JUDGED
from score_jax.command_line_run import artifact_of, radius_of

# What the chunks themselves say; `merge` takes it from them.
SETTINGS = (
    "num_examples", "chunk_size", "eps", "norm", "version", "attacks", "seed", "seeding", "shard",
    "backend",
)  # fmt: skip


def autoattack(call: Call) -> dict[str, Any]:
    """Runs the official AutoAttack; its lines are told as it goes, the result is in its file."""
    if call.words and call.words[0] != "merge":
        raise UsageError(
            f"unexpected {call.words[0]!r}; write score-jax autoattack, or autoattack merge"
        )
    if call.words:
        return _shown(_merge(call))
    from score_jax.official_autoattack_identity import Shard

    Shard.parse(call.shard)
    artifact = artifact_of(call)
    eps = radius_of(call, artifact, call.norm)
    from score_jax import official_autoattack

    result = official_autoattack.run(
        artifact,
        data_dir=call.data_dir,
        num_examples=call.num_examples,
        batch_size=call.batch_size,
        chunk_size=call.chunk_size,
        eps=eps,
        norm=call.norm or None,
        attacks=tuple(call.attacks),
        version=call.version,
        seed=call.seed,
        seeding=call.seeding,
        shard=call.shard,
        name=call.name or "autoattack",
        backend=call.backend,
    )
    if "robust_accuracy" not in result:
        given = [
            name for name in ("workdir", "artifact", "data_dir", "name") if call.values[name].value
        ]
        flags = " ".join(shlex.quote(f"--{name}={call.values[name].value}") for name in given)
        return {**result, "then": f"score-jax autoattack merge {flags} [FOLDER ...]"}
    return _shown(result)


def _merge(call: Call) -> dict[str, Any]:
    given = [name for name in SETTINGS if call.values[name].present]
    if given:
        raise UsageError(f"merge takes --{given[0]} from the chunks; leave it out")
    artifact = artifact_of(call)
    from score_jax import official_autoattack_merge

    return official_autoattack_merge.merge(
        artifact, call.words[1:], data_dir=call.data_dir, name=call.name or "autoattack"
    )


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("clean_accuracy", "robust_accuracy", "num_examples")}


AUTOATTACK = Job(
    "Have the official PyTorch AutoAttack judge an exported model; the same command goes on.",
    "score-jax autoattack --workdir=runs/score --num_examples=1000\n"
    "score-jax autoattack --workdir=runs/score --shard=0/2\n"
    "score-jax autoattack merge --workdir=runs/score [FOLDER ...]",
    (*JUDGED, "norm", "version", "attacks", "backend", "chunk_size", "seeding", "shard"),
    autoattack,
    takes_words=True,
)
