"""What an evaluation allows to be said of a model, and what it still lacks."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.artifact import WEIGHTS, Artifact, sha256
from score_jax.config import write_eps
from score_jax.config_rules_data import generated_sets
from score_jax.data import sources
from score_jax.types import UserError, lookup

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
# RobustBench: dataset and norm, and the one radius that it ranks.
LEADERBOARDS = {("cifar10", "linf"): 8 / 255, ("cifar10", "l2"): 0.5, ("cifar100", "linf"): 8 / 255}
# Doubts of AutoAttack about its own result; that there are few classes is not one.
DOUBTS = {"randomized", "probabilities", "zero_gradient", "dynamic", "black_box_gain"}
BALL_TOLERANCE = 1e-5  # As in the recount of the official evaluation.
NEEDED = (
    "attack", "clean_accuracy", "robust_accuracy", "num_examples", "norm", "eps", "attacks",
    "model_sha256",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Images beside the training set. outside: from elsewhere than the task's own images."""

    outside: bool
    footnote: str


def _synthetic(number: str, generator: str) -> Extra:
    return Extra(
        outside=False,
        footnote=f"It uses additional {number} synthetic images in training ({generator}).",
    )


_DDPM, _EDM = "DDPM of Gowal et al., 2021", "EDM of Wang et al., 2023"
# Images of a generator that saw only the task's training set are no additional data.
EXTRAS = {
    "cifar10_ddpm": _synthetic("1M", _DDPM),
    "cifar100_ddpm": _synthetic("1M", _DDPM),
    "cifar10_edm": _synthetic("1M", _EDM),
    "cifar10_edm_5m": _synthetic("5M", _EDM),
    "cifar10_edm_10m": _synthetic("10M", _EDM),
    "cifar10_edm_20m": _synthetic("20M", _EDM),
    "cifar10_edm_50m": _synthetic("50M", _EDM),
    "cifar100_edm": _synthetic("1M", _EDM),
    "cifar100_edm_50m": _synthetic("50M", _EDM),
    "svhn_ddpm": _synthetic("1M", _DDPM),
    "svhn_edm": _synthetic("1M", _EDM),
    "svhn_edm_50m": _synthetic("50M", _EDM),
    "tiny_imagenet_edm": _synthetic("1M", _EDM),
    "cifar10_ti500k": Extra(
        outside=True,
        footnote="It uses additional 500K pseudo-labelled images of 80 Million Tiny Images in "
        "training (Carmon et al., 2019).",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Accuracies of a model under one threat, and where they come from.

    Attributes:
      result: result.json of the evaluation; folder: where it lies.
      dataset, norm ('linf', 'l2', 'l1'), eps (in pixel units).
      additional_data, footnote: of RobustBench.
      incomplete: what the evaluation lacks, one sentence each.
      unranked: why no leaderboard takes it.
    """

    result: Mapping[str, Any]
    folder: Path
    dataset: str
    norm: str
    eps: float
    additional_data: bool
    footnote: str
    incomplete: tuple[str, ...]
    unranked: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Why this is a draft; empty for a claim that can be made."""
        return self.incomplete + self.unranked

    @property
    def threat(self) -> str:
        return NORMS[self.norm]

    @property
    def radius(self) -> str:
        return write_eps(self.eps)

    @property
    def clean(self) -> str:
        """In percent, as leaderboards write it: '88.61'."""
        return percent(self.result["clean_accuracy"])

    @property
    def robust(self) -> str:
        return percent(self.result["robust_accuracy"])

    @property
    def flags(self) -> list[Mapping[str, Any]]:
        return list(self.result.get("flags") or [])

    @property
    def unreliable(self) -> bool:
        """Whether AutoAttack doubts its result."""
        return any(flag.get("name") in DOUBTS for flag in self.flags)


def percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f}"


def read(
    artifact: Artifact,
    folder: Path,
    *,
    additional_data: str = "",
    footnote: str = "",
    leaderboard: bool = True,
) -> Claim:
    """The claim that the evaluation in `folder` supports for `artifact`.

    Args:
      additional_data: 'true' or 'false'; '' follows from the training's config.
      footnote: instead of the one that the config gives. With both given no set need be known.
      leaderboard: whether the rules of RobustBench's leaderboards apply.

    Raises:
      UserError: no result, or one of another model, or of images that nobody here knows.
    """
    result = _read_result(folder)
    if result["model_sha256"] != artifact.spec["sha256"][WEIGHTS]:
        raise UserError(
            f"{folder / 'result.json'} is the result of another model than {artifact.path} (its "
            "sha256 differs); run `score-jax autoattack` on this one."
        )
    lookup(NORMS, "norm", result["norm"])
    config = artifact.spec.get("config") or {}
    extra = Extra(outside=False, footnote="")
    if not (additional_data and footnote):
        extra = _extra(config.get("data", {}).get("generated", ""))
    # Imported weights, and weights that go on from others, may have seen any images.
    if not additional_data and (not config or config.get("init_from")):
        raise UserError(
            f"{artifact.path} does not say which images all its training saw; give "
            "--additional_data=true (outside images) or --additional_data=false."
        )
    eps = float(result["eps"]["value"] if isinstance(result["eps"], dict) else result["eps"])
    dataset = str(result.get("dataset") or artifact.spec.get("dataset"))
    lookup(sources.DATASETS, "dataset", dataset)  # It names a folder of the bundle.
    return Claim(
        result=result,
        folder=folder,
        dataset=dataset,
        norm=result["norm"],
        eps=eps,
        additional_data=additional_data == "true" if additional_data else extra.outside,
        footnote=footnote or extra.footnote,
        incomplete=tuple(_incomplete(result, dataset, eps)),
        unranked=tuple(_unranked(dataset, result["norm"], eps)) if leaderboard else (),
    )


def _extra(generated: str) -> Extra:
    """Of all sets that a config names."""
    extras = [lookup(EXTRAS, "set of images", name) for name in generated_sets(generated)]
    return Extra(
        outside=any(extra.outside for extra in extras),
        footnote=" ".join(extra.footnote for extra in extras),
    )


def _read_result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run `score-jax autoattack`, or give the --name it had."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}; run the attack again.") from None
    absent = [name for name in NEEDED if not isinstance(result, dict) or name not in result]
    if absent:
        raise UserError(
            f"{path} has no {absent[0]!r}: it is not a result of AutoAttack; give --name of one."
        )
    clean, robust = result["clean_accuracy"], result["robust_accuracy"]
    if not 0 <= robust <= clean <= 1:
        raise UserError(
            f"{path} has a robust accuracy of {robust} and a clean one of {clean}: fractions with "
            "robust <= clean are meant; run the attack again."
        )
    return result


