"""What is attacked and how: chunks, the seed of each, and the identity of the whole."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from score_jax import autoattack_adapter as adapter
from score_jax import config as configs
from score_jax import official_autoattack_identity as identities
from score_jax.official_autoattack_identity import Shard

Tell = Callable[[str], None]


def by_chunk(seed: int, attack: str, chunk: int) -> int:
    """The first four bytes of sha256('SEED/ATTACK/CHUNK'), big-endian."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{attack}/{chunk}".encode()).digest()[:4], "big")


def as_official(seed: int, attack: str, chunk: int) -> int:
    """The seed itself: the official code uses one seed for every attack and batch."""
    del attack, chunk
    return seed


SEEDINGS: dict[str, Callable[[int, str, int], int]] = {"chunk": by_chunk, "official": as_official}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is attacked: images f32[n, h, w, c] in [0, 1], labels i64[n], and how."""

    images: np.ndarray
    labels: np.ndarray
    settings: adapter.Settings
    seed: int
    seeding: str
    chunk_size: int

    @property
    def num_chunks(self) -> int:
        return math.ceil(len(self.labels) / self.chunk_size)

    def rows(self, chunk: int) -> np.ndarray:
        """The images of a chunk."""
        return np.arange(len(self.labels))[chunk * self.chunk_size :][: self.chunk_size]


def identity_of(
    plan: Plan, *, model_sha256: str, network: Mapping[str, Any], backend: str, library: str
) -> dict[str, Any]:
    """Everything that two evaluations must share to be the same one.

    The random numbers are PyTorch's, so its version is part of it. Batch size, devices and threads
    are not: they change rounding at most (but L1, which draws on the device that it runs on).

    Args:
      network: what the weights are of: architecture, input normalisation.
      library: name and version.
    """
    settings = plan.settings
    return {
        "model": model_sha256,
        "network": dict(network),
        "num_examples": len(plan.labels),
        "images": identities.digest_of_images(plan.images, plan.labels),
        "norm": settings.norm,
        "eps": settings.eps,
        "version": settings.version,
        "attacks": list(settings.attacks),
        "seed": plan.seed,
        "seeding": plan.seeding,
        "chunk_size": plan.chunk_size,
        "backend": backend,
        "library": library,
        "torch": torch.__version__.partition("+")[0],
    }


def headline(plan: Plan, library: str, backend: str, shard: Shard) -> str:
    """The first line of a log."""
    settings = plan.settings
    return (
        f"AutoAttack {settings.version} ({library}, {backend} backend): "
        f"{len(plan.labels)} images, {settings.norm} eps={configs.write_eps(settings.eps)}, seed "
        f"{plan.seed} ({plan.seeding}), {plan.num_chunks} chunks of {plan.chunk_size}"
        f"{'' if shard.is_all else f', shard {shard}'}"
    )
