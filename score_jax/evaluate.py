"""The evaluation job: clean and attacked accuracy of an exported model.

Its attacks run in JAX on every device and are a quick check; the figure to report is AutoAttack's.
"""

import dataclasses
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_jax import config as config_module
from score_jax import config_rules, export
from score_jax.data import sources, trained
from score_jax.data.sources import Images
from score_jax.evaluate_attacks import ATTACKS, check_counts
from score_jax.evaluate_examiner import Examiner
from score_jax.evaluate_trial import Trial
from score_jax.export import Artifact
from score_jax.types import UserError, lookup
from score_jax.workdir import library_versions, write_json_atomic

LOGGER = logging.getLogger("score_jax")
NUM_EXAMPLES = 10
SPLITS = ("test", "train")
NOT_OFFICIAL = (
    "this attack runs in JAX and gives an upper estimate of the robust accuracy; the figure to "
    "report is the official AutoAttack's: score-jax autoattack"
)
GIVEN = "training labels are those that the run was given, of which {label_noise:.0%} are wrong"
CURVE = "an image lost at a radius stays lost at larger ones, whose balls contain it"


def evaluate(
    artifact: str | os.PathLike[str],
    *,
    data_dir: str = "",
    split: str = "test",
    num_examples: int = 0,
    batch_size: int = 500,
    eps: float | None = None,
    attack: str = "pgd",
    steps: int | None = None,
    step_size: float | None = None,
    restarts: int | None = None,
    eps_curve: bool = True,
    name: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """Measures an artifact and writes `eval/NAME/{result.json, examples.npz}` beside its folder.

    Args:
      artifact: the folder of an export, or the run folder above it.
      split: 'test', or 'train': the images that the run was trained on, by the labels that it was
        given.
      num_examples: the first so many images; 0: all.
      batch_size: images in one forward pass, over all devices.
      eps: radius in pixel units; None: the model's own.
      attack: one of `evaluate_attacks.ATTACKS`.
      steps: of each walk (of 'square': queries); None: as many as is usual for the attack.
      step_size: of PGD, pixel units; None: as is usual for the attack.
      restarts: of those images that still stand; None: as many as is usual.
      eps_curve: also measure over a range of radii, where the attack is quick enough.
      name: of the result; '': the attack with its steps, such as 'pgd40', 'autoattack-jax', on
        training images 'pgd40-train'.
      seed: of all that the attack draws.

    Returns:
      The main numbers and the path of the result.

    Raises:
      UserError: an unknown attack, an impossible radius or selection, a dataset that does not fit
        the model, or a result of that name by another model.
    """
    started = time.monotonic()
    kind = lookup(ATTACKS, "attack", attack)
    steps, restarts = check_counts(attack, kind, steps, restarts)
    attack_name = f"{attack}{steps or ''}"
    loaded = export.load(artifact)
    eps, norm = _radius(loaded, eps), loaded.spec["norm"]
    selection_attack = (loaded.spec.get("config") or {}).get("validation", {}).get("attack", {})
    setting, step_rule = kind.setting(norm, eps, steps, selection_attack, step_size)
    # The folder 'autoattack' is the official one's.
    usual_name = attack_name if kind.parts else f"{attack}-jax"
    name = name or usual_name + ("-train" if split == "train" else "")
    folder = _result_folder(loaded, name)
    data = _images(loaded, data_dir, split)
    trained_on = trained.facts(_config_data(loaded)) if split == "train" else {}
    indices = _selection(loaded, data, split, num_examples)
    if "label_noise" in trained_on:
        num_classes = loaded.spec["model"]["num_classes"]
        labels = trained.given_labels(_config_data(loaded), data.labels, num_classes)
        data = dataclasses.replace(data, labels=labels)
        LOGGER.info("%s", GIVEN.format(**trained_on))
    attacks = {
        f"{attack_name}-{part}" if part else attack_name: make(setting)
        for part, make in kind.parts.items()
    }
    batch_size = min(batch_size, len(indices))
    examiner = Examiner(loaded, data, attacks, batch_size)

    right = indices[examiner.clean_predictions(indices) == data.labels[indices]]
    LOGGER.info("clean accuracy %.2f%% on %d images", _percent(right, indices), len(indices))
    shown = _one_a_class(data, indices)
    trial = Trial(
        examiner=examiner, data=data, indices=indices, right=right, watched=shown, restarts=restarts
    )
    key, names = jax.random.key(seed), list(attacks)
    if names:
        outcome = trial.withstand(names, eps, key)
    else:
        outcome = trial.withstand_autoattack(norm=norm, eps=eps, seed=seed, batch_size=batch_size)
    curve = []
    if eps_curve and kind.has_curve:
        curve = list(trial.curve(names[-1], eps, norm, jax.random.fold_in(key, len(names))))

    result = {
        "clean_accuracy": len(right) / len(indices),
        "robust_accuracy": len(outcome.robust) / len(indices),
        "official": False,
        "note": NOT_OFFICIAL,
        "notes": list(outcome.notes),
        "attacks": outcome.attacks,
        "eps_curve": curve,
        "eps_curve_attack": f"{names[-1]}; {CURVE}" if curve else "",
        "num_examples": len(indices),
        "dataset": data.name,
        "split": split,
        "trained_on": trained_on,
        "norm": norm,
        "eps": {"value": eps, "written": config_module.write_eps(eps)},
        "attack": attack_name,
        "num_steps": steps or None,
        "step_size": float(setting.walk.step_size) if setting.walk else None,
        "step_size_rule": step_rule,
        "start": setting.walk.start if setting.walk else None,
        "restarts": restarts or None,
        "seed": seed,
        "model_sha256": _model_sha256(loaded),
        "data_sha256": data.fingerprint,
        "precision": "float32",
        "versions": library_versions(),
        "devices": sorted({f"{device.platform} {device.device_kind}" for device in jax.devices()}),
        "seconds": round(time.monotonic() - started, 3),
    }
    examples = examiner.examples(shown, outcome.found)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _write_arrays(folder / "examples.npz", examples)
        write_json_atomic(folder / "result.json", result)
    told = ("clean_accuracy", "robust_accuracy", "num_examples", "norm", "note", "seconds")
    return {
        "attack": f"worst case of {' and '.join(names)}" if len(names) > 1 else attack_name,
        "eps": result["eps"]["written"],
        **{field: result[field] for field in told},
        **({"labels": GIVEN.format(**trained_on)} if "label_noise" in trained_on else {}),
        "result": str(folder / "result.json"),
    }


def _radius(artifact: Artifact, eps: float | None) -> float:
    spec = artifact.spec
    missing = [field for field in ("dataset", "norm", "eps") if field not in spec]
    if missing:
        raise UserError(f"model.json of {artifact.path} lacks {missing[0]!r}; export the run again")
    eps = float(spec["eps"] if eps is None else eps)
    config_rules.check_eps(eps, spec["norm"], "--eps")
    if not 0 < eps < float("inf"):
        raise UserError(f"--eps={eps:g} leaves nothing to attack; give a radius such as 8/255")
    return eps


def _result_folder(artifact: Artifact, name: str) -> Path:
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name={name} is not the name of a folder; write a word such as pgd40")
    folder = artifact.path.parent / "eval" / name
    path = folder / "result.json"
    if (folder / "chunks").exists():
        raise UserError(
            f"{folder} is an evaluation by the official AutoAttack; keep it and give this one "
            "another --name"
        )
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


def _images(artifact: Artifact, data_dir: str, split: str) -> Images:
    lookup(dict.fromkeys(SPLITS), "--split", split)
    read = sources.test_split if split == "test" else sources.train_split
    data = read(artifact.spec["dataset"], data_dir)
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


def _selection(artifact: Artifact, data: Images, split: str, num_examples: int) -> np.ndarray:
    indices = np.arange(len(data))
    if split == "train":
        indices = trained.indices(_config_data(artifact), data.labels)
    if not 0 <= num_examples <= len(indices) or not len(indices):
        raise UserError(
            f"--num_examples={num_examples}: {data.name} has {len(indices)} {split} images; give "
            "at most so many, or 0 for all"
        )
    return indices[: num_examples or None]


def _config_data(artifact: Artifact) -> dict[str, Any]:
    """`config.data` of the run; {} for a model of another origin."""
    return (artifact.spec.get("config") or {}).get("data") or {}


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
