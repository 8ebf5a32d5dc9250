"""κ, the weights that follow from it, margins, and what they are measured on."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import artifact, cli, export_series
from score_jax.analysis import (
    geometry,
    geometry_kappa,
    geometry_margins,
    geometry_weights,
    subject,
    subject_choice,
)
from score_jax.artifact import Artifact
from score_jax.attacks import PGD
from score_jax.data import sources
from score_jax.objectives.gairat import Gairat
from score_jax.threat_models import Linf
from tests import toy_mlp

NUM_TRAIN, NUM_TEST, HELD_OUT = 23, 11, 3


def linear(images):
    """The logits ±(x₀ + x₁ - x₂) of reference/methods.md, golden case 11."""
    first, second, third = images.reshape(len(images), 3).T
    score = first + second - third
    return jnp.stack([score, -score], axis=-1)


def at_score(*scores):
    """Images f32[b, 1, 1, 3] whose score is s."""
    half = jnp.asarray(scores, jnp.float32) / 2
    return jnp.stack([0.4 + half, 0.4 + half, jnp.full_like(half, 0.8)], -1).reshape(-1, 1, 1, 3)


def test_kappa_is_golden():
    images = at_score(-0.01, 0.005, 0.03, 0.05, 0.07, 0.0929, 0.0931, 0.5)
    attack = PGD(threat=Linf(eps=0.031), step_size=0.007, num_steps=10, start="zero")
    keys = jax.random.split(jax.random.key(0), len(images))
    count = jax.jit(functools.partial(geometry.robust_steps, linear, attack=attack))
    kappa, left = count(keys, images, jnp.zeros(len(images), jnp.int32))
    assert kappa.tolist() == [0, 1, 2, 3, 4, 5, 10, 10]
    # x^K lies at the corner, which takes 3 · 0.031 off the score.
    np.testing.assert_allclose(
        left[4:7], 2 * (jnp.array([0.07, 0.0929, 0.0931]) - 0.093), atol=1e-5
    )


def test_weights_are_golden():
    kappa = np.array([0, 3, 5, 10])
    found = geometry_weights.by_kappa(kappa, 10, Gairat(), batch_size=4, seed=0)
    expected = [1.99965845, 1.76188417, 0.23844509, 0.00001229]
    assert [found[k]["normalised"] for k in kappa] == pytest.approx(expected, rel=1e-4)
    raw = [0.99966465, 0.99752738, 0.98201379, 0.88079708, 0.5, 0.11920292, 0.01798621]
    assert [entry["raw"] for entry in found[:7]] == pytest.approx(raw, rel=1e-5)
    assert sum(entry["weight_share"] for entry in found) == pytest.approx(1)
    assert found[1]["normalised"] is None and found[1]["weight_share"] == 0


def test_weights_spread_over_batches():
    kappa = np.repeat([0, 10], [10, 90])
    found = geometry_weights.by_kappa(kappa, 10, Gairat(), batch_size=20, seed=0)
    # One or a few of κ = 0 share a whole batch's weight: 20 over their number.
    assert found[0]["low"] < 10 <= found[0]["high"] <= 20
    assert found[0]["weight_share"] > 0.85 and found[0]["share"] == 0.1


@pytest.mark.parametrize(
    ("norm", "slope"), [("linf", 3.0), pytest.param("l2", 3**0.5, marks=pytest.mark.slow)]
)
def test_margins_of_a_linear_model_are_exact(norm, slope):
    scores = np.array([-0.02, 0.02, 0.1, 0.3], np.float32)
    keys, labels = jax.random.split(jax.random.key(0), 4), jnp.zeros(4, jnp.int32)
    measure = jax.jit(functools.partial(geometry.margins, linear, norm=norm, eps=0.05))
    clean, attacked, distance = measure(keys, at_score(*scores), labels)
    np.testing.assert_allclose(clean, 2 * scores, atol=1e-6)
    np.testing.assert_allclose(attacked, 2 * (scores - slope * 0.05), atol=0.01)
    assert (np.asarray(attacked) >= 2 * (scores - slope * 0.05) - 1e-5).all()
    exact = np.maximum(scores, 0) / slope
    np.testing.assert_allclose(distance, exact, rtol=0.01, atol=1e-6)
    assert (np.asarray(distance) >= exact - 1e-6).all()


def test_distance_by_kappa_with_nothing_found():
    distance = np.array([0.1, 0.2, np.inf, np.inf], np.float32)
    found = geometry_margins.by_kappa(np.array([0, 1, 2, 2]), distance, 2)
    assert [group["quartiles"][1] for group in found["groups"]] == pytest.approx([0.1, 0.2, None])
    assert found["spearman"] == pytest.approx(1) and found["spearman_of_fallen"] == pytest.approx(1)
    assert geometry_margins.by_kappa(np.array([2, 2]), distance[:2], 2)["spearman"] is None


@pytest.fixture
def data(monkeypatch):
    random = np.random.default_rng(0)
    for name, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        split = sources.Images(
            images=random.integers(0, 256, (count, *toy_mlp.SHAPE)).astype(np.uint8),
            labels=random.integers(0, 4, count).astype(np.int32),
            fingerprint=name, name="toy", split=name, path="",
        )  # fmt: skip
        monkeypatch.setattr(sources, f"{name}_split", lambda dataset, data_dir, split=split: split)


def model(sha256="a", scale=1.0, **spec):
    attack = {"num_steps": 4, "step_size": 0.02, "eps": 0.05}
    return Artifact(
        classifier=toy_mlp.classifier(),
        params=jax.tree.map(lambda leaf: scale * leaf, toy_mlp.params(jnp.float32)),
        batch_stats={},
        spec={
            "dataset": "toy",
            "norm": "linf",
            "eps": 0.1,
            "sha256": {"model.safetensors": sha256},
            "model": {"image_shape": list(toy_mlp.SHAPE)},
            "config": {"attack": attack, "data": {"validation_size": HELD_OUT, "batch_size": 8}},
            **spec,
        },
        path=None,
    )


@pytest.fixture
def analyze(monkeypatch, tmp_path, capsys, data):
    """Runs `analyze geometry` on the toy model: (exit code, standard error, findings)."""
    monkeypatch.setattr(artifact, "load", lambda path: model())

    def run(*flags):
        out = tmp_path / "out"
        code = cli.main(["analyze", "geometry", "--artifact=toy", f"--out={out}", *flags])
        found = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
        return code, capsys.readouterr().err, found

    return run


@pytest.fixture
def create(monkeypatch, data):
    monkeypatch.setattr(artifact, "load", lambda path: model())

    def run(**fields):
        from score_jax.analysis.jobs import ANALYZE
        from score_jax.command_line import parse

        flags = {"artifact": "toy"} | fields
        words = ["geometry", *(f"--{flag}={value}" for flag, value in flags.items())]
        return subject.create(parse("analyze", ANALYZE, words))

    return run


@pytest.mark.slow
def test_every_part_is_measured_and_written(analyze):
    pytest.importorskip("matplotlib")
    code, err, found = analyze("--show=kappa,weights,margins")
    assert code == 0, err
    kappa, weights, margins = (
        found[f"geometry_{part}"] for part in ("kappa", "weights", "margins")
    )
    assert kappa["split"] == "train" and kappa["num_examples"] == NUM_TRAIN - HELD_OUT
    assert kappa["num_steps"] == 4 and kappa["step_size"] == pytest.approx(0.04)  # eps is twice.
    (own,) = kappa["checkpoints"]
    assert own["is_exported"] and sum(own["shares"]) == pytest.approx(1)
    assert sum(entry["num_examples"] for entry in kappa["classes"]) == NUM_TRAIN - HELD_OUT
    assert [entry["share"] for entry in weights["kappa"]] == own["shares"]
    assert not weights["weights_are_of_the_run"] and "not trained with" in weights["summary"][-1]
    assert weights["most"][0]["kappa"] <= weights["least"][0]["kappa"]
    for split, count in (("train", NUM_TRAIN - HELD_OUT), ("test", NUM_TEST)):
        row = margins["margins"][split]
        assert row["num_examples"] == count
        assert row["share_beyond_eps"] <= row["pgd_accuracy"] <= row["clean_accuracy"]
    assert set(kappa["pictures"]) == {"over_training", "classes"}
    assert set(weights["pictures"]) == {"shares", "sheet", "classes"}
    assert set(margins["pictures"]) == {"logits", "distances", "kappa"}


def test_an_unknown_part_is_refused(analyze):
    code, err, found = analyze("--show=kapa")
    assert code == 2 and "did you mean 'kappa'?" in err and not found


def test_kappa_over_checkpoints(monkeypatch, create, tmp_path):
    series = [model("b", 0.2, step=10, checkpoint="step 10"), model("a", 1.0, step=20)]
    series[1].spec["checkpoint"] = "step 20 (best, last)"
    monkeypatch.setattr(export_series, "artifacts", lambda *arguments: iter(series))
    trained = create().on("train")
    trained = dataclasses.replace(trained, workdir=tmp_path)
    counted = geometry_kappa.over_training(trained, {"step": 20, "epoch": 4.0})
    assert [(one.label, one.is_exported) for one in counted] == [
        ("epoch 2", False), ("epoch 4", True),
    ]  # fmt: skip
    np.testing.assert_array_equal(counted[1].kappa, geometry.kappa_of(trained)[0])
    assert (counted[0].kappa != counted[1].kappa).any()


def test_the_batch_size_changes_nothing(create):
    def compute(logits_fn, keys, images, labels):
        drawn = jax.vmap(lambda key: jax.random.uniform(key, ()))(keys)
        return {"drawn": drawn, "labels": labels, "logits": logits_fn(images)}

    def measured(**fields):
        examined = create(**fields).on("train")
        found = subject.per_example(examined, compute, "drawn")
        np.testing.assert_array_equal(found["labels"], examined.labels)
        expected = toy_mlp.apply(model().params, examined.images.astype(np.float32) / 255)
        np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
        return found["drawn"]

    np.testing.assert_array_equal(measured(), measured(batch_size=7))
    assert (measured(seed=1) != measured()).all()


def test_which_images_and_which_attack(create):
    examined = create(num_examples=5, eps="8/255", steps=10)
    assert len(examined.images) == 5 and examined.steps == 10
    assert examined.eps == pytest.approx(8 / 255)
    assert examined.step_size == pytest.approx(2.5 * 8 / 255 / 10)
    train = examined.on("train")
    assert train.indices.tolist() == [3, 4, 5, 6, 7] and train is examined.on("train")
    assert train.on("train") is train
    np.testing.assert_array_equal(train.images, sources.train_split("toy", "").images[3:8])
    assert len(create(num_examples=10_000).images) == NUM_TEST


def test_chosen_images(create):
    assert create(images="7,2").chosen == (7, 2)
    first = create()
    assert sorted(first.labels[list(first.chosen)]) == sorted(set(first.labels.tolist()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": "11"}, "--images=11 is not among the first 11 test images"),
        ({"steps": "0"}, "--steps=0 is no attack"),
        ({"eps": "much"}, "--eps=much is not a number"),
    ],
)
def test_bad_input_is_refused(create, fields, message):
    with pytest.raises(Exception, match=message) as refused:
        create(**fields)
    assert type(refused.value).__name__ in ("UsageError", "UserError")


def test_a_run_of_other_data_cannot_stand_beside(create, monkeypatch):
    def load(path):
        return model() if str(path) == "toy" else model(dataset="cifar10")

    monkeypatch.setattr(artifact, "load", load)
    with pytest.raises(subject.UsageError, match="its dataset is cifar10, that of toy is toy"):
        create(beside="runs/other")


def test_runs_of_one_name_are_told_apart(create):
    examined = create(beside="seed1/score,seed2/score,seed3/toy,seed4/score")
    assert examined.name == "toy"
    names = [run.name for run in examined.beside]
    assert names == ["score", "score (2)", "toy (2)", "score (3)"]
    assert subject_choice.told_apart(["a", "a (2)", "a"]) == ["a", "a (2)", "a (3)"]
