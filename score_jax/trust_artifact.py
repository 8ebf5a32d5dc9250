"""The trust report of an exported model: what its folders hold beside its function."""

import dataclasses
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import score_jax
from score_jax import artifact as artifacts
from score_jax import config as configs
from score_jax import trust, trust_page
from score_jax.artifact import WEIGHTS, Artifact
from score_jax.data import sources
from score_jax.trust_check import Check, Report
from score_jax.trust_subject import LogitsFn
from score_jax.types import UserError
from score_jax.workdir import (
    find_workdir,
    library_versions,
    write_json_atomic,
    write_text_atomic,
)

NUM_EXAMPLES = 200
OTHER_WEIGHTS = ("best/live", "last/ema", "last/live")  # Beside the exported ones.


def examine(
    artifact: str | os.PathLike[str],
    *,
    data_dir: str = "",
    num_examples: int = NUM_EXAMPLES,
    batch_size: int = NUM_EXAMPLES,
    eps: float | None = None,
    norm: str | None = None,
    seed: int = 0,
    against: Sequence[str | os.PathLike[str]] = (),
    name: str = "trust",
    report: Callable[[str], None] = print,
) -> Report:
    """Examines an artifact on test images; writes `eval/NAME/{trust.json, trust.html}` beside it.

    Args:
      artifact: the folder of an export, or the run folder above it.
      num_examples: the first so many test images.
      eps, norm: None takes those of training.
      against: other artifacts for the same images, to transfer attacks from; the run's own other
        checkpoints come by themselves.
      report: receives a line for each check, the verdict and the path of the page.

    Raises:
      UserError: a bad argument, artifact or dataset, or others that take other images.
    """
    loaded = artifacts.load(artifact)
    norm, eps = _threat(loaded, norm, eps)
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name={name} is not the name of a folder; write a word such as trust")
    images, labels, fingerprint = _test_images(loaded, data_dir, num_examples)
    folder = loaded.path.parent / "eval" / name
    sha256 = loaded.spec["sha256"][WEIGHTS]
    report(f"{len(labels)} test images of {loaded.spec['dataset']}, {norm} eps={_written(eps)}")
    model, started = loaded.spec["model"], time.monotonic()
    found = trust.examine(
        artifacts.logits_fn(loaded),
        images,
        labels,
        norm=norm,
        eps=eps,
        num_classes=model["num_classes"],
        transfer_from=[*_given(against, loaded), *_own_checkpoints(loaded)],
        official=official_result(loaded, norm, eps, fingerprint),
        coarse=artifacts.logits_fn(artifacts.load(artifact, "bfloat16")),
        normalisation=(model["mean"], model["std"]),
        seed=seed,
        batch_size=batch_size,
        tell=lambda check: report(line(check)),
    )
    settings = {
        "name": name,
        "model": model["name"],
        "dataset": loaded.spec["dataset"],
        "eps_written": _written(eps),
        "model_sha256": sha256,
        "data_sha256": fingerprint,
        "versions": {**library_versions(), "score_jax": score_jax.__version__},
        "devices": sorted({f"{device.platform} {device.device_kind}" for device in jax.devices()}),
        "seconds": round(time.monotonic() - started, 3),
    }
    found = dataclasses.replace(found, settings=settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / "trust.html", trust_page.render(found, loaded.path.parent.name))
    write_json_atomic(folder / "trust.json", found.to_dict())
    report(found.verdict)
    report(f"page: {folder / 'trust.html'}")
    return found


def line(check: Check) -> str:
    """'green  steps  accuracy under ... (1.2 s)', and the remedy below where there is one."""
    text = f"{check.colour:<5}  {check.name:<13}  {check.finding} ({check.seconds:.1f} s)"
    return f"{text}\n{'':22}{check.remedy}" if check.remedy else text


def _written(eps: float) -> str:
    return configs.write_eps(eps)


