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
)
from score_jax.attacks import PGD
from score_jax.objectives.gairat import Gairat
from score_jax.threat_models import Linf
from tests import geometry_runs, toy_mlp
from tests.geometry_runs import HELD_OUT, NUM_TEST, NUM_TRAIN, call, model


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
def analyze(monkeypatch, tmp_path, capsys):
    """Runs `analyze geometry` on the toy model: (exit code, standard error, findings)."""
    geometry_runs.give_data(monkeypatch)
    monkeypatch.setattr(artifact, "load", lambda path: model())

    def run(*flags):
        out = tmp_path / "out"
        code = cli.main(["analyze", "geometry", "--artifact=toy", f"--out={out}", *flags])
        found = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
        return code, capsys.readouterr().err, found

    return run


@pytest.fixture
def create(monkeypatch):
    """The subject of flags, on the toy model."""
    geometry_runs.give_data(monkeypatch)
    monkeypatch.setattr(artifact, "load", lambda path: model())
    return lambda **fields: subject.create(call(**fields))


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
    assert weights["weighting"] == "tanh" and weights["weights"] == "live" and weights["step"] == 7
    told = "Measured: live weights of the last checkpoint, step 7."
    assert all(told in part["summary"] for part in (kappa, weights, margins))
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


def test_weights_tell_how_many_images(create):
    examined = create().on("train")
    labels = np.array([0] + [1] * 19, np.int32)
    artifact = dataclasses.replace(
        examined.artifact, spec=examined.artifact.spec | {"config": {"data": {"batch_size": 64}}}
    )
    few = dataclasses.replace(examined, labels=labels, artifact=artifact)
    found = geometry_weights.weights(few)
    assert found.facts["batch_size"] == 20 and "batches of 20 images." in " ".join(found.summary)
    counts = {entry["class"]: entry["num_examples"] for entry in found.facts["classes"]}
    assert counts == {0: 1, 1: 19}
    assert "; 1 image)" in found.summary[2] and "; 19 images)" in found.summary[2]
    assert "right at fewer than 2 of the 4 tested iterates" in found.summary[0]
