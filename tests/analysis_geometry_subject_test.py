"""What the geometry of a model is measured on: images, attack, runs beside, weights, parts."""

import dataclasses
import logging

import numpy as np
import pytest

from score_jax import artifact
from score_jax.analysis import geometry_job, subject, subject_choice, subject_words
from score_jax.data import sources
from tests import geometry_runs
from tests.geometry_runs import NUM_TEST, call, model


@pytest.fixture
def create(monkeypatch):
    """The subject of flags, on the toy model."""
    geometry_runs.give_data(monkeypatch)
    monkeypatch.setattr(artifact, "load", lambda path: model())
    return lambda **fields: subject.create(call(**fields))


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


def test_which_weights_are_told(create):
    examined = create(beside="runs/one")
    facts = examined.facts()
    assert (facts["weights"], facts["checkpoint"], facts["step"]) == ("live", "last", 7)
    assert subject_words.tell_models([examined]) == [
        "Measured: live weights of the last checkpoint, step 7."
    ]
    spec = {"sha256": {"model.safetensors": "b"}}
    (other,) = examined.beside
    unknown = dataclasses.replace(other, artifact=dataclasses.replace(other.artifact, spec=spec))
    assert subject_words.tell_models([unknown]) == []
    assert unknown.measured_model()["weights"] is None
    (told,) = subject_words.tell_models([examined, unknown, other])
    same = "live weights of the last checkpoint, step 7"
    assert told == f"Measured: toy: {same}; one: {same}."


@pytest.mark.parametrize(
    ("flags", "left"), [({}, ["kappa", "margins"]), ({"show": "kappa,weights"}, ["kappa"])]
)
def test_too_few_steps_for_weights(create, monkeypatch, caplog, flags, left):
    monkeypatch.setattr(geometry_job, "PARTS", {"kappa": "-", "weights": "-", "margins": "-"})
    monkeypatch.setattr(geometry_job, "_part", lambda name, module: lambda subject: name)
    monkeypatch.setattr(logging.getLogger("score_jax"), "propagate", True)
    assert list(geometry_job.run(call(steps=1, **flags))) == left
    (line,) = [record.getMessage() for record in caplog.records]
    assert "weights needs an attack of 2 steps or more" in line and "this one has 1" in line
    with pytest.raises(subject.UsageError, match="2 steps or more to tell images apart"):
        list(geometry_job.run(call(steps=1, show="weights")))
    assert "weights" in list(geometry_job.run(call(steps=2, **flags)))
