"""The evaluation job: clean and attacked accuracy of an exported model on the test split.

PGD is a quick check, made in JAX on every device; the figure to report is AutoAttack's.
"""

import dataclasses
import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_jax import config as config_module
from score_jax import config_rules, export
from score_jax.attacks import PGD, multi_targeted, pgd
from score_jax.data import sources
from score_jax.data.sources import Images
from score_jax.evaluate_examiner import MULTI_TARGETED, Examiner
from score_jax.export import Artifact
from score_jax.types import UserError, lookup
from score_jax.workdir import library_versions, write_json_atomic

LOGGER = logging.getLogger("score_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """An attack of this job: an image counts as robust where it withstands each of `losses`.

    The last loss makes the curve, the first one the example images.
    """

    losses: tuple[str, ...]
    steps: int


ATTACKS = {
    "pgd": Kind(losses=("cross_entropy", "margin"), steps=40),
    MULTI_TARGETED: Kind(losses=(MULTI_TARGETED,), steps=multi_targeted.NUM_STEPS),
}
# Multiples of eps; the curve goes on along FURTHER until next to nothing is left.
MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
FURTHER = (2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
NEXT_TO_NOTHING = 0.01
NUM_EXAMPLES = 10
NOT_OFFICIAL = (
    "PGD gives an upper estimate of the robust accuracy; the figure to report is AutoAttack's: "
    "score-jax autoattack"
)


def evaluate(
    artifact: str | os.PathLike[str],
    *,
    data_dir: str = "",
    num_examples: int = 0,
    batch_size: int = 500,
    eps: float | None = None,
    attack: str = "pgd",
    steps: int | None = None,
    eps_curve: bool = True,
    name: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """Measures an artifact and writes `eval/NAME/{result.json, examples.npz}` beside its folder.

    Args:
      artifact: the folder of an export, or the run folder above it.
      num_examples: the first so many test images; 0: all.
      batch_size: images in one forward pass, over all devices.
      eps: radius in pixel units; None: the model's own.
      attack: 'pgd', the worst case of two losses, or 'multi_targeted' (Yang et al. 2020).
      steps: of each PGD; None: 40, or 20 where it is targeted.
      eps_curve: also measure over a range of radii.
      name: of the result; '': 'pgd40' or 'multi_targeted20'.
      seed: of the random starts.

    Returns:
      The main numbers and the path of the result.

    Raises:
      UserError: an unknown attack, an impossible radius or selection, a dataset that does not fit
        the model, or a result of that name by another model.
    """
    started = time.monotonic()
    kind = lookup(ATTACKS, "attack", attack)
    steps = kind.steps if steps is None else steps
    attack_name = f"{attack}{steps}"
    names = [attack_name if loss == attack else f"{attack_name}-{loss}" for loss in kind.losses]
    loaded = export.load(artifact)
    walk, step_rule = _attack(loaded, attack, eps, steps)
    eps, norm = walk.threat.eps, loaded.spec["norm"]
    name = name or attack_name
    folder = _result_folder(loaded, name)
    data = _test_images(loaded, data_dir)
    indices = _selection(data, num_examples)
    examiner = Examiner(loaded, data, walk, kind.losses, min(batch_size, len(indices)))
    key = jax.random.key(seed)

    right = indices[examiner.clean_predictions(indices) == data.labels[indices]]
    LOGGER.info("clean accuracy %.2f%% on %d images", _percent(right, indices), len(indices))
    robust, attacks = right, []
    for number, loss in enumerate(kind.losses):
        before = time.monotonic()
        kept = examiner.survivors(loss, right, eps, jax.random.fold_in(key, number))
        robust = np.intersect1d(robust, kept)
        attacks.append(
            {
                "name": names[number],
                "accuracy": len(kept) / len(indices),
                "robust_accuracy": len(robust) / len(indices),
                "seconds": round(time.monotonic() - before, 3),
            }
        )
        LOGGER.info("%s: %.2f%% withstand it", attacks[-1]["name"], _percent(kept, indices))
    curve = []
    if eps_curve:
        key_ = jax.random.fold_in(key, len(kind.losses))
        losing = functools.partial(examiner.survivors, kind.losses[-1], key=key_)
        curve = list(_curve(losing, right, len(indices), eps, norm))

    result = {
        "clean_accuracy": len(right) / len(indices),
        "robust_accuracy": len(robust) / len(indices),
        "official": False,
        "note": NOT_OFFICIAL,
        "attacks": attacks,
        "eps_curve": curve,
        "eps_curve_attack": f"{names[-1]}; an image lost at a radius stays lost at "
        "larger ones, whose balls contain it",
        "num_examples": len(indices),
        "dataset": data.name,
        "norm": norm,
        "eps": {"value": eps, "written": config_module.write_eps(eps)},
        "attack": attack_name,
        "num_steps": steps,
        "step_size": float(walk.step_size),
        "step_size_rule": step_rule,
        "start": walk.start,
        "restarts": 1,
        "seed": seed,
        "model_sha256": _model_sha256(loaded),
        "data_sha256": data.fingerprint,
        "precision": "float32",
        "versions": library_versions(),
        "devices": sorted({f"{device.platform} {device.device_kind}" for device in jax.devices()}),
        "seconds": round(time.monotonic() - started, 3),
    }
    examples = examiner.examples(_one_a_class(data, indices), eps, jax.random.fold_in(key, 0))
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _write_arrays(folder / "examples.npz", examples)
        write_json_atomic(folder / "result.json", result)
    shown = ("clean_accuracy", "robust_accuracy", "num_examples", "norm", "note", "seconds")
    return {
        "attack": f"{'worst case of ' if len(names) > 1 else ''}{' and '.join(names)}",
        "eps": result["eps"]["written"],
        **{field: result[field] for field in shown},
        "result": str(folder / "result.json"),
    }


def _curve(
    survivors: Callable[..., np.ndarray], right: np.ndarray, count: int, eps: float, norm: str
) -> Iterator[dict[str, float]]:
    left = right
    for multiple in MULTIPLES + FURTHER:
        radius = multiple * eps
        if norm == "linf" and radius > 1:
            return
        if multiple in FURTHER and len(left) <= NEXT_TO_NOTHING * count:
            return
        if multiple > 0:
            left = survivors(left, radius)
        LOGGER.info("eps %.4g: %.2f%%", radius, 100 * len(left) / count)
        yield {"eps": radius, "accuracy": len(left) / count}


def _attack(artifact: Artifact, name: str, eps: float | None, steps: int) -> tuple[PGD, str]:
    """The PGD and where its step size is from: the selection attack's, where that is the same."""
    spec = artifact.spec
    missing = [field for field in ("dataset", "norm", "eps") if field not in spec]
    if missing:
        raise UserError(f"model.json of {artifact.path} lacks {missing[0]!r}; export the run again")
    eps = float(spec["eps"] if eps is None else eps)
    config_rules.check_eps(eps, spec["norm"], "--eps")
    if not 0 < eps < float("inf"):
        raise UserError(f"--eps={eps:g} leaves nothing to attack; give a radius such as 8/255")
    if steps < 1:
        raise UserError(f"--steps={steps} is no attack; give 1 or more")
    own = (spec.get("config") or {}).get("validation", {}).get("attack", {})
    step_size, rule = 2.5 * eps / steps, "2.5 * eps / num_steps"
    if name == MULTI_TARGETED:
        step_size, rule = eps / multi_targeted.STEPS_PER_EPS, "eps / 10 (Yang et al. 2020)"
    elif own.get("num_steps") == steps and abs(own.get("eps", -1) - eps) < 1e-9:
        step_size, rule = own["step_size"], "config.validation.attack.step_size"
    attack = pgd.create(norm=spec["norm"], eps=eps, step_size=step_size, num_steps=steps)
    return dataclasses.replace(attack, start="uniform"), rule


def _result_folder(artifact: Artifact, name: str) -> Path:
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name={name} is not the name of a folder; write a word such as pgd40")
    folder = artifact.path.parent / "eval" / name
    path = folder / "result.json"
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError:
            there = {}
        if there.get("official") is not False or there.get("model_sha256") != _model_sha256(
            artifact
        ):
            raise UserError(
                f"{path} is the result of another model or evaluation; keep it and give this one "
                "another --name"
            )
    return folder


def _model_sha256(artifact: Artifact) -> str:
    return artifact.spec["sha256"]["model.safetensors"]


def _test_images(artifact: Artifact, data_dir: str) -> Images:
    data = sources.test_split(artifact.spec["dataset"], data_dir)
    shape, expected = data.images.shape[1:], tuple(artifact.spec["model"]["image_shape"])
    if shape != expected:
        raise UserError(
            f"dataset {data.name!r} has images {shape}, the model of {artifact.path} takes "
            f"{expected}; judge it on the dataset it was trained on"
        )
    num_classes = artifact.spec["model"]["num_classes"]
    if len(data) and data.labels.max() >= num_classes:
        raise UserError(
            f"dataset {data.name!r} has label {data.labels.max()}, the model of {artifact.path} "
            f"tells {num_classes} classes apart; judge it on the dataset it was trained on"
        )
    return data


def _selection(data: Images, num_examples: int) -> np.ndarray:
    if not 0 <= num_examples <= len(data) or not len(data):
        raise UserError(
            f"--num_examples={num_examples}: {data.name} has {len(data)} test images; give at most "
            "so many, or 0 for all"
        )
    return np.arange(num_examples or len(data))


def _one_a_class(data: Images, indices: np.ndarray) -> np.ndarray:
    """The first image of each class, in the order of the classes: chosen before any attack."""
    _, first = np.unique(data.labels[indices], return_index=True)
    return indices[first[:NUM_EXAMPLES]]


def _percent(part: np.ndarray, whole: np.ndarray) -> float:
    return 100 * len(part) / len(whole)


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
    try:
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
