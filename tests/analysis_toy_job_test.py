"""`score-jax analyze toy`: what is written, and what is said of it."""

import json

import numpy as np
import pytest

from score_jax import cli
from score_jax.analysis import toy_words

pytest.importorskip("matplotlib")


@pytest.fixture
def toy(capsys, tmp_path):
    """The facts of each finding, and what was printed."""

    def run(*arguments):
        out = tmp_path / "out"
        code = cli.main(["analyze", "toy", *arguments, f"--out={out}"])
        told, err = capsys.readouterr()
        assert code == 0, err
        return {p.stem: json.loads(p.read_text()) for p in sorted(out.glob("*.json"))}, told, out

    return run


@pytest.mark.slow
def test_one_demo_over_training(toy):
    found, told, out = toy("--demo=standard", "--train_steps=25", "--num_examples=60")
    ((name, facts),) = found.items()
    assert name == "toy_training_standard_kl"
    assert (facts["train_steps"], facts["draws_per_step"], facts["seed"]) == (25, 60, 2)
    assert facts["steps"] == [0, 10, 20, 25]
    (numbers,), risks = facts["trainings"], facts["dense_score_risk"]["standard"]
    assert len(risks) == 4 and risks[-1] < risks[0]
    assert risks[-1] == pytest.approx(numbers["dense_score_risk"])
    assert numbers["score_risk"] < numbers["dense_score_risk"]
    assert f"Standard    KL      {numbers['train_loss']:.4f}" in told
    curves = np.load(out / facts["arrays"])
    error = np.abs(curves["standard_25"] - curves["truth"]).max()
    assert error == pytest.approx(numbers["largest_error"], abs=1e-3)
    assert {p.name for p in out.glob("*.png")} == {f"{name}_risk.png", f"{name}_snapshots.png"}


def test_the_grids_of_figure_2(toy):
    options = ("--demo=standard", "--divergence=l2", "--train_steps=3", "--num_examples=60")
    found, told, out = toy("--show=methods,six", *options)
    methods, six = (found[f"toy_{part}_standard_l2"] for part in ("methods", "six"))
    assert "script: loss" not in told  # It took 500 steps.
    assert len(methods["trainings"]) == 1 and methods["pictures"].keys() == {"learned"}
    kept, redrawn = six["trainings"]
    assert (kept["sampling"], redrawn["sampling"], six["num_seeds"]) == ("kept", "redrawn", 5)
    assert kept["standard_deviations"]["largest_error"] > 0
    arrays = np.load(out / six["arrays"])
    assert arrays["kept_standard_l2"].shape == (5, 261)
    assert arrays["training_points"].shape == (5, 6)
    assert six["pictures"].keys() == {"kept", "redrawn"}


def test_c_and_its_bias(toy):
    found, told, _ = toy("--show=change", "--divergence=l1")
    facts = found["toy_change_l1"]
    assert facts["class_0_at"]["1.667"] == pytest.approx(0.56208397, abs=1e-6)
    c = facts["widest_change"]["l1"]
    assert c["dense_grid"] == pytest.approx(0.24422, abs=6e-6)
    assert c["official_estimate"] == pytest.approx(c["mean_of_sides"], abs=0.002)
    assert c["bias"] == pytest.approx(c["official_estimate"] / c["dense_grid"] - 1)
    assert -0.35 < c["bias"] < -0.1 and f"{c['bias']:+.0%}" in told


def test_a_part_that_there_is_not_is_one_line(capsys):
    assert cli.main(["analyze", "toy", "--show=method"]) == 2
    out, err = capsys.readouterr()
    assert "--show=method is no part of the toy; did you mean 'methods'?" in err and not out
    assert err.count("\n") == 1


def numbers(demo, divergence, error, sampling="even"):
    return {
        "demo": demo, "divergence": divergence, "largest_error": error, "sampling": sampling,
        "dense_score_risk": error / 2,
    }  # fmt: skip


def test_the_verdict_is_the_numbers():
    found = [numbers("pgdat", "kl", 0.2), numbers("pgdat", "l1", 0.3)]
    found += [numbers("score", "kl", 0.04), numbers("score", "l1", 0.1)]
    assert toy_words.verdicts(found) == [
        "R_SCORE (L1, dense), over 2 divergences: SCORE 0.020 to 0.050, PGD-AT 0.100 to 0.150.",
        "Largest error on [-5, 8], over 2 divergences: "
        "SCORE 0.040 to 0.100, PGD-AT 0.200 to 0.300.",
        "R_SCORE of PGD-AT is 3.0 to 5.0 times that of SCORE: it asks for one answer in the whole "
        "ball, so the truth does not minimise it.",
    ]
    assert toy_words.verdicts(found[-1:]) == [
        "R_SCORE (L1, dense): SCORE 0.050.", "Largest error on [-5, 8]: SCORE 0.100.",
    ]  # fmt: skip
    six = [numbers("score", "kl", 0.2, "kept"), numbers("score", "kl", 0.1, "redrawn")]
    assert toy_words.six_words(six) == [
        "R_SCORE (L1, dense) with six pairs kept: SCORE 0.100.",
        "R_SCORE (L1, dense) with six redrawn at every step: SCORE 0.050.",
    ]
