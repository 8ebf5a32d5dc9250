"""`score-jax analyze lipschitz`, from the command line to the numbers, and the table's column."""

import importlib.util
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import artifact, cli, report_table
from score_jax.analysis import finding, lipschitz, lipschitz_job
from score_jax.analysis.finding import Finding
from score_jax.artifact import Artifact
from score_jax.data import sources
from score_jax.types import UserError
from tests import toy_mlp

ESTIMATES = ("official", "ascent", "gradient")


@pytest.fixture
def images(monkeypatch):
    random = np.random.default_rng(0)
    held = {}
    for name, count in (("train", 23), ("test", 11)):
        drawn = random.integers(0, 256, (count, *toy_mlp.SHAPE)).astype(np.uint8)
        drawn[0] = 0  # Pixels that can go one way only.
        split = sources.Images(
            images=drawn, labels=random.integers(0, 4, count).astype(np.int32),
            fingerprint=f"of {name}", name="toy", split=name, path="",
        )  # fmt: skip
        held[name] = drawn
        monkeypatch.setattr(sources, f"{name}_split", lambda dataset, data_dir, split=split: split)
    return held


@pytest.fixture
def spec(monkeypatch, tmp_path):
    facts = {
        "dataset": "toy", "norm": "linf", "eps": 0.031, "sha256": {"model.safetensors": "a"},
        "model": {"image_shape": toy_mlp.SHAPE, "num_classes": toy_mlp.NUM_CLASSES},
        "config": {"data": {"validation_size": 3}},
    }  # fmt: skip
    loaded = Artifact(
        classifier=toy_mlp.classifier(), params=toy_mlp.params(jnp.float32), batch_stats={},
        spec=facts, path=tmp_path,
    )  # fmt: skip
    monkeypatch.setattr(artifact, "load", lambda path: loaded)
    return facts


@pytest.fixture
def answer(images, spec, capsys, tmp_path):
    """What a command line prints, and finds: (text, JSON, arrays)."""

    def run(*arguments):
        out = tmp_path / "out"
        words = ["analyze", "lipschitz", f"--artifact={tmp_path}", f"--out={out}"]
        code = cli.main([*words, *arguments])
        text, err = capsys.readouterr()
        assert code == 0, err
        found = json.loads((out / "lipschitz.json").read_text())
        return text, found, np.load(out / "lipschitz.npz")

    return run


@pytest.mark.slow
def test_both_splits_are_measured_and_told(answer, images, tmp_path):
    text, facts, arrays = answer()
    assert (facts["eps"], facts["official_steps"], facts["official_step_size"]) == (
        0.031,
        10,
        0.003,
    )
    assert (facts["steps"], facts["restarts"], facts["gradient_is_exact"]) == (20, 3, True)
    assert facts["data_sha256"] == {"train": "of train", "test": "of test"}
    # Without the images of the validation.
    assert [facts["splits"][split]["num_examples"] for split in ("train", "test")] == [20, 11]
    for split, told in facts["splits"].items():
        values = {name: arrays[f"{split}_{name}"] for name in ESTIMATES}
        assert (values["ascent"] >= values["gradient"]).all()
        assert (values["ascent"] > values["official"]).all()
        for name in ESTIMATES:
            assert told[name] == pytest.approx(values[name].astype(np.float64).mean(), rel=1e-12)
            assert told["quantiles"][name]["1"] == values[name].max()
    told = facts["splits"]["test"]
    assert f"Around 11 test images the mean is {told['official']:.3f} as released" in text
    assert "which descends: no maximum" in text and "exact for the gradient as computed" in text
    is_drawn = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "out" / "lipschitz_distributions.png").exists() == is_drawn


def test_steps_and_restarts_steer_the_search_alone(answer, images, monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "_draw", lambda found: {})
    text, facts, arrays = answer("--split=test", "--num_examples=2", "--steps=1", "--restarts=1")
    assert (facts["official_steps"], facts["steps"], facts["restarts"]) == (10, 1, 1)
    told = facts["splits"]["test"]
    for name in ESTIMATES:
        assert told[name] == pytest.approx(arrays[f"test_{name}"].astype(np.float64).mean())
    assert f"Around 2 test images the mean is {told['official']:.3f} as released" in text
    # Ten steps; and each image's own number, whatever the batch: the first test image, alone.
    pixels = jnp.asarray(images["test"][:1]).astype(jnp.float32) / 255
    key = jax.random.fold_in(jax.random.key(0), 0)
    alone = lipschitz.local_lipschitz(
        lambda x: toy_mlp.apply(toy_mlp.params(jnp.float32), x), key, pixels, eps=0.031,
        noise=jax.random.normal(key, (1, *toy_mlp.SHAPE)),
    )  # fmt: skip
    assert float(alone[0]) == pytest.approx(float(arrays["test_official"][0]), rel=1e-4)


