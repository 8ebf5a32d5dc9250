"""Run folders whose measurements are known, for the table of runs."""

import json

from score_jax import config as config_module
from score_jax import recipes
from score_jax.analysis import finding
from score_jax.analysis.finding import Finding

TRAIN, TEST = 1310, 359  # Images of digits, 128 of the training split being for validation.
RECIPE = "configs/digits_yang.py"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def make_run(folder, arg, *, checkpoint="last", is_exported=True):
    """The files of a run of the recipe, which nothing was measured of."""
    config = recipes.load(f"{RECIPE}:{arg}", [])
    write(folder / "config.json", config_module.to_dict(config))
    write(folder / "run.json", {})
    if is_exported:
        spec = {"sha256": {"model.safetensors": sha(folder)}, "checkpoint": checkpoint}
        write(folder / "export" / "model.json", spec)
    return folder


def sha(folder):
    return (folder.name.encode().hex() * 64)[:64]


def add_evaluation(folder, split, clean, attacked, name="", **changes):
    attacks = [{"name": "pgd10-cross_entropy", "accuracy": attacked}]
    attacks.append({"name": "pgd10-margin", "accuracy": attacked / 2})
    facts = dict(
        attack="pgd10", official=False, restarts=1, norm="linf", dataset="digits", split=split,
        num_examples=TRAIN if split == "train" else TEST, eps={"value": 0.2, "written": "0.2"},
        step_size=0.04, clean_accuracy=clean, robust_accuracy=attacked / 2, attacks=attacks,
        model_sha256=sha(folder), seed=0, data_sha256=f"digits {split}",
    )  # fmt: skip
    write(folder / "eval" / (name or f"pgd10-{split}") / "result.json", facts | changes)


def lipschitz(folder, official, ascent, **changes):
    told = {
        split: dict(num_examples=count, official=official / factor, ascent=ascent / factor)
        for split, count, factor in (("train", TRAIN, 2), ("test", TEST, 1))
    }
    facts = dict(
        eps=0.2, model_sha256=sha(folder), splits=told, official_steps=10, steps=20, restarts=3,
        seed=0,
    )  # fmt: skip
    facts |= changes
    return Finding(name="lipschitz", title="Lipschitz", summary=["."], facts=facts)


def measured(folder, arg, values):
    """A run that everything was measured of: train, test, adv train, adv test, Lipschitz."""
    make_run(folder, arg)
    train, test, adv_train, adv_test, slope = values
    add_evaluation(folder, "train", train, adv_train)
    add_evaluation(folder, "test", test, adv_test)
    finding.write(folder / "analysis", "lipschitz", lipschitz(folder, slope, 9 * slope), 1.0)
    return folder


def four(whole):
    """Four runs like those of the paper, below a folder."""
    measured(whole / "method=natural", "method=natural", (1, 0.9, 0, 0, 12))
    measured(whole / "method=at", "method=at", (1, 0.9, 0.9, 0.6, 3))
    measured(whole / "method=trades", "method=trades", (0.99, 0.92, 0.8, 0.7, 1))
    dropping = (0.98, 0.93, 0.76, 0.72, 0.5)
    measured(whole / "method=trades,dropout", "method=trades,dropout", dropping)
