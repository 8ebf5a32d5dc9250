"""An exported model's answers to images, clean and attacked, on every device."""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import evaluation, mesh
from score_jax.data.sources import Images
from score_jax.divergences import label_cross_entropy
from score_jax.evaluate_attacks import Attack
from score_jax.export import Artifact
from score_jax.types import Array, Key


class Examiner:
    """Asks one artifact for its answers, image by image; each program is compiled once.

    The key of an attack is folded per image of the split, so that no answer depends on the batch
    size or on the number of devices.
    """

    def __init__(
        self, artifact: Artifact, data: Images, attacks: Mapping[str, Attack], batch_size: int
    ) -> None:
        self._layout = mesh.create()
        devices = self._layout.num_devices
        self._batch_size = -(-batch_size // devices) * devices
        self._data = data
        held = {"params": artifact.params, "batch_stats": artifact.batch_stats}
        self._held = jax.device_put(held, self._layout.replicated)
        self._logits = functools.partial(evaluation.logits_fn, artifact.classifier)
        split, whole = self._layout.batch, self._layout.replicated
        compile_ = functools.partial(jax.jit, out_shardings=whole)
        self.predict = compile_(self._predict, in_shardings=(whole, split))
        self.gradient = compile_(self._gradient, in_shardings=(whole, split))
        self.attacks = {
            name: compile_(
                functools.partial(self._adversarial, attack),
                in_shardings=(whole, split, whole, whole),
            )
            for name, attack in attacks.items()
        }

    def logits(self, images: Array) -> Array:
        """f32[b, k] of images f32[b, h, w, c]."""
        return self._logits(self._held["params"], self._held["batch_stats"])(images)

    def clean_predictions(self, indices: np.ndarray) -> np.ndarray:
        """The classes i32[n] of images `indices` i[n], unattacked."""
        return self._predictions(indices, self._data.images[indices])

    def attack(
        self,
        name: str,
        indices: np.ndarray,
        eps: float,
        key: Key,
        watched: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Attacks images `indices` i[n] at radius `eps`.

        Returns:
          Those that stay classified right, and of the `watched` ones among them all what the attack
          made of them, f32[h, w, c] by index.
        """
        key, kept, seen = jax.device_put(key, self._layout.replicated), [indices[:0]], {}
        for part, batch in self._batches(indices, self._data.images[indices]):
            images, predictions = self.attacks[name](self._held, batch, key, np.float32(eps))
            kept.append(part[np.asarray(predictions)[: len(part)] == self._data.labels[part]])
            rows = np.flatnonzero(np.isin(part, () if watched is None else watched))
            seen |= {int(part[row]): np.asarray(images[row]) for row in rows}
        return np.concatenate(kept), seen

    def examples(
        self, indices: np.ndarray, found: Mapping[int, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """What the report shows: clean and adversarial images, answers, input gradients.

        An image that was `found` nowhere was wrong without an attack: it stays as it is.
        """
        clean = self._data.images[indices].astype(np.float32) / 255
        pairs = zip(indices, clean, strict=True)
        adversarial = np.stack([found.get(int(index), image) for index, image in pairs])
        gradients = [
            np.asarray(self.gradient(self._held, batch))[: len(part)]
            for part, batch in self._batches(indices, self._data.images[indices])
        ]
        return {
            "indices": indices,
            "clean": clean,
            "labels": self._data.labels[indices],
            "adversarial": adversarial,
            "adversarial_predictions": self._predictions(indices, adversarial),
            "clean_predictions": self.clean_predictions(indices),
            "gradients": np.concatenate(gradients),
        }

    def _predictions(self, indices, images):
        answers = [
            np.asarray(self.predict(self._held, batch))[: len(part)]
            for part, batch in self._batches(indices, images)
        ]
        return np.concatenate(answers)

    def _batches(
        self, indices: np.ndarray, images: np.ndarray
    ) -> Iterator[tuple[np.ndarray, dict[str, Array]]]:
        """(the indices that count, the batch); the last batch is filled up with copies."""
        for start in range(0, len(indices), self._batch_size):
            part = indices[start : start + self._batch_size]
            filled = np.resize(np.arange(start, start + len(part)), self._batch_size)
            batch = {
                "images": images[filled],
                "labels": self._data.labels[indices[filled]],
                "indices": indices[filled].astype(np.int32),
                "mask": np.arange(self._batch_size) < len(part),
            }
            yield part, self._layout.put_whole_batch(batch)

    def _predict(self, held, batch):
        logits = self._logits(held["params"], held["batch_stats"])
        return logits(_pixels(batch)).argmax(-1).astype(jnp.int32)

    def _gradient(self, held, batch):
        logits = self._logits(held["params"], held["batch_stats"])

        def loss(images):
            return label_cross_entropy(logits(images), batch["labels"]).sum()

        return jax.grad(loss)(_pixels(batch))

    def _adversarial(self, attack, held, batch, key, eps):
        logits = self._logits(held["params"], held["batch_stats"])
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["indices"])
        images = _pixels(batch)
        adversarial = attack(logits, keys, images, batch["labels"], eps)
        adversarial = evaluation.finite_or_clean(adversarial, images)
        return adversarial, logits(adversarial).argmax(-1).astype(jnp.int32)


def _pixels(batch: dict[str, Array]) -> Array:
    images = batch["images"]
    return images if images.dtype == jnp.float32 else images.astype(jnp.float32) / 255