def _incomplete(result: Mapping[str, Any], dataset: str, eps: float) -> Iterator[str]:
    official = result.get("official", True) and result["attack"] == "AutoAttack"
    if not official:
        yield f"the attack is {result['attack']}, not the official AutoAttack"
    version = result.get("attack_version")
    names = [attack["name"] for attack in result["attacks"]]
    if version != "standard" or set(names) != set(STANDARD):
        yield (
            f"AutoAttack ran {', '.join(names) or 'nothing'} (version {version}), not the "
            f"standard {', '.join(STANDARD)}"
        )
    size, number = sources.DATASETS[dataset].split_sizes.get("test"), result["num_examples"]
    if number != size:
        whole = f"the {size:,}" if size else "an unknown number of"
        yield f"{number:,} images were attacked, not {whole} test images of {dataset}"
    if result.get("precision", "float32") != "float32":
        yield f"the evaluation ran in {result['precision']}, not float32"
    yield from _dirty_recount(result, eps)


def _dirty_recount(result: Mapping[str, Any], eps: float) -> Iterator[str]:
    recount = result.get("recount")
    if not recount:
        yield "the saved images were not counted again"
        return
    apart = abs(recount["robust_accuracy"] - result["robust_accuracy"]) * result["num_examples"]
    if round(apart) > recount.get("disagreements_by_rounding", 0):
        yield (
            f"the saved images count {percent(recount['robust_accuracy'])}% robust where "
            f"AutoAttack says {percent(result['robust_accuracy'])}%"
        )
    if not recount.get("max_distance", 0) <= eps + BALL_TOLERANCE:
        yield f"a saved image is {recount['max_distance']:.6g} from its clean one, outside the ball"


def _unranked(dataset: str, norm: str, eps: float) -> Iterator[str]:
    ranked = LEADERBOARDS.get((dataset, norm))
    if ranked is None:
        yield f"RobustBench has no leaderboard for {dataset} under {NORMS[norm]}"
    elif not math.isclose(eps, ranked, rel_tol=1e-6):
        yield f"eps is {write_eps(eps)}, RobustBench ranks {write_eps(ranked)}"


def adversarial_images(claim: Claim) -> np.ndarray | None:
    """f32[n, h, w, c] in [0, 1]: what the attack left; None where it was not kept.

    Raises:
      UserError: the file is not the one of the result.
    """
    path = claim.folder / "adversarial.npz"
    if not path.is_file():
        return None
    expected = claim.result.get("adversarial_sha256")
    if expected and sha256(path) != expected:
        raise UserError(
            f"{path} is not the file of its result.json (another sha256); run the attack again."
        )
    with np.load(path, allow_pickle=False) as stored:
        images, robust = stored["images"], stored["robust"]
    if len(images) != claim.result["num_examples"] or not math.isclose(
        float(robust.mean()), claim.result["robust_accuracy"], abs_tol=1e-9
    ):
        raise UserError(f"{path} does not count as result.json says; run the attack again.")
    return images
