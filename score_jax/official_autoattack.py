"""The official PyTorch AutoAttack judges an exported classifier.

Everything the number depends on is checked before the attack, the found images are saved, read
again and counted again by JAX after it, and only then is the result written.
"""

import contextlib
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

import score_jax
from score_jax import autoattack_adapter, interop, torch_bridge, torch_models
from score_jax import config as configs
from score_jax import official_autoattack_recount as recount
from score_jax.artifact import WEIGHTS, Artifact, load, logits_fn, sha256
from score_jax.config_rules import check_eps
from score_jax.data import sources
from score_jax.types import UserError, lookup
from score_jax.workdir import library_versions, write_json_atomic


def bridge(artifact: Artifact, batch_size: int) -> nn.Module:
    """The artifact itself: every pass runs in JAX."""
    return torch_bridge.TorchClassifier(artifact, batch_size=batch_size)


def converted(artifact: Artifact, batch_size: int) -> nn.Module:
    """The same weights in the PyTorch network of `torch_models`; JAX is not asked."""
    del batch_size
    model = dict(artifact.spec["model"])
    network = torch_models.create(model.pop("name"), **model)
    name = artifact.spec["model"]["name"]
    network.load_state_dict(interop.to_state_dict(name, artifact.params, artifact.batch_stats))
    return network.to(_device())


BACKENDS: dict[str, Callable[[Artifact, int], nn.Module]] = {
    "bridge": bridge,
    "torch": converted,
}


def _threat(artifact: Artifact, norm: str | None, eps: float | None) -> recount.Threat:
    norm = artifact.spec.get("norm") if norm is None else norm
    eps = artifact.spec.get("eps") if eps is None else eps
    if norm is None or eps is None:
        raise UserError("the artifact names no norm and eps; give --norm=linf and --eps=8/255.")
    lookup(autoattack_adapter.NORMS, "norm", norm)
    if not math.isfinite(eps) or eps <= 0:
        raise UserError(f"eps={eps:g} is not a positive radius; write it as 8/255 for example.")
    check_eps(eps, norm)
    return recount.Threat(norm=norm, eps=float(eps))


def _select(artifact: Artifact, images: np.ndarray, labels: np.ndarray, num_examples: int):
    """The first num_examples (0: all) images as f32[n, h, w, c] in [0, 1], labels i64[n]."""
    model = artifact.spec["model"]
    if not 0 <= num_examples <= len(labels):
        raise UserError(
            f"num_examples={num_examples} is not within the {len(labels)} test images; 0 means all."
        )
    count = num_examples or len(labels)
    images, labels = np.asarray(images[:count]), np.asarray(labels[:count], np.int64)
    if images.shape[1:] != tuple(model["image_shape"]):
        raise UserError(
            f"test images have shape {images.shape[1:]}, the model takes "
            f"{tuple(model['image_shape'])}; give the dataset it was trained on."
        )
    if labels.min() < 0 or labels.max() >= model["num_classes"]:
        raise UserError(
            f"labels lie in [{labels.min()}, {labels.max()}], the model has "
            f"{model['num_classes']} classes; give the dataset it was trained on."
        )
    if images.dtype != np.uint8:
        raise UserError(f"test images are {images.dtype}; they must be uint8 pixels.")
    return images.astype(np.float32) / np.float32(255), labels


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_torch(images: np.ndarray) -> torch.Tensor:
    """f32[n, h, w, c] as f32[n, c, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(_device())


def from_torch(images: torch.Tensor) -> np.ndarray:
    """f32[n, c, h, w] as f32[n, h, w, c]."""
    return np.ascontiguousarray(images.cpu().numpy().transpose(0, 2, 3, 1))


def _in_batches(forward: Callable, images: Any, batch_size: int) -> np.ndarray:
    with torch.no_grad():
        parts = [
            np.asarray(forward(images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
    return np.concatenate(parts)


@contextlib.contextmanager
def _torch_threads(model: nn.Module) -> Iterator[None]:
    """One thread for PyTorch while JAX computes on the same CPU.

    PyTorch's idle threads spin, and the network needs the cores.
    """
    before = torch.get_num_threads()
    if isinstance(model, torch_bridge.TorchClassifier) and jax.default_backend() == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _log_to(path: Path, report: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    with path.open("w", buffering=1) as file:

        def tell(line: str) -> None:
            file.write(line + "\n")
            report(line)

        yield tell


def run(
    artifact: str | os.PathLike[str] | Artifact,
    *,
    data_dir: str = "",
    num_examples: int = 0,
    batch_size: int = 500,
    eps: float | None = None,
    norm: str | None = None,
    attacks: Sequence[str] = (),
    version: str = "standard",
    seed: int = 0,
    name: str = "autoattack",
    backend: str = "bridge",
    out: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs AutoAttack on the test split the artifact belongs to; returns and writes result.json.

    Args:
      artifact: an export, or its folder, or the run folder above it.
      num_examples: how many of the first test images; 0 for all.
      eps, norm: None takes those of training.
      attacks: a part of the version's attacks, in this order; empty for all.
      version: 'standard', 'plus' or 'rand', with AutoAttack's own settings.
      backend: 'bridge' attacks the JAX classifier, 'torch' the converted PyTorch network.
      out: where to write; DIR/eval/<name> by default.
      report: receives each log line.

    Raises:
      UserError: a bad argument, artifact, dataset or classifier, or a result that did not survive
        the recount.
    """
    loaded = artifact if isinstance(artifact, Artifact) else load(artifact)
    build = lookup(BACKENDS, "backend", backend)
    if Path(name).name != name:
        raise UserError(f"name={name!r} is not the name of one folder; take autoattack, say.")
    dataset = loaded.spec.get("dataset")
    if dataset is None:
        raise UserError(f"{loaded.path} names no dataset; export the run again.")
    split = sources.test_split(dataset, data_dir)
    images, labels = _select(loaded, split.images, split.labels, num_examples)
    folder = Path(out) if out else loaded.path.parent / "eval" / name
    return evaluate(
        loaded, images, labels, threat=_threat(loaded, norm, eps), build=build, backend=backend,
        batch_size=batch_size, attacks=attacks, version=version, seed=seed, folder=folder,
        name=name, report=report, data={"dataset": dataset, "data_sha256": split.fingerprint},
    )  # fmt: skip


