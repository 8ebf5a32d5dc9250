"""What a measurement leaves behind, and what a report makes of it."""

import importlib.util
import json

import numpy as np
import pytest

from score_jax import cli, report_analyses, report_run, report_style
from score_jax.analysis import finding
from score_jax.analysis.finding import Finding, Picture
from score_jax.report import report
from score_jax.types import UserError
from tests.report_test import SHA, make_run


def draw():
    figure, axes = report_style.panel("Squares", {})
    axes.plot([1, 2, 3], [1, 4, 9], color=report_style.color(0))
    return figure


def found(**fields):
    return Finding(
        **dict(
            name="squares",
            title="Squares & roots",
            summary=["4 < 9."],
            facts={"largest": 9},
            table=[("number", "square"), ("2", "4"), ("3", "9")],
            pictures={"curve": Picture("Squares of numbers.", draw)},
            arrays={"squares": np.array([1, 4, 9])},
        )
        | fields
    )


def test_what_is_written_and_told(tmp_path):
    pytest.importorskip("matplotlib")
    told = finding.write(tmp_path, "roots", found(), 1.5).splitlines()
    assert told[:4] == ["Squares & roots", "number  square", "------  ------", "2            4"]
    assert told[5] == "4 < 9."
    facts = json.loads((tmp_path / "squares.json").read_text())
    assert facts["analysis"] == "roots" and facts["seconds"] == 1.5 and facts["largest"] == 9
    assert facts["pictures"] == {"curve": "Squares of numbers."} and facts["versions"]["jax"]
    np.testing.assert_array_equal(np.load(tmp_path / facts["arrays"])["squares"], [1, 4, 9])
    assert told[6:] == [str(tmp_path / "squares.json"), str(tmp_path / "squares_curve.png")]
    assert (tmp_path / "squares_curve.svg").read_text().startswith("<?xml")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npz", ".png", ".svg"]


def test_without_the_plotting_library_the_numbers_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = finding.write(tmp_path, "roots", found(), 1.5)
    assert told.endswith(finding.INSTALL)
    assert json.loads((tmp_path / "squares.json").read_text())["pictures"] == {}
    assert not list(tmp_path.glob("*.png"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out cannot be written .*; give another --out"):
        finding.write(tmp_path / "file" / "out", "roots", found(), 1.5)


def test_the_report_of_a_run_shows_what_was_found_of_its_model(tmp_path):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path / "run")
    finding.write(run / "analysis", "roots", found(facts={"model_sha256": SHA}), 1.5)
    finding.write(run / "analysis", "data", found(name="of_data", title="Of data"), 1.5)
    finding.write(
        run / "analysis", "old", found(name="old", title="Old", facts={"model_sha256": "0"}), 1.5
    )
    report(run)
    page = (run / "report.html").read_text()
    assert "<h2>Measurements</h2>" in page and "<h3>Squares &amp; roots</h3>" in page
    assert "<p>4 &lt; 9.</p>" in page and "<td class=number>9</td>" in page
    assert "<h3>Of data</h3>" in page and "<h3>Old</h3>" not in page
    assert "left out are results of an earlier export (<code>old</code>)" in page
    assert page.count("Squares of numbers.</small></figcaption>") == 2
    assert 'aria-label="Squares of numbers."' in page and "<?xml" not in page


def test_a_foreign_file_among_the_findings_is_one_line(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "analysis").mkdir()
    (run / "analysis" / "notes.json").write_text("{}")
    with pytest.raises(UserError, match="notes.json is not of `score-jax analyze`; move it away"):
        report(run)


@pytest.mark.parametrize(
    ("sha256", "kept", "is_shown"),
    [(SHA, (10, 20), True), ("0", (10, 20), False), (SHA, (10, 20, 30), False), (SHA, (), True)],
)
def test_what_was_found_over_checkpoints_is_of_the_export_and_of_those_kept(
    tmp_path, sha256, kept, is_shown
):
    run = make_run(tmp_path / "run")
    for step in kept:
        (run / "checkpoints" / str(step)).mkdir(parents=True)
    measured = [
        {"name": "step 10", "model_sha256": "1"},
        {"name": "step 20 (last)", "model_sha256": sha256},
    ]
    facts = {"checkpoints": measured}
    finding.write(run / "analysis", "gaps", found(facts=facts, pictures={}), 1.5)
    sections, outdated = report_analyses.sections(report_run.read(run))
    assert (len(sections), outdated) == ((1, []) if is_shown else (0, ["squares"]))


def test_pictures_of_an_earlier_finding_go_and_no_others(tmp_path):
    pytest.importorskip("matplotlib")
    picture = Picture("Squares.", draw)
    finding.write(tmp_path, "roots", found(pictures={"curve": picture, "more": picture}), 1.5)
    (tmp_path / "squares_own.png").write_text("a person's")
    finding.write(tmp_path, "roots", found(pictures={"curve": picture}), 1.5)
    names = sorted(path.name for path in tmp_path.glob("*_*"))
    assert names == ["squares_curve.png", "squares_curve.svg", "squares_own.png"]


def test_a_drawing_that_fails_leaves_nothing(tmp_path):
    pytest.importorskip("matplotlib")

    def fail():
        raise ValueError("no such colour")

    pictures = {"curve": Picture("Squares.", draw), "broken": Picture("Broken.", fail)}
    with pytest.raises(ValueError, match="no such colour"):
        finding.write(tmp_path / "out", "roots", found(pictures=pictures), 1.5)
    assert not (tmp_path / "out").exists()


def test_one_process_of_several_measures_nothing(monkeypatch, capsys):
    step = dict(SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="1", SLURM_STEP_NODELIST="n[3-4]")
    for name, value in {**step, "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["analyze", "separation", "--data=digits"]) == 2
    out, err = capsys.readouterr()
    assert "analyze separation is run by one process, and this is process 1 of 4" in err
    assert err.count("\n") == 1 and not out
