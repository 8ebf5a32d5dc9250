"""The table of several runs: what counts as measured, what is measured, and what it says."""

import importlib.util
import json

import pytest

from score_jax import cli, evaluate, recipes, report_analyses, report_run, report_table
from score_jax import config as config_module
from score_jax.analysis import finding, lipschitz_job, table, table_job, table_tasks, table_words
from score_jax.analysis.table import Protocol
from tests import table_runs
from tests.table_runs import RECIPE, TEST, TRAIN, add_evaluation, lipschitz, make_run, sha, write

USUAL = Protocol()


@pytest.fixture
def runs(tmp_path):
    table_runs.four(tmp_path / "runs")
    return tmp_path / "runs"


def one(folder, protocol=None):
    protocol = protocol or Protocol()
    (run,) = table.read([folder])
    return table.row(run, protocol), table_tasks.missing(run, protocol)


def test_the_columns_of_a_run(runs):
    row, missing = one(runs / "method=at")
    assert not missing and row.counts == {"train": TRAIN, "test": TEST}
    assert row.values == pytest.approx({
        "train": 100, "test": 90, "adv train": 90, "adv test": 60, "gap": 10, "adv gap": 30,
        "test Lipschitz": 3, "train Lipschitz": 1.5, "ascent": 27,
    })  # fmt: skip
    assert table.columns() == report_table.tables()["yang"].columns
    assert set(table.columns()) <= row.values.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"num_examples": 100},
        {"step_size": 0.05},
        {"step_size": None},
        {"eps": {"value": 0.1, "written": "0.1"}},
        {"attack": "pgd20"},
        {"restarts": 2},
        {"norm": "l2"},
        {"dataset": "mnist"},
        {"seed": 1},
        {"trained_on": {"take": 100}},
        {"model_sha256": "0"},
    ],
)
def test_what_was_measured_otherwise_does_not_count(runs, change):
    folder = runs / "method=at"
    add_evaluation(folder, "test", 0.5, 0.5, **change)
    row, missing = one(folder)
    assert row.values["test"] is None and row.values["gap"] is None
    assert row.values["train"] == 100
    (task,) = missing
    assert task.command == (
        f"score-jax evaluate --workdir={folder} --num_examples=359 --steps=10 "
        "--step_size=0.04 --noeps_curve --name=pgd10-table"
    )


ONE = {"num_examples": 1, "official": 3, "ascent": 9}


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 0.1},
        {"model_sha256": "0"},
        {"splits": {}},
        {"splits": {"train": ONE, "test": ONE | {"num_examples": TEST}}},
        {"official_steps": 100},
        {"steps": 100},
        {"restarts": 1},
        {"seed": 1},
    ],
)
def test_another_lipschitz_constant_does_not_count(runs, change):
    folder = runs / "method=at"
    finding.write(folder / "analysis", "lipschitz", lipschitz(folder, 3, 9, **change), 1.0)
    row, (task,) = one(folder)
    assert "test Lipschitz" not in row.values
    assert task.command == f"score-jax analyze lipschitz --workdir={folder}"


def test_another_number_of_images_or_radius_is_measured_anew(runs):
    row, missing = one(runs / "method=at", Protocol(num_examples=400, eps=0.1))
    assert row.counts == {"train": 400, "test": TEST} and row.values["train"] is None
    words = [task.command.split()[3:] for task in missing]
    assert "--split=train" in words[0] and "--num_examples=400" in words[0]
    assert "--num_examples=359" in words[1] and "--step_size=0.02" in words[1]
    assert words[2] == [f"--workdir={runs / 'method=at'}", "--num_examples=400", "--eps=0.1"]


def test_only_what_is_missing_is_measured_and_nothing_is_written_over(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "at", "method=at")
    add_evaluation(folder, "train", 1, 0.9, seed=5)
    add_evaluation(folder, "test", 0.5, 0.5, name="pgd10-table", num_examples=7)
    calls = []

    def evaluated(workdir, *, name, split, num_examples, **options):
        calls.append((workdir, name, split, num_examples, options["step_size"]))
        changes = dict(num_examples=num_examples, seed=options["seed"])
        add_evaluation(folder, split, 0.9, 0.6, name=name, **changes)

    def searched(path, **options):
        calls.append((path, options))
        return lipschitz(folder, 3, 27, seed=5)

    own = lipschitz(folder, 1, 2, steps=50)
    finding.write(folder / "analysis", "lipschitz", own, 1.0)
    (before,) = (folder / "analysis").glob("*.json")
    before_text = before.read_text()

    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    monkeypatch.setattr(lipschitz_job, "measure", searched)
    for _ in range(2):
        table_tasks.measure(table.read([folder]), Protocol(seed=5))
    assert calls == [
        (str(folder), "pgd10-table-2", "test", TEST, 0.04),
        (
            str(folder / "export"),
            dict(data_dir="", num_examples=0, seed=5, batch_size=500, eps=None),
        ),
    ]
    row, missing = one(folder, Protocol(seed=5))
    assert not missing and row.values["gap"] == pytest.approx(10)
    assert row.values["test Lipschitz"] == 3 and before.read_text() == before_text


