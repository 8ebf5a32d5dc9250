"""Two networks under attack, image by image: one PGD with one start for both, and AutoAttack."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import official_autoattack, threat_models
from score_jax.compare_measures import agreement
from score_jax.compare_sides import Side

BACKENDS = {"jax": "bridge", "torch": "torch"}
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


def compare_autoattack(
    first: Side, second: Side, *, num_examples: int, norm: str, eps: float, data_dir: str,
    batch_size: int, seed: int, folder: Path, data_sha256: str, report: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Who withstands the official AutoAttack: results that lie there already, or new ones."""
    robust, sources = {}, {}
    for name, side in (("a", first), ("b", second)):
        place = _result_of(
            side, num_examples, norm, eps, data_sha256, folder / f"autoattack_{name}"
        )
        if place is None:
            place = folder / f"autoattack_{name}"
            official_autoattack.run(
                side.artifact, data_dir=data_dir, num_examples=num_examples, norm=norm, eps=eps,
                batch_size=batch_size, seed=seed, backend=BACKENDS[side.engine], out=place,
                report=report,
            )  # fmt: skip
        with np.load(place / "adversarial.npz", allow_pickle=False) as stored:
            robust[name] = stored["robust"][:num_examples].astype(bool)
        sources[name] = str(place)
    return {
        "robust_accuracy": {name: float(robust[name].mean()) for name in "ab"},
        "robust": agreement(robust["a"], robust["b"]),
        "results": sources,
    }


def _result_of(
    side: Side, num_examples: int, norm: str, eps: float, data_sha256: str, own: Path
) -> Path | None:
    """The folder of a whole standard AutoAttack of exactly this network, or None."""
    wanted = {
        "attack": "AutoAttack",
        "attack_version": "standard",
        "backend": BACKENDS[side.engine],
        "model_sha256": side.sha256,
        "data_sha256": data_sha256,
        "norm": norm,
    }
    for path in (own / "result.json", *side.artifact.path.parent.glob("eval/*/result.json")):
        try:
            result = json.loads(path.read_text())
            radius, count = result["eps"]["value"], result["num_examples"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        fits = all(result.get(field) == value for field, value in wanted.items())
        if fits and abs(radius - eps) < 1e-9 and count >= num_examples:
            if (path.parent / "adversarial.npz").is_file():
                return path.parent
    return None
