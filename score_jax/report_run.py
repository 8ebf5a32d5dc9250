"""What a run folder tells: its metrics, its exported model, and what evaluations found of it."""

import dataclasses
import datetime
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_jax import config as config_module
from score_jax.report_examples import Examples, examples_of
from score_jax.types import UserError
from score_jax.workdir import Workdir, find_workdir

NORMS = {"linf": "L∞", "l2": "L2"}
TIME_PARTS = ("attack", "update", "input", "validation", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder, read.

    Attributes:
      name: how it is called in tables and plots.
      config: of the run, in `config.to_dict` form.
      metrics: the lines of metrics.jsonl.
      model: export/model.json, or {}.
      results: evaluation name -> result.json, of the exported model on test images only.
      train_results: likewise on training images.
      outdated: names of evaluations of another export.
      official, quick: the names of AutoAttack's and PGD's result at the run's own eps; '' without.
    """

    workdir: Workdir
    name: str
    config: dict[str, Any]
    record: dict[str, Any]
    metrics: tuple[dict[str, float], ...]
    model: dict[str, Any]
    results: dict[str, dict[str, Any]]
    train_results: dict[str, dict[str, Any]]
    outdated: tuple[str, ...]
    official: str
    quick: str
    examples: Examples | None

    @property
    def eps(self) -> str:
        return config_module.write_eps(self.config["eps"])

    @property
    def norm(self) -> str:
        return NORMS.get(self.config["norm"], self.config["norm"])

    @property
    def model_sha256(self) -> str | None:
        """Of the exported weights; None without."""
        return _model_sha256(self.model)

    @property
    def official_result(self) -> dict[str, Any]:
        return self.results.get(self.official, {})

    @property
    def quick_result(self) -> dict[str, Any]:
        return self.results.get(self.quick, {})

    @property
    def clean_accuracy(self) -> float | None:
        """On the test images, by the evaluation with the most of them."""
        found = sorted(self.results.values(), key=lambda result: result["num_examples"])
        return found[-1]["clean_accuracy"] if found else None

    def series(self, metric: str) -> tuple[list[float], list[float]]:
        """(epochs, values) of a metric; absent lines are left out."""
        found = [(line["epoch"], line[metric]) for line in self.metrics if metric in line]
        return [epoch for epoch, _ in found], [value for _, value in found]

    @property
    def judge(self) -> str:
        """'val/pgd40_accuracy', the metric of the selection attack; '' without."""
        names = {name for line in self.metrics for name in line}
        judges = {name for name in names if re.fullmatch(r"val/a?pgd.*_accuracy", name)}
        return max(judges, default="")

    @property
    def training_seconds(self) -> float | None:
        """Wall-clock time of all starts that ended."""
        total, known = 0.0, False
        for start in self.record.get("history", ()):
            try:
                begun, ended = (
                    datetime.datetime.fromisoformat(start[field]) for field in ("start", "stop")
                )
            except (KeyError, ValueError, TypeError):
                continue
            total, known = total + (ended - begun).total_seconds(), True
        return total if known else None

    def time_shares(self) -> dict[str, float]:
        """Where the training time went, as fractions; {} where it was not measured."""
        totals, weight = dict.fromkeys(TIME_PARTS, 0.0), 0.0
        before = 0.0
        for line in self.metrics:
            if not line.get("perf/images_per_second"):
                continue
            seconds = (line["step"] - before) / line["perf/images_per_second"]
            before, weight = line["step"], weight + seconds
            for part in TIME_PARTS:
                totals[part] += seconds * line.get(f"perf/{part}_fraction", 0.0)
        return {part: total / weight for part, total in totals.items() if total} if weight else {}


def read(path: str | os.PathLike[str], data_dir: str = "") -> Run:
    """Reads a run folder; parts that are not there are empty.

    Raises:
      UserError: not the folder of a run, or a file in it that cannot be read.
    """
    workdir = find_workdir(path)
    config = config_module.to_dict(workdir.read_config())
    model = read_json(workdir.export / "model.json")
    sha256 = _model_sha256(model)
    results, train_results, outdated = {}, {}, []
    for file in sorted(workdir.path.glob("eval/*/result.json")):
        result = read_json(file)
        if not {"clean_accuracy", "robust_accuracy", "num_examples", "eps"} <= result.keys():
            raise UserError(f"{file} is not the result of an evaluation; move it away")
        if sha256 and result.get("model_sha256") != sha256:
            outdated.append(file.parent.name)
        else:
            kept = train_results if result.get("split") == "train" else results
            kept[file.parent.name] = result
    official = _choose(results, config, is_official)
    quick = _choose(results, config, _is_pgd)
    return Run(
        workdir=workdir,
        name=workdir.path.name,
        config=config,
        record=read_json(workdir.run),
        metrics=tuple(_read_metrics(workdir.metrics)),
        model=model,
        results=results,
        train_results=train_results,
        outdated=tuple(outdated),
        official=official,
        quick=quick,
        examples=examples_of(workdir, config, results, quick, official, data_dir),
    )


def _model_sha256(model: Mapping[str, Any]) -> str | None:
    return (model.get("sha256") or {}).get("model.safetensors")


def read_all(paths: Sequence[str | os.PathLike[str]], data_dir: str = "") -> list[Run]:
    """Several run folders, each once, with names that tell them apart."""
    folders = list(dict.fromkeys(find_workdir(path).path.resolve() for path in paths))
    runs = [read(folder, data_dir) for folder in folders]
    for depth in (2, 3):
        names = [run.name for run in runs]
        runs = [
            dataclasses.replace(run, name="/".join(run.workdir.path.parts[-depth:]))
            if names.count(run.name) > 1
            else run
            for run in runs
        ]
    return runs


def is_official(result: Mapping[str, Any]) -> bool:
    """Whether a result is AutoAttack's in its standard form, with none of its attacks left out."""
    return result.get("attack") == "AutoAttack" and result.get("attack_version") == "standard"


def _is_pgd(result: Mapping[str, Any]) -> bool:
    is_pgd = re.fullmatch(r"pgd\d+", str(result.get("attack"))) is not None
    return result.get("official") is False and is_pgd


def _choose(results: Mapping[str, Any], config: Mapping[str, Any], accept: Any) -> str:
    """The result at the run's own radius on the most images."""
    fitting = [
        (result["num_examples"], name)
        for name, result in results.items()
        if accept(result) and is_at_own_radius(result, config)
    ]
    return max(fitting, default=(0, ""))[1]


def is_at_own_radius(result: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a result is for the norm and radius that the run is trained for."""
    same_norm = result.get("norm") == config["norm"]
    return same_norm and abs(result["eps"]["value"] - config["eps"]) < 1e-9


def read_json(path: Path) -> dict[str, Any]:
    """The facts in a file; {} where there is none.

    Raises:
      UserError: it is not readable.
    """
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON ({error}); move it away") from None
    return data if isinstance(data, dict) else {}


def _read_metrics(path: Path) -> list[dict[str, float]]:
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # The line that a crash cut short.
        # null stands for what was not finite.
        numbers = {
            name: value
            for name, value in line.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if {"step", "epoch"} <= numbers.keys():
            lines.append(numbers)
    return lines
