"""Two networks under attack, image by image: one PGD with one start for both, and AutoAttack."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import official_autoattack, threat_models
from score_jax.artifact import sha256
from score_jax.compare_measures import agreement
from score_jax.compare_sides import Side

BACKENDS = {"jax": "bridge", "torch": "torch"}
ADVERSARIAL = "adversarial.npz"
Ask = Callable[..., np.ndarray]  # (function, *arrays) -> its result, computed in batches.


class Walk:
    """PGD on the cross-entropy, whose gradient either framework gives.

    Start, step and projection are computed once here, for both sides alike, so that only the
    networks can make a difference. `attacks.PGD` is the same walk inside one compiled program.
    """

    def __init__(self, norm: str, eps: float, num_steps: int, seed: int) -> None:
        self.threat = threat_models.create(norm, eps)
        self.num_steps, self.step_size = num_steps, 2.5 * eps / num_steps
        self._key = jax.random.key(seed)

    def __call__(self, side: Side, images: np.ndarray, labels: np.ndarray, ask: Ask) -> np.ndarray:
        """The last iterates against a network, f32[n, h, w, c].

        An image's start depends on its place alone, not on how many there are.
        """
        start_key, step_key = jax.random.split(self._key)
        keys = jax.vmap(lambda place: jax.random.fold_in(start_key, place))(np.arange(len(images)))
        noise = jax.vmap(lambda key: self.threat.noise(key, images.shape[1:], jnp.float32))(keys)
        moved = self.threat.random_start(noise, images)
        for step in range(self.num_steps):
            slope = jnp.asarray(ask(side.input_gradient, np.asarray(moved), labels))
            direction = self.threat.ascend(slope, jax.random.fold_in(step_key, step))
            moved = self.threat.project(moved + self.step_size * direction, images)
        return np.asarray(moved)


def compare_pgd(
    sides: tuple[Side, Side], found: tuple[np.ndarray, np.ndarray], labels: np.ndarray, ask: Ask
) -> dict[str, Any]:
    """Who withstands its own attack, and who the other's.

    Args:
      found: what the same `Walk` gave against each.
    """
    right = {
        (judge, maker): ask(side.logits, adversarial).argmax(1) == labels
        for judge, side in zip("ab", sides, strict=True)
        for maker, adversarial in zip("ab", found, strict=True)
    }
    difference = np.abs(found[0] - found[1]).reshape(len(labels), -1).max(1)
    return {
        "robust_accuracy": {name: float(right[name, name].mean()) for name in "ab"},
        "robust": agreement(right["a", "a"], right["b", "b"]),
        "transfer": {
            "images_of_a_judged_by_b": float(right["b", "a"].mean()),
            "images_of_b_judged_by_a": float(right["a", "b"].mean()),
        },
        "same_adversarial_images": float((difference == 0).mean()),
        "max_pixel_difference": float(difference.max()),
    }


@dataclass(frozen=True, kw_only=True)
class Official:
    """An AutoAttack evaluation: on which images, in which ball; run where none lies there yet.

    What a comparison at other settings left in its folder is moved aside.
    """

    dataset: str
    data_dir: str
    data_sha256: str
    num_examples: int
    norm: str
    eps: float
    batch_size: int
    seed: int

    def robust(self, side: Side, folder: Path, report: Callable[[str], None]) -> np.ndarray:
        """bool[num_examples], and where it is from is told; a new result goes to `folder`."""
        place = self._existing(side)
        if place is None:
            place, spec = folder, {**side.artifact.spec, "dataset": self.dataset}
            official_autoattack.run(
                dataclasses.replace(side.artifact, spec=spec), data_dir=self.data_dir,
                num_examples=self.num_examples, norm=self.norm, eps=self.eps, seed=self.seed,
                batch_size=self.batch_size, backend=BACKENDS[side.engine], out=place,
                set_aside_other=True, report=report,
            )  # fmt: skip
        report(f"{side.label}: AutoAttack from {place}")
        with np.load(place / ADVERSARIAL, allow_pickle=False) as stored:
            return stored["robust"][: self.num_examples].astype(bool)

    def _existing(self, side: Side) -> Path | None:
        """The folder of a whole standard evaluation of exactly this network, or None."""
        wanted = {
            "attack": "AutoAttack",
            "attack_version": "standard",
            "backend": BACKENDS[side.engine],
            "model_sha256": side.sha256,
            "data_sha256": self.data_sha256,
            "norm": self.norm,
        }
        for path in sorted(side.artifact.path.parent.glob("eval/*/result.json")):
            images = path.with_name(ADVERSARIAL)
            try:
                result = json.loads(path.read_text())
                fits = all(result.get(field) == value for field, value in wanted.items())
                fits &= abs(result["eps"]["value"] - self.eps) < 1e-9
                fits &= result["num_examples"] >= self.num_examples
                if fits and sha256(images) == result["adversarial_sha256"]:
                    return path.parent
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # Not a whole result of ours: it serves nobody.
        return None


def compare_autoattack(
    sides: tuple[Side, Side], official: Official, folder: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Who withstands the official AutoAttack."""
    robust = {
        name: official.robust(side, folder / f"autoattack_{name}", report)
        for name, side in zip("ab", sides, strict=True)
    }
    return {
        "robust_accuracy": {name: float(flags.mean()) for name, flags in robust.items()},
        "robust": agreement(robust["a"], robust["b"]),
    }
