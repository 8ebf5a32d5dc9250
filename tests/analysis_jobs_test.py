"""`score-jax analyze`, from the command line to the numbers."""

import json
import re
from pathlib import Path

import pytest

from score_jax import cli


@pytest.fixture
def answer(capsys, tmp_path):
    """What a command line has as findings: the first one's JSON."""

    def run(*arguments):
        code = cli.main(["analyze", *arguments, f"--out={tmp_path / 'out'}"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(Path(re.search(r"^.*\.json$", out, re.M)[0]).read_text())

    return run


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
    ],
)
def test_what_cannot_be_analyzed_is_told_in_one_line(arguments, message, capsys):
    assert cli.main(["analyze", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
