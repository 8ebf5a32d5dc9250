"""`score-jax analyze gaps`, from a run's checkpoints to numbers, words and pictures."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import attacks, cli, export_series, report_analyses, report_run
from score_jax import config as config_module
from score_jax.analysis import gaps
from score_jax.artifact import Artifact
from score_jax.data import mixing, relabelling, sampling, sources
from score_jax.types import UserError
from tests import toy_mlp

EPS, CLASSES = 0.1, toy_mlp.NUM_CLASSES
SIZES = {"train": 90, "test": 50}


def split_of(name):
    """Images whose labels the toy network mostly gets right."""
    random = np.random.default_rng(len(name))
    images = random.integers(0, 256, (SIZES[name], *toy_mlp.SHAPE)).astype(np.uint8)
    logits = toy_mlp.apply(toy_mlp.params(jnp.float32), jnp.asarray(images, jnp.float32) / 255)
    labels = np.array(logits.argmax(-1), np.int32)
    labels[::7] = (labels[::7] + 1) % CLASSES
    return sources.Images(
        images=images, labels=labels, fingerprint=name, name="toy", split=name, path=""
    )


def model(step, scale):
    """The toy network with another last layer."""
    params = toy_mlp.params(jnp.float32)
    noise = np.random.default_rng(step).normal(size=params["logits"]["kernel"].shape)
    params["logits"]["kernel"] += scale * noise.astype(np.float32)
    spec = {
        "dataset": "toy", "norm": "linf", "eps": EPS, "step": step, "checkpoint": f"step {step}",
        "config": {"data": {"validation_size": 5}}, "sha256": {"model.safetensors": f"sha{step}"},
        "model": {"num_classes": CLASSES, "image_shape": list(toy_mlp.SHAPE)},
    }  # fmt: skip
    return Artifact(
        classifier=toy_mlp.classifier(), params=params, batch_stats={}, spec=spec, path=Path()
    )


MODELS = {step: model(step, scale) for step, scale in ((10, 1.0), (20, 0.0), (30, 0.5))}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run folder, whose checkpoints and datasets are those of this file."""
    splits = {name: split_of(name) for name in SIZES}
    for name in SIZES:
        monkeypatch.setattr(sources, f"{name}_split", lambda *_, name=name: splits[name])
    asked = []

    def artifacts(folder, words, weights):
        asked.append((words, weights))
        return iter([MODELS[int(step)] for step in (10, 20, 30)[: 1 if words == "10" else 3]])

    monkeypatch.setattr(export_series, "artifacts", artifacts)
    config = config_module.default()
    with config.unlocked():
        config.eps, config.data.name, config.steps_per_epoch = EPS, "toy", 10
        config.data.validation_size = 5
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(config_module.to_json(config))
    (folder / "run.json").write_text("{}")
    return folder, splits, asked


def analyze(folder, *arguments):
    assert cli.main(["analyze", "gaps", f"--workdir={folder}", *arguments]) == 0
    return [
        json.loads((folder / "analysis" / f"{name}.json").read_text())
        for name in ("gaps", "gaps_classes")
    ]


def attacked(params, split, indices, steps=10, step=EPS / 5):
    """PGD as it is written in papers: bool[n], right at the last iterate."""
    images = jnp.asarray(split.images[indices], jnp.float32) / 255
    labels = jnp.asarray(split.labels[indices])
    keys = [jax.random.fold_in(jax.random.key(0), int(index)) for index in indices]
    noise = jnp.stack(
        [jax.random.uniform(key, toy_mlp.SHAPE, jnp.float32, -1.0, 1.0) for key in keys]
    )

    @jax.jit
    @jax.grad
    def gradient(x):
        logits = toy_mlp.apply(params, x)
        picked = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(logits, axis=1) - picked).sum()

    low, high = jnp.maximum(images - EPS, 0.0), jnp.minimum(images + EPS, 1.0)
    moved = jnp.clip(images + EPS * noise, low, high)
    for _ in range(steps):
        moved = jnp.clip(moved + step * jnp.sign(gradient(moved)), low, high)
    return np.asarray(toy_mlp.apply(params, moved).argmax(-1) == labels)


@pytest.mark.slow
def test_accuracies_gaps_and_classes(run):
    folder, splits, asked = run
    whole, classes = analyze(folder, "--batch_size=32")
    assert asked == [("all", "ema")]
    assert whole["num_examples"] == {"train": 85, "test": 50}  # Five are held out.
    for row, by_class, step in zip(
        whole["checkpoints"], classes["checkpoints"], MODELS, strict=True
    ):
        assert (row["step"], row["epoch"], row["model_sha256"]) == (step, step / 10, f"sha{step}")
        params, expected = MODELS[step].params, {}
        for name, split in splits.items():
            indices = np.arange(5 if name == "train" else 0, len(split))
            clean = toy_mlp.apply(params, jnp.asarray(split.images[indices], jnp.float32) / 255)
            right = {
                "clean": np.asarray(clean.argmax(-1)) == split.labels[indices],
                "adversarial": attacked(params, split, indices),
            }
            for kind, values in right.items():
                assert row[name][kind] == pytest.approx(values.mean())
                for label, found in enumerate(by_class["by_class"][name][kind]):
                    of_class = values[split.labels[indices] == label]
                    assert found == (pytest.approx(of_class.mean()) if len(of_class) else None)
            expected[name] = {kind: values.mean() for kind, values in right.items()}
        assert row["gap"] == pytest.approx(expected["train"]["clean"] - expected["test"]["clean"])
        adv = [expected[name]["adversarial"] for name in ("train", "test")]
        assert row["adv_gap"] == pytest.approx(adv[0] - adv[1])
        error = math.sqrt(adv[0] * (1 - adv[0]) / 85 + adv[1] * (1 - adv[1]) / 50)
        assert row["adv_gap_error"] == pytest.approx(error)
    trend = whole["robust_overfitting"]["checkpoints"]
    robust = {row["step"]: row["test"]["adversarial"] for row in whole["checkpoints"]}
    best = max(robust, key=lambda step: (robust[step], step))
    assert best != 30 and trend["fall"] == pytest.approx(robust[best] - robust[30])
    assert trend["best_step"] == best and f"best at step {best} " in " ".join(whole["summary"])
    assert set(whole["pictures"]) == {"epochs"} and set(classes["pictures"]) == {"accuracy"}
    kept = np.load(folder / "analysis" / "gaps.npz")
    assert kept["test_adversarial"].shape == (3, 50)
    assert kept["train_clean"].mean(1) == pytest.approx(
        [row["train"]["clean"] for row in whole["checkpoints"]]
    )
    sections, outdated = report_analyses.sections(report_run.read(folder))
    titles = [section.title for section in sections]
    assert titles == ["Gaps between training and test images", "Gaps of each class"]
    assert not outdated and all(section.pictures for section in sections)


