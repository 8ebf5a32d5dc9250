"""An exported model's answers to test images, clean and attacked, on every device."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import evaluation, mesh
from score_jax.attacks import PGD, pgd
from score_jax.attacks.multi_targeted import MultiTargeted
from score_jax.data.sources import Images
from score_jax.divergences import ATTACK_LOSSES, label_cross_entropy
from score_jax.export import Artifact
from score_jax.types import Array, Key

MULTI_TARGETED = "multi_targeted"


class Examiner:
    """Asks one artifact for its answers, image by image; each program is compiled once.

    The start of an attack is drawn per image of the test split, so that no answer depends on the
    batch size or on the number of devices.
    """

    def __init__(
        self,
        artifact: Artifact,
        data: Images,
        attack: PGD,
        losses: Sequence[str],
        batch_size: int,
    ) -> None:
        """Losses: of `divergences.ATTACK_LOSSES`, or `MULTI_TARGETED` for the attack around it."""
        self._layout = mesh.create()
        devices = self._layout.num_devices
        self._batch_size = -(-batch_size // devices) * devices
        self._data, self._attack = data, attack
        held = {"params": artifact.params, "batch_stats": artifact.batch_stats}
        self._held = jax.device_put(held, self._layout.replicated)
        self._logits = functools.partial(evaluation.logits_fn, artifact.classifier)
        split, whole = self._layout.batch, self._layout.replicated
        compile_ = functools.partial(jax.jit, out_shardings=whole)
        self.predict = compile_(self._predict, in_shardings=(whole, split))
        self.gradient = compile_(self._gradient, in_shardings=(whole, split))
        self.attacks = {
            loss: compile_(
                functools.partial(self._adversarial, loss),
                in_shardings=(whole, split, whole, whole),
            )
            for loss in losses
        }

    def clean_predictions(self, indices: np.ndarray) -> np.ndarray:
        """The classes i32[n] of test images `indices` i[n], unattacked."""
        answers = [
            np.asarray(self.predict(self._held, batch))[: len(part)]
            for part, batch in self._batches(indices)
        ]
        return np.concatenate(answers)

    def survivors(self, loss: str, indices: np.ndarray, eps: float, key: Key) -> np.ndarray:
        """Those of `indices` that stay classified right under PGD at radius `eps`."""
        key, kept = jax.device_put(key, self._layout.replicated), [indices[:0]]
        for part, batch in self._batches(indices):
            _, predictions = self.attacks[loss](self._held, batch, key, np.float32(eps))
            kept.append(part[np.asarray(predictions)[: len(part)] == self._data.labels[part]])
        return np.concatenate(kept)

    def examples(self, indices: np.ndarray, eps: float, key: Key) -> dict[str, np.ndarray]:
        """What the report shows: clean and adversarial images, answers, input gradients."""
        key, found = jax.device_put(key, self._layout.replicated), []
        for part, batch in self._batches(indices):
            attack = next(iter(self.attacks.values()))
            adversarial, predictions = attack(self._held, batch, key, np.float32(eps))
            answers = {
                "adversarial": adversarial,
                "adversarial_predictions": predictions,
                "clean_predictions": self.predict(self._held, batch),
                "gradients": self.gradient(self._held, batch),
            }
            found.append({name: np.asarray(array)[: len(part)] for name, array in answers.items()})
        return {
            "indices": indices,
            "clean": self._data.images[indices].astype(np.float32) / 255,
            "labels": self._data.labels[indices],
            **{name: np.concatenate([entry[name] for entry in found]) for name in found[0]},
        }

    def _batches(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, Array]]]:
        """(the indices that count, the batch); the last batch is filled up with copies."""
        for start in range(0, len(indices), self._batch_size):
            part = indices[start : start + self._batch_size]
            filled = np.resize(part, self._batch_size)
            batch = {
                "images": self._data.images[filled],
                "labels": self._data.labels[filled],
                "indices": filled.astype(np.int32),
                "mask": np.arange(self._batch_size) < len(part),
            }
            yield part, self._layout.put_batch(evaluation.process_part(batch))

    def _predict(self, held, batch):
        logits = self._logits(held["params"], held["batch_stats"])
        return logits(_pixels(batch)).argmax(-1).astype(jnp.int32)

    def _gradient(self, held, batch):
        logits = self._logits(held["params"], held["batch_stats"])

        def loss(images):
            return label_cross_entropy(logits(images), batch["labels"]).sum()

        return jax.grad(loss)(_pixels(batch))

    def _adversarial(self, name, held, batch, key, eps):
        logits, labels = self._logits(held["params"], held["batch_stats"]), batch["labels"]
        attack = pgd.epsilon_sweep(self._attack, eps)
        images = _pixels(batch)

        def draw(key):
            def one(index):
                image_key = jax.random.fold_in(key, index)
                return attack.threat.noise(image_key, images.shape[1:], jnp.float32)

            return jax.vmap(one)(batch["indices"])

        if name == MULTI_TARGETED:
            adversarial = MultiTargeted(attack=attack)(logits, key, images, labels, draw)
        else:
            loss = ATTACK_LOSSES[name]
            adversarial = attack(lambda x: loss(logits(x), labels), key, images, draw(key))
        return adversarial, logits(adversarial).argmax(-1).astype(jnp.int32)


def _pixels(batch: dict[str, Array]) -> Array:
    return batch["images"].astype(jnp.float32) / 255
