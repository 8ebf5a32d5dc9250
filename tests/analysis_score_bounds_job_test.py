"""`score-jax analyze score-bounds`, from the command line to the numbers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import artifact, cli
from score_jax.analysis import (
    score_bounds,
    score_bounds_finite,
    score_bounds_finite_job,
    score_bounds_images,
    score_bounds_problems,
    score_bounds_words,
)
from score_jax.artifact import Artifact
from score_jax.data import sources
from tests import toy_mlp

MODEL = {"image_shape": list(toy_mlp.SHAPE), "num_classes": 4}


@pytest.fixture
def exports(monkeypatch, tmp_path):
    """Two models, 'a' and 'b', the second of twice the first's logits, and eleven images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (11, *toy_mlp.SHAPE)).astype(np.uint8)
    labels = random.integers(0, 4, 11).astype(np.int32)
    split = sources.Images(
        images=images, labels=labels, fingerprint="f", name="toy", split="test", path=""
    )
    monkeypatch.setattr(sources, "test_split", lambda dataset, data_dir: split)
    found = {}
    for name, factor in (("a", 1), ("b", 2)):
        params = toy_mlp.params(jnp.float32)
        params["logits"] = jax.tree.map(lambda leaf, factor=factor: factor * leaf, params["logits"])
        spec = {
            "dataset": "toy", "norm": "linf", "eps": 0.05, "sha256": {"model.safetensors": name},
            "model": dict(MODEL),
        }  # fmt: skip
        found[name] = Artifact(
            classifier=toy_mlp.classifier(), params=params, batch_stats={}, spec=spec,
            path=tmp_path / name,
        )  # fmt: skip
    monkeypatch.setattr(artifact, "load", lambda path: found[Path(path).name])
    return found


@pytest.mark.slow
def test_images(exports, capsys, tmp_path):
    options = ["--problem=images", "--artifact=a", "--surrogate=b", "--divergence=l1"]
    options += ["--steps=4", f"--out={tmp_path / 'out'}"]
    facts = {}
    for batch_size, temperature in ((8, "2"), (3, "2")):
        more = [f"--batch_size={batch_size}", f"--temperature={temperature}"]
        code = cli.main(["analyze", "score-bounds", *options, *more])
        assert code == 0, capsys.readouterr().err
        facts[batch_size] = json.loads(
            (tmp_path / "out/score_bounds_images_linf_0.05_b.json").read_text()
        )
    errors = facts[8]["errors"]
    assert errors["labels"]["l1"]["change"] == 0
    assert errors["labels"]["l1"]["score"] == errors["labels"]["l1"]["madry"] > 0
    # Twice the logits at temperature 2 are the model itself.
    same = errors["surrogate"]["l1"]
    assert same["standard"] == same["score"] == pytest.approx(0, abs=1e-5)
    assert same["madry"] == pytest.approx(same["change"], abs=1e-5) and same["change"] > 0.01
    for name, found in facts[3]["errors"].items():  # Batches change nothing but rounding.
        assert found["l1"]["madry"] == pytest.approx(errors[name]["l1"]["madry"], rel=1e-4)
    assert facts[8]["num_examples"] == 11 and facts[8]["model_sha256"] == "a"
    assert facts[8]["surrogate"]["temperature"] == 2
    arrays = np.load(tmp_path / "out/score_bounds_images_linf_0.05_b.npz")
    assert arrays["surrogate_largest"].shape == (11, 3, 1)
    out = capsys.readouterr().out
    assert "p(y|x) of images is not known" in out
    assert "SCORE's bounds of a on 11 test images of toy, L∞ eps 0.05, estimates" in out


