"""What may be attacked: images, labels and radius are checked here, before anything is written."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from score_jax import autoattack_adapter as adapter
from score_jax import official_autoattack_recount as recount
from score_jax.artifact import Artifact
from score_jax.config_rules import check_eps
from score_jax.data import sources
from score_jax.types import UserError, lookup


def threat_of(artifact: Artifact, norm: str | None, eps: float | None) -> recount.Threat:
    """The ball to attack in; None takes the norm or the radius that the model was trained for.

    Raises:
      UserError: an unknown norm, or a number that is no radius in pixel units.
    """
    trained = artifact.spec.get("norm")
    norm = trained if norm is None else norm
    if norm is not None:
        lookup(adapter.NORMS, "norm", norm)
    if eps is None and norm == trained:
        eps = artifact.spec.get("eps")
    if norm is None or eps is None:
        raise UserError(
            f"the artifact names no eps for norm={norm or 'linf'}; give --norm=linf and "
            "--eps=8/255, say."
        )
    if not math.isfinite(eps) or eps <= 0:
        raise UserError(f"eps={eps:g} is not a positive radius; write it as 8/255 for example.")
    check_eps(eps, norm)
    size = math.prod(artifact.spec["model"]["image_shape"])
    if eps >= {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[norm]:
        raise UserError(
            f"eps={eps:g} in {norm} reaches every image of {size} pixels in [0, 1] from any other; "
            "give it in pixel units, such as 0.5 for l2 or 12 for l1."
        )
    return recount.Threat(norm=norm, eps=float(eps))


def select(
    artifact: Artifact, data_dir: str, num_examples: int
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """The first num_examples (0: all) test images f32[n, h, w, c] in [0, 1], labels i64[n], facts.

    Raises:
      UserError: no dataset, or not the one that the model was trained on.
    """
    dataset = artifact.spec.get("dataset")
    if dataset is None:
        raise UserError(f"{artifact.path} names no dataset; export the run again.")
    split = sources.test_split(dataset, data_dir)
    images, labels, model = split.images, split.labels, artifact.spec["model"]
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
    if images.dtype != np.uint8:
        raise UserError(f"test images are {images.dtype}; they must be uint8 pixels.")
    facts = {"dataset": dataset, "data_sha256": split.fingerprint}
    return images.astype(np.float32) / np.float32(255), labels, facts


def check_inputs(images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Refuses what is not images f32[n, h, w, c] in [0, 1] with labels [n] below num_classes.

    Raises:
      UserError: naming what was given.
    """
    if images.ndim != 4 or images.dtype != np.float32 or len(images) != len(labels):
        raise UserError(
            f"{len(labels)} labels and images {images.dtype}{list(images.shape)} were given; give "
            "float32[n, height, width, channels] and n labels."
        )
    if not len(images):
        raise UserError("there are no images to attack.")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"images lie in [{low:g}, {high:g}]; give them in [0, 1], not normalised: the model "
            "normalises its input itself."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"labels lie in [{labels.min()}, {labels.max()}], the model has {num_classes} classes; "
            "give the dataset it was trained on."
        )


def folder_of(artifact: Artifact, name: str, out: str | os.PathLike[str] | None) -> Path:
    """Where a result is written: `out`, or eval/NAME beside the export.

    Raises:
      UserError: the name is that of several folders.
    """
    if Path(name).name != name or not name or name.startswith("."):
        raise UserError(f"name={name!r} is not the name of one folder; take autoattack, say.")
    return Path(out) if out else artifact.path.parent / "eval" / name


def usual_device() -> torch.device:
    """A GPU where PyTorch has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where the weights are; a model without any goes where PyTorch is fastest."""
    weights = next(model.parameters(), None)
    return usual_device() if weights is None else weights.device


def to_torch(images: np.ndarray, device: torch.device) -> Tensor:
    """f32[n, h, w, c] as f32[n, c, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


def from_torch(images: Tensor) -> np.ndarray:
    """f32[n, c, h, w] as f32[n, h, w, c]."""
    return np.ascontiguousarray(images.cpu().numpy().transpose(0, 2, 3, 1))
