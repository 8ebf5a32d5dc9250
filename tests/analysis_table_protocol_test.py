"""The table of several runs: which images and radii, who else measures, and how sure it is."""

import contextlib
import json

import pytest

from score_jax import cli, evaluate, report_table, workdir_lock
from score_jax.analysis import lipschitz_job, table, table_tasks, table_words
from score_jax.analysis.table import Protocol
from tests import table_runs
from tests.analysis_table_test import USUAL, one
from tests.table_runs import TEST, add_evaluation, lipschitz, make_run, write


@pytest.fixture
def runs(tmp_path):
    table_runs.four(tmp_path / "runs")
    return tmp_path / "runs"


def test_tables_of_several_counts_leave_each_other_what_they_measured(runs, monkeypatch):
    folder, made = runs / "method=at", []

    def searched(path, *, num_examples, **options):
        made.append(num_examples)
        told = {"test": dict(num_examples=num_examples, official=num_examples, ascent=9)}
        return lipschitz(folder, 0, 0, splits=told)

    monkeypatch.setattr(lipschitz_job, "measure", searched)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **options: None)
    for count in (50, 60, 50, 60, 0):
        protocol = Protocol(num_examples=count)
        table_tasks.measure(table.read([folder]), protocol)
        assert one(folder, protocol)[0].values["test Lipschitz"] == (count or 3)
    assert made == [50, 60]
    (run,) = table.read([folder])
    assert report_table.lipschitz(run) == 3  # That of the most images.


def test_what_is_measured_meanwhile_is_not_measured_again(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "at", "method=at")
    runs, calls = table.read([folder]), []

    @contextlib.contextmanager
    def held(path):
        assert path == folder
        table_runs.measured(folder, "method=at", (1, 0.9, 0.9, 0.6, 3))
        yield

    monkeypatch.setattr(workdir_lock, "held", held)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **options: calls.append(options))
    table_tasks.measure(runs, USUAL)
    assert not calls


def of_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", config | changes)
    return config


def test_a_run_of_fewer_images_or_wrong_labels_is_measured_on_what_it_was_given(runs):
    folder, changes = runs / "method=at", {"take": 100, "label_noise": 0.2}
    data = of_config(folder)["data"]
    of_config(folder, data=data | changes)
    row, missing = one(folder)
    assert row.counts == {"train": 100, "test": TEST} and row.values["train"] is None
    assert "--split=train --num_examples=100" in missing[0].command
    told = changes | {"label_noise_seed": data["label_noise_seed"]}
    add_evaluation(folder, "train", 0.7, 0.5, num_examples=100, trained_on=told)
    assert one(folder)[0].values["train"] == 70


def test_one_radius_is_none_for_several_norms(runs, capsys):
    of_config(runs / "method=at", norm="l2")
    options = ["analyze", "table", "--nomeasure", f"--runs={runs}"]
    assert cli.main([*options, "--eps=0.1"]) == 2
    out, err = capsys.readouterr()
    assert "--eps=0.1 is no radius of several norms (l2, linf)" in err and err.count("\n") == 1
    found = table_words.finding([table.row(run, USUAL) for run in table.read([runs])], USUAL)
    text = " ".join(found.summary)
    assert "several norms, l2 or linf: their rows do not compare" in text and "--eps" not in text
    options[-1] = f"--runs={runs / 'method=natural'}"
    for radius, message in (("8", "--eps=8"), ("0", "--eps=0 leaves nothing to attack")):
        assert cli.main([*options, f"--eps={radius}"]) == 2
        assert message in capsys.readouterr().err


def test_images_that_differ_between_runs_are_told(runs):
    add_evaluation(runs / "method=at", "test", 0.9, 0.6, data_sha256="others")
    found = table_words.finding([table.row(run, USUAL) for run in table.read([runs])], USUAL)
    assert "The test images of digits that the runs were measured on are not the same" in " ".join(
        found.summary
    )
    assert found.facts["runs"][0]["data_sha256"] == {"train": "digits train", "test": "others"}


def test_dropout_is_judged_by_pairs_that_know_every_column(runs):
    table_runs.measured(runs / "method=at,dropout", "method=at,dropout", (1, 1, 1, 1, 1))
    (runs / "method=at,dropout" / "analysis" / "lipschitz.json").unlink()
    found = table_words.finding([table.row(run, USUAL) for run in table.read([runs])], USUAL)
    assert found.facts["dropout"]["pairs"] == 1
    assert found.facts["dropout"]["test"] == pytest.approx(1)


def test_many_runs_tell_of_smooth_ones_in_general(runs):
    for number in range(4):
        table_runs.measured(runs / f"x{number}", "method=at", (1, 1, 0.5, 0.1 * number, 9 - number))
    found = table_words.finding([table.row(run, USUAL) for run in table.read([runs])], USUAL)
    assert "over 8 runs: the smoother, the more robust." in " ".join(found.summary)
