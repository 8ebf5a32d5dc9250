"""The weights that are handed out in PyTorch, and that they are those of the artifact."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from score_jax import artifact as artifacts
from score_jax import interop, torch_models
from score_jax.artifact import Artifact
from score_jax.types import UserError

CHECKED_IMAGES = 64
LOGIT_TOLERANCE = 1e-4  # Relative to the largest logit where that is above 1.


def state_dict(artifact: Artifact) -> dict[str, torch.Tensor]:
    """The weights under the names of the field, which RobustBench's classes have."""
    name = artifact.spec["model"]["name"]
    return interop.to_state_dict(name, artifact.params, artifact.batch_stats)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What every form of the weights must give: images f32[n, h, w, c], logits f32[n, k] by JAX."""

    images: np.ndarray
    logits: np.ndarray


def reference(artifact: Artifact, images: np.ndarray | None) -> Reference:
    """The artifact's logits of the first of `images`; of random ones where that is None."""
    if images is None:
        shape = (CHECKED_IMAGES, *artifact.spec["model"]["image_shape"])
        images = np.random.default_rng(0).uniform(0, 1, shape)
    images = np.asarray(images[:CHECKED_IMAGES], np.float32)
    return Reference(images=images, logits=np.asarray(artifacts.logits_fn(artifact)(images)))


def check(artifact: Artifact, state: Mapping[str, torch.Tensor], expected: Reference) -> None:
    """Loads a state_dict strictly into the PyTorch network and compares its logits with JAX's.

    Raises:
      UserError: the two are not the same network.
    """
    model = dict(artifact.spec["model"])
    network = torch_models.create(model.pop("name"), **model)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"the PyTorch weights do not fit: {str(error).splitlines()[-1]}") from None
    with torch.no_grad():
        images = torch.from_numpy(np.ascontiguousarray(expected.images.transpose(0, 3, 1, 2)))
        apart = float(np.abs(expected.logits - network(images).numpy()).max())
    allowed = LOGIT_TOLERANCE * max(1.0, float(np.abs(expected.logits).max()))
    if not apart <= allowed:
        raise UserError(
            f"PyTorch's logits are up to {apart:.2g} from JAX's, more than {allowed:.2g}; nothing "
            "was written."
        )