def test_the_temperature_that_fits():
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(4000, 5))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (probs.cumsum(-1) < random.random((4000, 1))).sum(-1)
    found = score_bounds_images.fit_temperature((3 * logits).astype(np.float32), labels)
    assert found == pytest.approx(3, rel=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dimensions=3"], "--dimensions is not for --problem=toy"),
        (["--problem=mixture", "--artifact=a"], "--artifact is not for --problem=mixture"),
        (["--problem=mixture", "--norm=l1"], "--norm=l1 has no ball here; give linf or l2"),
        (["--problem=mixture", "--eps=0"], "--eps=0 is no radius; give a number above 0"),
        (["--problem=mixture", "--eps=big"], "--eps=big is no radius"),
        (["--problem=mixture", "--num_examples=3"], "--num_examples=3 draws tell nothing"),
        (["--steps=0"], "--steps=0 searches nothing; give 1 or more"),
        (["--restarts=-3"], "--restarts=-3 searches nothing"),
        (["--problem=images"], "--workdir=DIR is needed"),
        (["--problem=images", "--artifact=a", "--temperature=2"], "which is missing"),
        (
            ["--problem=images", "--artifact=a", "--surrogate=b", "--temperature=-1"],
            "--temperature=-1 is none; give a number above 0",
        ),
        (["--problem=images", "--artifact=a", "--surrogate=a"], "is the model itself"),
    ],
)
def test_what_has_no_bounds_is_told_in_one_line(exports, arguments, message, capsys, tmp_path):
    folder = tmp_path / "out"
    assert cli.main(["analyze", "score-bounds", *arguments, f"--out={folder}"]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out and not folder.exists()


def test_a_surrogate_of_other_classes_is_refused(exports, capsys, tmp_path):
    exports["b"].spec["model"]["num_classes"] = 7
    arguments = ["--problem=images", "--artifact=a", "--surrogate=b", f"--out={tmp_path / 'out'}"]
    assert cli.main(["analyze", "score-bounds", *arguments]) == 2
    assert "has num_classes 7 in its model.json, the model has 4" in capsys.readouterr().err


def test_a_surrogate_of_other_images_is_refused(exports, capsys, tmp_path):
    exports["b"].spec["dataset"] = "other"
    arguments = ["--problem=images", "--artifact=a", "--surrogate=b", f"--out={tmp_path / 'out'}"]
    assert cli.main(["analyze", "score-bounds", *arguments]) == 2
    err = capsys.readouterr().err
    assert "was trained on other as its model.json says, the model on toy" in err


def _verdict(*names):
    values = {"standard": 0.1, "madry": 0.2, "score": 0.2, "change": 0.1}
    return " ".join(
        score_bounds_words.verdict({"m": {of: score_bounds.bound_of(of, values) for of in names}})
    )


def test_only_what_was_asked_is_spoken_of():
    assert _verdict("kl").startswith("KL is no metric, and there") and "theorem" not in _verdict(
        "kl"
    )
    both = _verdict("kl", "squared_error", score_bounds.ROOT)
    assert "KL and squared error are no metrics" in both
    assert "1 of 1 cases where D is the root of squared error, for which that is a" in both
    assert "by construction, and no test of the search" in both
    assert "1 of 1 cases where D is a metric, for which that is a theorem" in _verdict("l1")
    assert "no metric" not in _verdict("l1")


def test_the_ball_is_in_titles_and_names():
    for norm, eps, name, title in (
        ("l2", 0.25, "mixture_1d_l2_0.25", "three Gaussians in 1 dimension, L2 eps 0.25"),
        ("linf", 0.5, "mixture_1d_linf_0.5", "three Gaussians in 1 dimension, L∞ eps 0.5"),
    ):
        problem = score_bounds_problems.create_mixture(1, norm=norm, eps=eps, num_draws=10, seed=0)
        assert (problem.name, problem.title) == (name, title)
    assert score_bounds_problems.create_toy().title == "the toy problem, L∞ eps 1"


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_minimiser_is_one_only_where_both_bounds_agree(num_classes, monkeypatch):
    """Cubes of all three classes meet: three labels cost 2 shares in L1, √3 at least in L2."""
    values = dict.fromkeys(score_bounds.QUANTITIES, 0.5)

    def measure(problem, num_pairs, seed):
        x, labels = np.zeros((3, 2)), np.arange(3) % num_classes
        least = score_bounds_finite.minimum(x, labels, norm="linf", eps=0.5)
        return {
            name: score_bounds_finite.Sample(
                num_pairs=num_pairs, lower=least.lower[name], reached=least.reached,
                kept=1 - least.reached, nearest_kept=score_bounds.bound_of(name, values),
            )
            for name in score_bounds.METRICS
        }  # fmt: skip

    monkeypatch.setattr(score_bounds_finite, "measure", measure)
    problem = score_bounds_problems.create_toy()
    for metric in ("l1", "l2"):
        found = score_bounds_finite_job.finding(problem, [metric], 0)
        is_best = num_classes == 2 or metric == "l1"
        said = " ".join(found.summary)
        assert ("the minimiser (the nearest kept pair)" in said) == is_best
        assert found.pictures["cost"].caption.startswith("The best fit") == is_best
        assert found.table[1][2].count(" to ") == (not is_best)
        assert "401 offsets, a grid over it." in said and "from below" not in said


@pytest.mark.slow
def test_known_data(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(score_bounds_finite, "SIZES", (6, 20))
    monkeypatch.setattr(score_bounds_finite, "NUM_DRAWS", 2)
    for options, name in (
        (["--problem=toy"], "toy"),
        (
            ["--problem=mixture", "--dimensions=3", "--norm=l2", "--num_examples=100"],
            "mixture_3d_l2_0.5",
        ),
    ):
        more = ["--train_steps=10", "--divergence=l1", f"--out={tmp_path}"]
        assert cli.main(["analyze", "score-bounds", *options, *more]) == 0
        capsys.readouterr()
        facts = json.loads((tmp_path / f"score_bounds_{name}.json").read_text())
        models = facts["errors"]
        assert list(models) == ["truth", "cells", "standard", "pgdat", "score", "trades"]
        assert all(found["l1"]["holds"] for found in models.values())
        assert models["truth"]["l1"]["score"] == 0 < models["cells"]["l1"]["score"]
        finite = json.loads((tmp_path / f"score_bounds_{name}_finite.json").read_text())
        assert [sample["num_pairs"] for sample in finite["samples"]] == [6, 20]
        for sample in finite["samples"]:
            assert sample["least_madry"] <= sample["reached_madry"] + 1e-9
            assert sample["nearest_kept"]["holds"] and sample["nearest_kept"]["score"] > 0.1