def test_without_a_linf_radius_there_is_no_lipschitz_constant(tmp_path):
    folder = make_run(tmp_path / "l2", "method=at")
    config = json.loads((folder / "config.json").read_text()) | {"norm": "l2"}
    write(folder / "config.json", config)
    _, missing = one(folder)
    assert [task.command.split()[1] for task in missing] == ["evaluate", "evaluate"]


def test_what_the_table_says(runs):
    found = table_words.finding([table.row(run, USUAL) for run in table.read([runs])], USUAL)
    head, at, natural, trades, dropping = found.table
    assert head[1:] == [*table.columns(), "train Lipschitz", "ascent"]
    assert natural == [
        "natural",
        "100.00",
        "90.00",
        "0.00",
        "12.00",
        "10.00",
        "0.00",
        "6.00",
        "108.00",
    ]
    assert [at[0], trades[0], dropping[0]] == ["at", "trades", "trades,dropout"]
    text = " ".join(found.summary)
    assert "on 1310 training and 359 test images" in text and "eps 0.2" in text
    assert "The smoothest is trades,dropout (0.50), the steepest natural (12.00)." in text
    assert "-1.00 over 4 runs: in these 4 runs the smoother are the more robust." in text
    # By hand: sqrt(1 * 0 / 1310 + .9 * .1 / 359), and of at sqrt(.9 * .1 / 1310 + .6 * .4 / 359).
    assert "at most 1.6 for gap and 2.7 for adv gap, in points" in text
    assert found.facts["dropout"] == pytest.approx(
        {"pairs": 1, "test": 1, "adv test": 2, "test Lipschitz": -0.5, "gap": -2, "adv gap": -6}
    )
    assert "on average over 1 pair of runs: test +1.00, adv test +2.00" in text
    assert "Not measured" not in text and "several" not in text and "compare" not in text


def test_what_makes_rows_unlike_is_said(runs):
    make_run(runs / "method=gr", "method=gr", checkpoint="best")
    write(runs / "method=at" / "config.json", config_module.to_dict(
        recipes.load(f"{RECIPE}:method=at", ["eps=0.1"])
    ))  # fmt: skip
    make_run(runs / "method=llr", "method=llr", is_exported=False)
    rows = [table.row(run, USUAL) for run in table.read([runs])]
    found = table_words.finding(rows, USUAL)
    text = " ".join(found.summary)
    assert (
        "several radii; --eps=RADIUS measures" in text
        and "which the published numbers are of: gr (" in text
    )
    assert (
        f"Not measured yet: score-jax export --workdir={runs}/method=llr --checkpoint=last" in text
    )
    assert found.facts["rank_correlation"] is None
    assert len(found.facts["commands"]) == 1 + 3 + 3


def test_from_the_command_line_to_the_files(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert cli.main(["analyze", "table", f"--runs={runs}", f"--out={out}", "--nomeasure"]) == 0
    told = capsys.readouterr().out
    assert "natural" in told and str(out / "table.json") in told
    facts = json.loads((out / "table.json").read_text())
    assert [run["test Lipschitz"] for run in facts["runs"]] == [3, 12, 1, 0.5]
    assert facts["rank_correlation"] == pytest.approx(-1)
    lines = (out / "table.md").read_text().splitlines()
    assert lines[0].startswith("| run | train | test |") and len(lines) == 2 + 4
    for name in ("lipschitz", "gaps"):
        assert (out / f"table_{name}.png").stat().st_size > 10000


def test_a_comma_in_the_name_of_a_run_does_not_cut_it(runs):
    folders = [f"{runs}/method=at", f"{runs}/method=trades,dropout", "nowhere"]
    parts = ",".join(folders).split(",")
    assert list(table_job._folders(parts)) == folders


def test_the_report_of_a_run_has_the_table_that_begins_with_it(runs, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # No pictures.
    own, others = runs / "method=trades", runs / "method=at"
    options = [f"--workdir={own}", f"--runs={others}", "--nomeasure"]
    assert cli.main(["analyze", "table", *options]) == 0
    facts = json.loads((own / "analysis" / "table.json").read_text())
    assert [run["run"] for run in facts["runs"]] == ["method=trades", "method=at"]
    assert facts["model_sha256"] == sha(own)
    (sections, outdated) = report_analyses.sections(report_run.read(own))
    assert len(sections) == 2 and not outdated


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--runs=DIR,DIR is needed"),
        (["--runs=nowhere"], "--runs=nowhere: no run there or below it"),
        (["--runs=a", "--steps=3"], "--steps is not for `analyze table`"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(arguments, message, capsys):
    assert cli.main(["analyze", "table", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
