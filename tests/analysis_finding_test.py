"""What a measurement leaves behind, and what a report makes of it."""

import importlib.util
import json

import numpy as np
import pytest

from score_jax import report_style
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
