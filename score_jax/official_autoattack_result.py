"""From what the attacks found to `adversarial.npz` and `result.json`, by way of the recount."""

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import score_jax
from score_jax import autoattack_adapter as adapter
from score_jax import config as configs
from score_jax import official_autoattack_identity as identities
from score_jax import official_autoattack_recount as recount
from score_jax.artifact import sha256
from score_jax.official_autoattack_batches import BatchSize, within_memory
from score_jax.official_autoattack_chunks import CLEAN
from score_jax.official_autoattack_plan import Plan, Tell
from score_jax.official_autoattack_runner import Progress, in_batches
from score_jax.workdir import library_versions, write_json_atomic

ADVERSARIAL = "adversarial.npz"


def finished(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of this very evaluation, where it is written and its images are whole."""
    result = identities.read_result(folder)
    if not result or result.get("identity_sha256") != identities.digest(identity):
        return None
    images = folder / ADVERSARIAL
    whole = images.exists() and sha256(images) == result["adversarial_sha256"]
    return result if whole else None


def write(
    plan: Plan,
    progress: Progress,
    *,
    folder: Path,
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
    library: adapter.Library,
    by_jax: Callable[[np.ndarray], np.ndarray],
    tell: Tell,
) -> dict[str, Any]:
    """Saves the images, counts them again from the file, and only then writes the result.

    Args:
      identity: what the evaluation is of; facts: of model and data, for the record.
      by_jax: logits f32[b, k] of images f32[b, h, w, c].

    Raises:
      UserError: the recount does not confirm what the attacks claim.
    """
    settings, count = plan.settings, len(plan.labels)
    threat = recount.Threat(norm=settings.norm, eps=settings.eps)
    warnings = [*progress.warnings, *_square_warnings(library, progress, count)]
    for text in warnings[len(progress.warnings) :]:
        tell(f"warning: {text}")
    _tell_final(plan, progress, threat, tell)
    # An earlier result keeps its images until this one has passed.
    saved = folder / "adversarial.unverified.npz"
    recount.save_adversarial(saved, progress.adversarial, plan.labels, progress.robust)
    with np.load(saved, allow_pickle=False) as stored:
        adversarial = stored["images"]
    size = BatchSize(min(entry["batch_size"] for entry in progress.facts))
    logits = within_memory(size, lambda: in_batches(by_jax, adversarial, size.batch_size), tell)
    counted = recount.check_adversarial(
        adversarial, plan.images, plan.labels, progress.robust,
        threat=threat, logits=logits,
    )  # fmt: skip
    saved = saved.replace(folder / ADVERSARIAL)
    clean, accuracy = progress.left[CLEAN] / count, float(progress.robust.mean())
    tell(
        f"robust accuracy {accuracy:.2%}, the worst case over {len(settings.attacks)} attacks on "
        f"{count} images; clean accuracy {clean:.2%}; saved images counted again: "
        f"{counted.robust.mean():.2%}"
    )
    usual, _ = adapter.choose_attacks(settings.version, (), settings.num_classes)
    version = settings.version
    if settings.attacks != usual:
        version = f"{version}: {', '.join(settings.attacks)}"
    name, _, number = identity["library"].rpartition(" ")
    result = {
        **facts,
        "clean_accuracy": clean,
        "robust_accuracy": accuracy,
        "attacks": _records(plan, progress),
        "num_examples": count,
        "split": "test",
        "norm": settings.norm,
        "eps": {"value": settings.eps, "written": configs.write_eps(settings.eps)},
        "attack": "AutoAttack",
        "official": True,
        "attack_version": version,
        "attack_library": {"name": name, "version": number},
        "backend": identity["backend"],
        "flags": adapter.explain_flags(warnings),
        "notes": adapter.choose_attacks(settings.version, settings.attacks, settings.num_classes)[
            1
        ],
        "recount": {
            "robust_accuracy": float(counted.robust.mean()),
            "disagreements_by_rounding": counted.disagreements,
            "max_distance": counted.max_distance,
        },
        "seed": plan.seed,
        "seeding": plan.seeding,
        "chunk_size": plan.chunk_size,
        "batch_size": min(entry["batch_size"] for entry in progress.facts),
        "precision": "float32",
        "adversarial_sha256": sha256(saved),
        "model_sha256": identity["model"],
        "identity_sha256": identities.digest(identity),
        "versions": {
            **library_versions(),
            "score_jax": score_jax.__version__,
            "python": platform.python_version(),
            "torch": identity["torch"],
        },
        "devices": _devices(progress),
        "seconds": round(sum(progress.seconds.values()), 3),
    }
    write_json_atomic(folder / identities.RESULT, result)
    return result


def _square_warnings(library: adapter.Library, progress: Progress, count: int) -> list[str]:
    recorder = adapter.Recorder()
    ran = {name: left / count for name, left in progress.left.items() if progress.attacked[name]}
    adapter.check_square(library, ran, recorder)
    return recorder.warnings


def _tell_final(plan: Plan, progress: Progress, threat: recount.Threat, tell: Tell) -> None:
    adversarial = progress.adversarial
    tell(
        f"max {adapter.NORMS[threat.norm]} perturbation: "
        f"{threat.distance(adversarial, plan.images).max():.5f}, "
        f"nan in tensor: {np.isnan(adversarial).sum()}, max: {adversarial.max():.5f}, "
        f"min: {adversarial.min():.5f}"
    )
    tell(f"robust accuracy: {progress.robust.mean():.2%}")


def _records(plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    records, before = [], progress.left[CLEAN]
    for name in plan.settings.attacks:
        left = progress.left[name]
        records.append(
            {
                "name": name,
                "robust_accuracy": left / len(plan.labels),
                "fallen": before - left,
                "seconds": round(progress.seconds[name], 3),
                "skipped": not progress.attacked[name],
            }
        )
        before = left
    return records


def _devices(progress: Progress) -> dict[str, Any]:
    """Where the attacks ran; several values where the shards ran on several kinds of device."""
    found: dict[str, Any] = {}
    for name in progress.facts[0]["devices"]:
        values = list(dict.fromkeys(entry["devices"][name] for entry in progress.facts))
        found[name] = values[0] if len(values) == 1 else values
    return found
