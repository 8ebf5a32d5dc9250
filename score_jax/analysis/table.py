"""The rows of the table of Yang et al. (2020) for any set of runs, all measured alike.

Accuracy on training and test images, clean and under PGD of 10 steps of eps / 5 (cross-entropy, one
random start), their gaps, and the empirical local Lipschitz constant.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_jax import report_run, report_table
from score_jax.analysis import gaps, lipschitz
from score_jax.data import sources, trained
from score_jax.report_run import Run
from score_jax.types import UserError

SPLITS = ("train", "test")
STEPS = gaps.NUM_STEPS
STEPS_PER_EPS, _ = gaps.PUBLISHED_STEPS[STEPS]
PUBLISHED = "yang"  # The table in configs/published.py that has these columns.


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How each run is measured.

    Attributes:
      num_examples: the first so many images of each split, or all where there are fewer; 0: all.
      eps: radius in pixel units; None: each run's own.
      data_dir: folder of datasets.
      seed: of attack and Lipschitz search.
      batch_size: images in one forward pass, over all devices.
    """

    num_examples: int = 0
    eps: float | None = None
    data_dir: str = ""
    seed: int = 0
    batch_size: int = 500

    def radius(self, run: Run) -> float:
        """At which a run is measured."""
        return float(run.config["eps"] if self.eps is None else self.eps)

    def count(self, run: Run, split: str) -> int:
        """How many images of a split a run is measured on: of training, of those it trained on.

        Raises:
          UserError: the dataset is unknown here, or has no such split.
        """
        data = run.config["data"]
        size = sources.spec(data["name"], self.data_dir).split_sizes.get(split)
        if size is None:
            raise UserError(
                f"{run.workdir.path}: {data['name']} has no {split} images that could be counted; "
                "leave this run out"
            )
        size = trained.count(data, size) if split == "train" else size
        return min(self.num_examples or size, size)


@dataclass(frozen=True)
class Row:
    """What was measured of one run.

    Attributes:
      values: by column: accuracies in percent, Lipschitz constants as they are; None where nothing
        was measured. Besides the published columns 'adv train', 'train Lipschitz' and 'ascent', the
        constant on test images that a search finds.
      counts: images of each split.
      data_sha256: of each split that was evaluated.
    """

    run: Run
    values: Mapping[str, float | None]
    counts: Mapping[str, int]
    data_sha256: Mapping[str, str | None]


def columns() -> tuple[str, ...]:
    """Of the published table."""
    return report_table.tables()[PUBLISHED].columns


def read(folders: Iterable[str | Path]) -> list[Run]:
    """The runs at and below the folders, each once, in order.

    Raises:
      UserError: none in one of them, or a run that cannot be read.
    """
    found: list[Path] = []
    for folder in folders:
        below = list(report_table.run_folders(folder))
        if not below:
            raise UserError(f"--runs={folder}: no run there or below it; give folders of runs")
        found += below
    return report_run.read_all(found)


def row(run: Run, protocol: Protocol) -> Row:
    """What is measured of a run by this protocol."""
    counts = {split: protocol.count(run, split) for split in SPLITS}
    values: dict[str, float | None] = {}
    data_sha256 = {}
    for split in SPLITS:
        result = evaluation(run, split, protocol)
        attacked = report_table.cross_entropy_accuracy(result)
        values[split] = _percent(result.get("clean_accuracy"))
        values[f"adv {split}"] = _percent(attacked)
        data_sha256[split] = result.get("data_sha256")
    values["gap"] = _difference(values["train"], values["test"])
    values["adv gap"] = _difference(values["adv train"], values["adv test"])
    return Row(run, values | slopes(run, protocol), counts, data_sha256)


def evaluation(run: Run, split: str, protocol: Protocol) -> Mapping[str, Any]:
    """The result of the table's attack on so many images of a split; {} without.

    Of training images: of those that the run was trained on, by the labels it was given.
    """
    eps, count = protocol.radius(run), protocol.count(run, split)
    results = run.train_results if split == "train" else run.results
    trained_on = trained.facts(run.config["data"]) if split == "train" else {}
    for result in results.values():
        if (
            result.get("attack") == f"pgd{STEPS}"
            and result.get("restarts") == 1
            and result.get("norm") == run.config["norm"]
            and result.get("dataset") == run.config["data"]["name"]
            and result.get("seed") == protocol.seed
            and result.get("trained_on", {}) == trained_on
            and result["num_examples"] == count
            and abs(result["eps"]["value"] - eps) < 1e-9
            and abs((result.get("step_size") or 0) - eps / STEPS_PER_EPS) < 1e-9
        ):
            return result
    return {}


def slopes(run: Run, protocol: Protocol) -> dict[str, float]:
    """'test Lipschitz', 'train Lipschitz' and 'ascent' of the run's `analyze lipschitz`.

    {} where there is none of this export, of this radius and seed, by the usual search, and of so
    many images of each split; those of training may be absent.
    """
    usual = (facts for facts in report_table.lipschitz_findings(run) if _fits(facts, run, protocol))
    told = next(usual, {}).get("splits")
    if not told:
        return {}
    found = {f"{split} Lipschitz": told[split]["official"] for split in SPLITS if split in told}
    return found | {"ascent": told["test"]["ascent"]}


def _fits(facts: Mapping[str, Any], run: Run, protocol: Protocol) -> bool:
    """Whether constants were searched as the table has them."""
    told = facts.get("splits", {})
    usual = {
        "official_steps": lipschitz.NUM_STEPS, "steps": lipschitz.SEARCH_STEPS,
        "restarts": lipschitz.RESTARTS, "seed": protocol.seed,
    }  # fmt: skip
    return (
        "test" in told
        and all(told[split]["num_examples"] == protocol.count(run, split) for split in told)
        and all(facts.get(name) == value for name, value in usual.items())
        and abs(facts["eps"] - protocol.radius(run)) < 1e-9
    )


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _difference(first: float | None, second: float | None) -> float | None:
    return None if None in (first, second) else first - second
