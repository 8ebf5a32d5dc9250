"""`score-jax analyze`, from the command line to the numbers."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import artifact, cli
from score_jax.analysis import lipschitz
from score_jax.artifact import Artifact
from score_jax.data import sources
from tests import toy_mlp


def split(name, images, labels):
    return sources.Images(
        images=images, labels=labels, fingerprint=name, name="toy", split=name, path=""
    )


@pytest.fixture
def data(monkeypatch):
    random = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 23), ("test", 11)):
        images = random.integers(0, 256, (count, *toy_mlp.SHAPE)).astype(np.uint8)
        labels = random.integers(0, 4, count).astype(np.int32)
        splits[name] = split(name, images, labels)
        monkeypatch.setattr(
            sources, f"{name}_split", lambda dataset, data_dir, name=name: splits[name]
        )
    return splits


@pytest.fixture
def answer(capsys, tmp_path):
    """What a command line has as findings: the first one's JSON."""

    def run(*arguments):
        code = cli.main(["analyze", *arguments, f"--out={tmp_path / 'out'}"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(Path(re.search(r"^.*\.json$", out, re.M)[0]).read_text())

    return run


@pytest.fixture
def toy_artifact(monkeypatch, tmp_path):
    spec = {"dataset": "toy", "norm": "linf", "eps": 0.031, "sha256": {"model.safetensors": "a"}}
    loaded = Artifact(
        classifier=toy_mlp.classifier(), params=toy_mlp.params(jnp.float32), batch_stats={},
        spec=spec, path=tmp_path,
    )  # fmt: skip
    monkeypatch.setattr(artifact, "load", lambda path: loaded)
    return loaded


def test_lipschitz(data, toy_artifact, answer, tmp_path):
    facts = answer("lipschitz", f"--artifact={tmp_path}", "--split=train")
    assert facts["ascent"] > facts["official"] > 0
    assert (facts["eps"], facts["steps"], facts["step_size"]) == (0.031, 10, 0.003)
    assert (facts["split"], facts["num_examples"]) == ("train", 23)
    assert "official descends" in facts["note"]
    still = answer("lipschitz", f"--artifact={tmp_path}", "--steps=0", "--split=train")
    assert still["ascent"] == pytest.approx(still["official"])
    small = answer("lipschitz", f"--artifact={tmp_path}", "--split=train", "--batch_size=4")
    assert small["ascent"] == pytest.approx(facts["ascent"], rel=1e-4)


def test_the_radius_of_another_norm_is_not_taken(data, toy_artifact, answer, capsys, tmp_path):
    toy_artifact.spec.update(norm="l2", eps=0.5)
    assert cli.main(["analyze", "lipschitz", f"--artifact={tmp_path}"]) == 2
    assert "the model's own radius 0.5 is of norm l2" in capsys.readouterr().err
    assert answer("lipschitz", f"--artifact={tmp_path}", "--eps=1/255")["eps"] == 1 / 255


def test_the_average_is_of_the_images_alone(data, toy_artifact):
    images = data["test"].images
    found = lipschitz.average(toy_artifact, images, eps=0.031, lip_sign="ascent", batch_size=8)
    key = jax.random.key(0)
    noise = jnp.stack(
        [jax.random.normal(jax.random.fold_in(key, i), toy_mlp.SHAPE) for i in range(len(images))]
    )
    alone = lipschitz.local_lipschitz(
        lambda x: toy_mlp.apply(toy_artifact.params, x), key,
        jnp.asarray(images).astype(jnp.float32) / 255, eps=0.031, lip_sign="ascent", noise=noise,
    )  # fmt: skip
    assert found == pytest.approx(float(alone.mean()), rel=1e-4)


@pytest.mark.slow
def test_toy(answer):
    facts = answer("toy", "--num_examples=2400")
    assert facts["class_0_at"]["1.667"] == pytest.approx(0.56208397, abs=1e-6)
    kl = facts["widest_change"]["kl"]
    assert kl["dense_grid"] == pytest.approx(0.07708, abs=1e-5)
    assert kl["official_estimate"] == pytest.approx(0.0551, abs=2e-3)
    options = ("--demo=score", "--divergence=squared_error", "--train_steps=3", "--num_examples=60")
    facts = answer("toy", *options)
    assert (facts["demo"], facts["divergence"], facts["train_steps"]) == (
        "score",
        "squared_error",
        3,
    )
    assert {"train_loss", "score_risk", "standard_risk", "largest_error"} <= facts.keys()
    assert facts["draws_per_step"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "analyze needs one word, not ''; known: separation, lipschitz, toy"),
        (["seperation"], "did you mean 'separation'?"),
        (["toy", "separation"], "analyze needs one word, not 'toy separation'"),
        (
            ["toy", "--norm=l2"],
            "--norm is not for `analyze toy`, whose flags are --workdir, ",
        ),
        (["lipschitz"], "--workdir=DIR is needed"),
        (["lipschitz", "--artifact=a", "--steps=-2"], "--steps=-2 is no walk; give 0 or more"),
    ],
)
def test_what_cannot_be_analyzed_is_told_in_one_line(arguments, message, capsys):
    assert cli.main(["analyze", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