def evaluate(
    artifact: Artifact,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    threat: recount.Threat,
    build: Callable[[Artifact, int], nn.Module],
    backend: str,
    batch_size: int,
    attacks: Sequence[str],
    version: str,
    seed: int,
    folder: Path,
    name: str,
    report: Callable[[str], None],
    data: dict[str, str],
) -> dict[str, Any]:
    """The protocol of `run`, on images f32[n, h, w, c] in [0, 1] and labels i64[n]."""
    num_classes = artifact.spec["model"]["num_classes"]
    chosen, notes = autoattack_adapter.choose_attacks(version, attacks, num_classes)
    library = autoattack_adapter.find_library()
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} is not positive.")
    batch_size = min(batch_size, len(labels))
    model, inputs = build(artifact, batch_size), to_torch(images)
    torch_bridge.check_logits(model, inputs[:64], num_classes)
    by_jax = logits_fn(artifact)
    clean = _in_batches(by_jax, images, batch_size)
    attacked = _in_batches(lambda part: model(part).cpu(), inputs, batch_size)
    recount.check_same(clean, attacked, labels)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with _log_to(folder / "log.txt", report) as tell:
        tell(
            f"AutoAttack {version} ({library.name} {library.version}, {backend} backend): "
            f"{len(labels)} images, {threat.norm} eps={configs.write_eps(threat.eps)}, seed {seed}"
        )
        for note in notes:
            tell(note)
        with _torch_threads(model):
            outcome = autoattack_adapter.attack(
                model, inputs, torch.from_numpy(labels).to(inputs.device),
                norm=threat.norm, eps=threat.eps, seed=seed, version=version, attacks=chosen,
                num_classes=num_classes, batch_size=batch_size, tell=tell, library=library,
            )  # fmt: skip
        seconds = time.perf_counter() - start
        recount.check_initial(outcome.initial, attacked, labels)
        claimed = outcome.predictions.cpu().numpy() == labels
        # An earlier result keeps its images until this one has passed.
        saved = folder / "adversarial.unverified.npz"
        recount.save_adversarial(saved, from_torch(outcome.adversarial), labels, claimed)
        with np.load(saved, allow_pickle=False) as stored:
            adversarial = stored["images"]
        counted = recount.check_adversarial(
            adversarial, images, labels, claimed,
            threat=threat, logits=_in_batches(by_jax, adversarial, batch_size),
        )  # fmt: skip
        saved = saved.replace(folder / "adversarial.npz")
        accuracy = float(claimed.mean())
        tell(
            f"robust accuracy {accuracy:.2%}, the worst case over {len(chosen)} attacks on "
            f"{len(labels)} images; clean accuracy {outcome.initial / len(labels):.2%}; saved "
            f"images recounted in JAX: {counted.robust.mean():.2%}"
        )
    result = {
        "name": name,
        "clean_accuracy": outcome.initial / len(labels),
        "robust_accuracy": accuracy,
        "attacks": outcome.attacks,
        "num_examples": len(labels),
        **data,
        "split": "test",
        "norm": threat.norm,
        "eps": {"value": threat.eps, "written": configs.write_eps(threat.eps)},
        "attack": "AutoAttack",
        "attack_version": version if not attacks else f"{version}: {', '.join(chosen)}",
        "attack_library": {"name": library.name, "version": library.version},
        "backend": backend,
        "flags": outcome.flags,
        "notes": notes,
        "recount": {
            "robust_accuracy": float(counted.robust.mean()),
            "disagreements_by_rounding": counted.disagreements,
            "max_distance": counted.max_distance,
        },
        "seed": seed,
        "batch_size": batch_size,
        "precision": "float32",
        "adversarial_sha256": sha256(saved),
        "model_sha256": artifact.spec["sha256"][WEIGHTS],
        "versions": {
            **library_versions(),
            "score_jax": score_jax.__version__,
            "python": platform.python_version(),
        },
        "devices": {"jax": jax.devices()[0].device_kind, "torch": str(inputs.device)},
        "seconds": round(seconds, 3),
    }
    write_json_atomic(folder / "result.json", result)
    return result
