"""One result of what the shards of an evaluation computed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from score_jax import autoattack_adapter as adapter
from score_jax import official_autoattack_identity as identities
from score_jax import official_autoattack_inputs as inputs
from score_jax import official_autoattack_result as results
from score_jax import official_autoattack_runner as runner
from score_jax.artifact import WEIGHTS, Artifact, load, logits_fn
from score_jax.official_autoattack import log_to
from score_jax.official_autoattack_chunks import Found, Store
from score_jax.official_autoattack_identity import CHUNKS, EVERYTHING
from score_jax.official_autoattack_plan import Plan, headline, identity_of
from score_jax.types import UserError


def merge(
    artifact: str | os.PathLike[str] | Artifact,
    folders: Sequence[str | os.PathLike[str]] = (),
    *,
    data_dir: str = "",
    name: str = "autoattack",
    out: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Makes one result of what shards computed, the same as of one process.

    Args:
      folders: each holds `chunks/`; those of the place to write to count anyway.
      name, out: the place to write to, as in `run`.

    Raises:
      UserError: a folder without chunks, or of another evaluation; chunks that are missing.
    """
    loaded = artifact if isinstance(artifact, Artifact) else load(artifact)
    folder = inputs.folder_of(loaded, name, out)
    own = [folder] if (folder / CHUNKS).exists() else []
    others = [Path(place) for place in folders if Path(place).resolve() != folder.resolve()]
    identity = _common_identity([*own, *others])
    images, labels, data = inputs.select(loaded, data_dir, identity["num_examples"])
    library = adapter.find_library()
    num_classes = loaded.spec["model"]["num_classes"]
    settings = {field: identity[field] for field in ("norm", "eps", "version")}
    plan = Plan(
        images=images, labels=labels, seed=identity["seed"], seeding=identity["seeding"],
        chunk_size=identity["chunk_size"],
        settings=adapter.Settings(
            **settings, attacks=tuple(identity["attacks"]), num_classes=num_classes
        ),
    )  # fmt: skip
    here = identity_of(
        plan, model_sha256=loaded.spec["sha256"][WEIGHTS], network=loaded.spec["model"],
        backend=identity["backend"], library=identity["library"],
    )  # fmt: skip
    # What attacked is told by the chunks; nothing is attacked here.
    here["torch"] = identity["torch"]
    if different := identities.differences(identity, here):
        raise UserError(
            f"the chunks are not of this export and dataset ({'; '.join(different)}); give the "
            "--workdir and --data_dir that the shards had."
        )
    if (result := results.finished(folder, identity)) is not None:
        report(f"{folder / identities.RESULT} is of this very evaluation, and finished")
        return result
    identities.check_same(folder, identity)
    lines: list[str] = []
    found: list[Found] = []
    store = Store(
        folder=folder / CHUNKS, identity=identities.digest(identity),
        beside=tuple(place / CHUNKS for place in others),
    )  # fmt: skip
    progress = runner.run(
        plan, store, lines.append, shard=EVERYTHING, compute=None, take=found.append
    )
    if progress.missing:
        more = f" and {len(progress.missing) - 4} more" if len(progress.missing) > 4 else ""
        total = plan.num_chunks * (1 + len(plan.settings.attacks))
        raise UserError(
            f"{len(progress.missing)} of {total} files are missing "
            f"({', '.join(progress.missing[:4])}{more}); run the shards that they belong to."
        )
    (folder / CHUNKS).mkdir(parents=True, exist_ok=True)
    with identities.locked(folder / CHUNKS, EVERYTHING), log_to(folder / "log.txt", report) as tell:
        identities.claim(folder, identity)
        for piece in found:
            store.gather(piece)
        first = headline(plan, identity["library"], identity["backend"], EVERYTHING)
        tell(f"{first}, merged from shards")
        for line in lines:
            tell(line)
        return results.write(
            plan, progress, folder=folder, identity=identity, facts={"name": name, **data},
            library=library, by_jax=logits_fn(loaded), tell=tell,
        )  # fmt: skip


def _common_identity(folders: Sequence[Path]) -> dict[str, Any]:
    """What the chunks of all these folders are of.

    Raises:
      UserError: there are none, or those of two evaluations.
    """
    if not folders:
        raise UserError("there are no chunks to merge; name the folders that the shards wrote.")
    found = []
    for folder in folders:
        identity = identities.read(folder / CHUNKS)
        if identity is None:
            raise UserError(f"{folder} holds no chunks of an evaluation; give an eval/NAME folder.")
        found.append(identity)
    for folder, identity in zip(folders, found, strict=True):
        if different := identities.differences(found[0], identity):
            raise UserError(
                f"{folders[0]} and {folder} are of two evaluations "
                f"({'; '.join(different[:3])}); merge the shards of one."
            )
    return found[0]