def told_of(official, ascent):
    return dict(num_examples=9, official=official, ascent=ascent, gradient=0.5)


@pytest.mark.parametrize(
    ("official", "words"),
    [(5.0, ", 1.4 times that (ascent)"), (0.5, ", 14 times that (ascent)"), (0.0, " (ascent)")],
)
def test_how_much_steeper_is_told_with_a_decimal_below_ten(official, words):
    text = lipschitz_job._sentence("test", told_of(official, 7.0))
    assert f"by 7.000 a unit of distance{words}" in text


def test_without_a_folder_of_its_own_a_finding_is_named_after_the_model(spec, monkeypatch):
    monkeypatch.setattr(
        lipschitz_job, "measure",
        lambda path, eps, **_: Finding(name="lipschitz", title="", summary=(), facts={"eps": eps}),
    )  # fmt: skip
    written = []
    monkeypatch.setattr(
        finding, "write", lambda folder, what, of, seconds: written.append((str(folder), of.name))
    )
    words = ("analyze", "lipschitz", "--eps=0.03")
    cli.main([*words, "--artifact=runs/arch=cnn,2/export"])
    cli.main([*words, "--artifact=elsewhere/model"])
    cli.main([*words, "--artifact=a", "--out=b"])
    assert written == [
        ("runs/analysis", "lipschitz_arch-cnn-2_eps0.03"),
        ("runs/analysis", "lipschitz_model_eps0.03"),
        ("b", "lipschitz"),
    ]


@pytest.mark.slow
def test_one_split_other_batches_and_steps(answer):
    _, facts, first = answer("--split=test", "--num_examples=8", "--steps=0", "--restarts=1")
    assert facts["splits"].keys() == {"test"} and facts["splits"]["test"]["num_examples"] == 8
    _, _, second = answer(
        "--split=test", "--num_examples=8", "--steps=0", "--restarts=1", "--batch_size=2"
    )
    for name in ESTIMATES:
        np.testing.assert_allclose(first[f"test_{name}"], second[f"test_{name}"], rtol=1e-4)


def test_the_radius_of_another_norm_is_not_taken(answer, spec, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "_draw", lambda found: {})
    zeros = dict.fromkeys(ESTIMATES, np.zeros(11, np.float32))
    spec.update(norm="l2", eps=0.5)
    assert cli.main(["analyze", "lipschitz", f"--artifact={tmp_path}"]) == 2
    assert "the model's own radius 0.5 is of norm l2" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(lipschitz_job, "estimates", lambda of, restarts: asked.append(of) or zeros)
    _, facts, _ = answer("--eps=1/255", "--split=test", "--steps=1", "--restarts=1")
    assert facts["eps"] == asked[0].eps == 1 / 255


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=-2", "--steps=-2 is no walk; give 0 or more"),
        ("--restarts=0", "--restarts=0 is no search; give 1 or more"),
    ],
)
def test_what_is_no_search_is_told_in_one_line(flag, message, capsys):
    assert cli.main(["analyze", "lipschitz", "--artifact=a", flag]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_the_table_reads_it_where_the_model_is_the_same(tmp_path):
    found = {"model_sha256": "a", "splits": {"train": {"official": 3.5, "ascent": 9.0}}}
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "lipschitz.json").write_text(json.dumps(found))

    def run(sha256):
        folder = SimpleNamespace(path=tmp_path)
        return SimpleNamespace(workdir=folder, model_sha256=sha256, config={"eps": 0.1})

    assert report_table.MEASURES["train Lipschitz"](run("a")) == 3.5
    assert report_table.lipschitz(run("a"), "train", "ascent") == 9.0
    assert report_table.MEASURES["test Lipschitz"](run("a")) is None  # Not measured.
    assert report_table.MEASURES["train Lipschitz"](run("b")) is None  # Another export.
    for damaged in ('{"splits":', '{"splits": []}'):
        (tmp_path / "analysis" / "lipschitz.json").write_text(damaged)
        with pytest.raises(UserError, match="lipschitz.json is not .*; move it away"):
            report_table.lipschitz(run("a"))
