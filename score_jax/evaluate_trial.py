"""A trial of one model on some images: who withstands an attack, at one radius or along a range."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from score_jax.attacks.autoattack import autoattack
from score_jax.data.sources import Images
from score_jax.evaluate_examiner import Examiner
from score_jax.types import Key

LOGGER = logging.getLogger("score_jax")
# Multiples of eps; the curve goes on along FURTHER until next to nothing is left.
MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
FURTHER = (2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
NEXT_TO_NOTHING = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial found at one radius.

    Attributes:
      robust: the indices i[n] of images that withstood everything.
      attacks: of each, its name, what it leaves alone (`accuracy`, where that was measured) and
        what it and those before it leave together (`robust_accuracy`), and its seconds.
      found: what became of the watched images in the first attack, f32[h, w, c] by index.
      notes: what looked doubtful on the way, as sentences.
    """

    robust: np.ndarray
    attacks: list[dict[str, Any]]
    found: dict[int, np.ndarray]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A model, the images that it is tried on, and how often.

    Attributes:
      indices: i[n] of `data`, those that count.
      right: of them, those that are classified right unattacked.
      watched: of them, those whose adversarial images are kept.
    """

    examiner: Examiner
    data: Images
    indices: np.ndarray
    right: np.ndarray
    watched: np.ndarray
    restarts: int

    def withstand(self, names: Sequence[str], eps: float, key: Key) -> Outcome:
        """Each attack, by its name in the examiner, on every image that is right unattacked."""
        robust, attacks, found = self.right, [], {}
        for number, name in enumerate(names):
            before = time.monotonic()
            attack_key = jax.random.fold_in(key, number)
            kept, seen = self._standing(name, self.right, eps, attack_key)
            robust, found = np.intersect1d(robust, kept), found or seen
            attacks.append(
                {
                    "name": name,
                    "accuracy": self._share(kept),
                    "robust_accuracy": self._share(robust),
                    "seconds": round(time.monotonic() - before, 3),
                }
            )
            LOGGER.info("%s: %.2f%% withstand it", name, 100 * self._share(kept))
        return Outcome(robust=robust, attacks=attacks, found=found)

    def withstand_autoattack(self, *, norm: str, eps: float, seed: int, batch_size: int) -> Outcome:
        """AutoAttack in JAX, whose attacks meet only what those before them left."""
        images = self.data.images[self.indices].astype(np.float32) / 255
        labels = self.data.labels[self.indices]
        result = autoattack(
            self.examiner.logits, images, labels,
            norm=norm, eps=eps, seed=seed, batch_size=batch_size, report=LOGGER.info,
        )  # fmt: skip
        rows = np.flatnonzero(np.isin(self.indices, self.watched))
        return Outcome(
            robust=self.indices[result.robust],
            attacks=result.attacks,
            found={int(self.indices[row]): result.images[row] for row in rows},
            notes=tuple(result.notes),
        )

    def curve(self, name: str, eps: float, norm: str, key: Key) -> Iterator[dict[str, float]]:
        """{eps, accuracy} along multiples of eps; what is lost at a radius stays lost."""
        left = self.right
        for multiple in MULTIPLES + FURTHER:
            radius = multiple * eps
            if norm == "linf" and radius > 1:
                return
            if multiple in FURTHER and self._share(left) <= NEXT_TO_NOTHING:
                return
            if multiple > 0:
                left, _ = self._standing(name, left, radius, key)
            LOGGER.info("eps %.4g: %.2f%%", radius, 100 * self._share(left))
            yield {"eps": radius, "accuracy": self._share(left)}

    def _standing(
        self, name: str, indices: np.ndarray, eps: float, key: Key
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Those that withstand every restart, and what became of the watched ones last."""
        found: dict[int, np.ndarray] = {}
        for restart in range(max(self.restarts, 1)):
            run_key = jax.random.fold_in(key, restart) if restart else key
            indices, seen = self.examiner.attack(name, indices, eps, run_key, self.watched)
            found |= seen
        return indices, found

    def _share(self, part: np.ndarray) -> float:
        return len(part) / len(self.indices)