def test_one_checkpoint_says_nothing_of_overfitting(run):
    folder, _, asked = run
    whole, _ = analyze(folder, "--checkpoints=10", "--weights=live", "--num_examples=20")
    assert asked == [("10", "live")] and whole["num_examples"] == {"train": 20, "test": 20}
    assert "keeps more with --config.checkpoint.keep_every_epochs" in " ".join(whole["summary"])
    assert not whole["pictures"]


def test_weights_are_those_of_the_export(run):
    folder, _, asked = run
    (folder / "export").mkdir()
    (folder / "export" / "model.json").write_text(json.dumps({"weights": "live"}))
    for flag in ("--steps=10", "--weights=ema"):  # More images than there are: it ends soon.
        assert cli.main(["analyze", "gaps", f"--workdir={folder}", flag, "--num_examples=99"]) == 2
    assert [weights for _, weights in asked] == ["live", "ema"]


@pytest.mark.parametrize(
    ("steps", "size", "words"),
    [
        (10, 0.02, "Yang et al. 2020"),
        (20, 0.025, "Zhang et al. 2021"),
        (5, 0.05, "2.5 * eps / steps"),
    ],
)
def test_steps_of_the_attack_are_those_of_the_papers(steps, size, words):
    found, rule = gaps.step_size(0.1, steps)
    assert found == pytest.approx(size) and words in rule


def test_an_image_is_right_under_attack_by_the_last_iterate_alone():
    """A label that only an attacked image has counts, as in the published columns."""
    attack = attacks.create(norm="linf", eps=EPS, step_size=0.02, num_steps=10)

    def logits_fn(images):
        moved = (images - 0.5).reshape(len(images), -1).mean(axis=1)
        # Right for label 0 where the mean went up, and there the attack drives it.
        return jnp.stack([jnp.where(moved > 0.04, 5.0, -5.0) - moved, 0.0 * moved], axis=1)

    images = jnp.full((1, 2, 2, 1), 0.5)
    found = gaps.compute_right(attack)(
        logits_fn, jax.random.split(jax.random.key(0), 1), images, jnp.zeros(1, jnp.int32)
    )
    assert (bool(found["clean"][0]), bool(found["adversarial"][0])) == (False, True)


def test_classes_without_images_have_no_accuracy():
    found = gaps.class_means(np.array([True, False, True]), np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(found, [0.5, np.nan, 1.0, np.nan])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=0"], "--steps=0 is no attack; give 1 or more"),
        (["--eps=0"], "--eps=0 leaves nothing to attack"),
        (["--eps=eight"], "--eps=eight is not a number such as 8/255"),
        (["--step_size=0"], "--step_size=0 is no step; give one such as 2/255"),
        (["--num_examples=51"], "--num_examples=51: toy has 50 test images; give at most so many"),
        (["--norm=l2"], "--norm is not for `analyze gaps`"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(run, capsys, arguments, message):
    folder, *_ = run
    assert cli.main(["analyze", "gaps", f"--workdir={folder}", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert not (folder / "analysis").exists()


def test_training_labels_are_those_that_the_run_was_given(run, monkeypatch):
    """Also where only some images of each class are trained on, and the first of them measured."""
    folder, splits, _ = run
    data = {"validation_size": 5, "take": 32, "label_noise": 0.25, "label_noise_seed": 3}
    seen = {}
    monkeypatch.setitem(MODELS[10].spec, "config", {"data": data})

    def measure(series, train, test, attack, steps_per_epoch):
        seen.update(train=train, test=test)
        raise UserError("enough")

    monkeypatch.setattr(gaps, "measure", measure)
    arguments = [f"--workdir={folder}", "--num_examples=30"]
    assert cli.main(["analyze", "gaps", *arguments]) == 2
    chosen = mixing.balanced(splits["train"].labels, 5, 32)
    labelled = sampling.LabelledImages(train_size=90, validation_size=5, subset=chosen)
    config = config_module.default().unlock()
    config.data.update(data)
    (given,) = relabelling.relabelled(config, (splits["train"],), labelled, CLASSES)
    np.testing.assert_array_equal(seen["train"].indices, chosen[:30])
    np.testing.assert_array_equal(seen["train"].labels, given.labels[chosen[:30]])
    assert (seen["train"].labels != splits["train"].labels[chosen[:30]]).any()
    np.testing.assert_array_equal(seen["test"].labels, splits["test"].labels[:30])