def _threat(artifact: Artifact, norm: str | None, eps: float | None) -> tuple[str, float]:
    norm = norm or artifact.spec.get("norm")
    eps = artifact.spec.get("eps") if eps is None else eps
    if norm is None or eps is None:
        raise UserError("the artifact names no norm and eps; give --norm=linf and --eps=8/255.")
    return norm, float(eps)


def _test_images(artifact: Artifact, data_dir: str, num_examples: int):
    """(f32[n, h, w, c] in [0, 1], i32[n], sha256) of the first test images."""
    dataset = artifact.spec.get("dataset")
    if dataset is None:
        raise UserError(f"{artifact.path} names no dataset; export the run again.")
    data = sources.test_split(dataset, data_dir)
    if data.images.shape[1:] != tuple(artifact.spec["model"]["image_shape"]):
        raise UserError(
            f"dataset {dataset!r} has images {data.images.shape[1:]}, the model of {artifact.path} "
            f"takes {tuple(artifact.spec['model']['image_shape'])}; judge it on its own dataset."
        )
    if not 1 <= num_examples <= len(data):
        raise UserError(
            f"--num_examples={num_examples}: {dataset} has {len(data)} test images; give 1 or more."
        )
    images = data.images[:num_examples].astype(np.float32) / np.float32(255)
    return images, data.labels[:num_examples], data.fingerprint


def _given(
    paths: Sequence[str | os.PathLike[str]], own: Artifact
) -> Iterator[tuple[str, LogitsFn]]:
    """The networks of --against, by the names of their run folders."""
    for path in paths:
        other = artifacts.load(path)
        for field in ("image_shape", "num_classes"):
            mine, theirs = own.spec["model"][field], other.spec["model"][field]
            if mine != theirs:
                raise UserError(
                    f"--against={path} has {field}={theirs}, the model has {mine}; attacks "
                    "transfer between networks for the same images."
                )
        yield other.path.parent.name, artifacts.logits_fn(other)


def _own_checkpoints(artifact: Artifact) -> Iterator[tuple[str, LogitsFn]]:
    """The run's other weights that differ from the exported ones; none without checkpoints."""
    if "origin" in artifact.spec:
        return  # Imported: what lies beside it is another network's run.
    try:
        run = find_workdir(artifact.path.parent)
    except UserError:
        return  # An artifact that was copied out of its run.
    from score_jax import checkpoint

    seen = [artifact.params]
    for name in OTHER_WEIGHTS:
        which, weights = name.split("/")
        try:
            found = checkpoint.load_for_export(run, which, weights)
        except UserError:
            continue
        if any(_are_equal(found["params"], params) for params in seen):
            continue
        seen.append(found["params"])
        held = dict(params=found["params"], batch_stats=found["batch_stats"])
        yield f"its {name} weights", artifacts.logits_fn(dataclasses.replace(artifact, **held))


def _are_equal(tree: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(
        np.array_equal(a, b) for a, b in zip(leaves, others, strict=True)
    )


def official_result(
    artifact: Artifact, norm: str, eps: float, fingerprint: str
) -> dict[str, Any] | None:
    """AutoAttack's result on the most images of this model, data, norm and radius."""
    found = []
    for path in sorted(artifact.path.parent.glob("eval/*/result.json")):
        try:
            result = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if not isinstance(result, dict):
            continue
        expected = dict(
            attack="AutoAttack", attack_version="standard", norm=norm, data_sha256=fingerprint,
            model_sha256=artifact.spec["sha256"][WEIGHTS],
        )  # fmt: skip
        is_whole = result.get("official", True) and not result.get("shard")
        if is_whole and all(result.get(field) == value for field, value in expected.items()):
            if abs(result["eps"]["value"] - eps) < 1e-9:
                found.append((result["num_examples"], path, result))
    if not found:
        return None
    _, path, result = max(found, key=lambda entry: entry[0])
    return {**result, "robust": _robust_images(path.with_name("adversarial.npz"))}


def _robust_images(path: Path) -> np.ndarray | None:
    """bool[n]: which images AutoAttack left, where its images were kept."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file["robust"], bool)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
