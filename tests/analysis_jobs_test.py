"""`score-jax analyze`, from the command line to the numbers."""

import json
import re
from pathlib import Path

import pytest

from score_jax import cli
from score_jax.analysis.topics import TOPICS


@pytest.fixture
def answer(capsys, tmp_path):
    """What a command line has as findings: the first one's JSON."""

    def run(*arguments):
        code = cli.main(["analyze", *arguments, f"--out={tmp_path / 'out'}"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(Path(re.search(r"^.*\.json$", out, re.M)[0]).read_text())

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], f"analyze needs one word, not ''; known: {', '.join(TOPICS)}"),
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
