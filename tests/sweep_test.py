"""The sweep job: settings in processes of their own, stages that are done, and the table."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from score_jax import config as config_module
from score_jax import (
    evaluate,
    export,
    mesh,
    official_autoattack,
    prepare,
    sweep,
    sweep_table,
    train,
)
from score_jax.data import sources
from score_jax.sweep_settings import Sweep
from score_jax.types import UserError
from score_jax.workdir import Workdir, open_workdir

SHA = "c0ffee" + 58 * "0"
METHODS = "configs/digits_methods.py:smoke"
# A child that behaves as a setting does, told by its folder's name what to do.
CHILD = """
import pathlib, signal, sys, time
folder, seconds, code = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def stop(*_):
    (folder / (name + ".stopped")).touch()
    sys.exit(130)
name = sys.argv[4]
signal.signal(signal.SIGTERM, stop)
(folder / (name + ".begun")).write_text(str(time.time()))
time.sleep(seconds)
(folder / (name + ".ended")).write_text(str(time.time()))
print("what went wrong\\n") if code else None
sys.exit(code)
"""


@pytest.fixture
def recipe(tmp_path):
    """Three settings of the default recipe."""
    path = tmp_path / "recipe.py"
    path.write_text(
        "from configs import common\n"
        "def get_config(arg=''):\n"
        "    arg = common.parse_arg(arg, method='a')\n"
        "    return common.default()\n"
        "def sweep():\n"
        "    yield from ('method=a', 'method=b', 'method=c')\n"
    )
    return str(path)


@pytest.fixture
def children(monkeypatch, tmp_path):
    """Replaces the processes of settings by quick ones; gives the folder where they leave marks."""
    marks = tmp_path / "marks"
    marks.mkdir()
    plan = {"seconds": [0.0] * 3, "codes": [0] * 3}

    def command(self, index):
        words = [plan["seconds"][index], plan["codes"][index], "abc"[index]]
        return [sys.executable, "-c", CHILD, str(marks), *map(str, words)]

    monkeypatch.setattr(Sweep, "command", command)
    monkeypatch.setattr(sweep, "_have_data", lambda configs: None)
    monkeypatch.setattr(sweep, "POLL", 0.02)
    return marks, plan


def test_one_that_fails_does_not_stop_the_others(recipe, children, tmp_path, capsys):
    marks, plan = children
    plan["codes"][1] = 2
    with pytest.raises(UserError, match="1 of 3 settings failed: method=b; see .*logs; the same"):
        sweep.run(Sweep(recipe=recipe, workdir=str(tmp_path / "w")))
    assert {path.name for path in marks.glob("*.ended")} == {"a.ended", "b.ended", "c.ended"}
    assert (tmp_path / "w" / "logs" / "method=b.log").read_text() == "what went wrong\n\n"
    printed = capsys.readouterr().out
    assert "method=b failed: what went wrong" in printed
    lines = printed.splitlines()
    assert lines[0].split() == [
        "method", "clean", "PGD-20", "AutoAttack", "gap", "passes", "seconds"
    ]  # fmt: skip
    assert [line.split() for line in lines[2:5]] == [[name, *["-"] * 6] for name in "abc"]


def test_one_that_asks_for_it_is_started_again(recipe, children, tmp_path):
    _, plan = children
    plan["codes"][1] = 75
    with pytest.raises(UserError, match="1 of 3 settings failed: method=b"):
        sweep.run(Sweep(recipe=recipe, workdir=str(tmp_path / "w")))
    log = (tmp_path / "w" / "logs" / "method=b.log").read_text()
    assert log == sweep.STARTS * "what went wrong\n\n"


def test_one_process_of_several_runs_no_sweep(recipe, monkeypatch, tmp_path):
    step = dict(SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="1", SLURM_STEP_NODELIST="n[3-4]")
    for name, value in {**step, "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    whole = Sweep(recipe=recipe, workdir=str(tmp_path / "w"))
    for run in (lambda: sweep.run(whole), lambda: sweep.run_setting(whole, 0)):
        with pytest.raises(UserError, match=r"this is process 1 of 2 \(SLURM job 7\); train one"):
            run()
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_run_at_a_time(recipe, children, tmp_path, jobs):
    marks, plan = children
    plan["seconds"] = [0.6, 0.6, 0.0]
    sweep.run(Sweep(recipe=recipe, workdir=str(tmp_path / "w")), jobs)
    begun, ended = (
        {name: float((marks / f"{name}.{mark}").read_text()) for name in "abc"}
        for mark in ("begun", "ended")
    )
    assert (begun["b"] < ended["a"]) == (jobs == 2)
    assert begun["c"] > min(ended["a"], ended["b"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_settings_that_run(recipe, children, tmp_path, number):
    marks, plan = children
    plan["seconds"] = [60.0] * 3
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def pressed(seconds):
        if (marks / "a.begun").exists() and (marks / "b.begun").exists():
            os.kill(os.getpid(), number)
        time.sleep(min(seconds, 0.02))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            sweep, "time", type("Clock", (), dict(sleep=pressed, monotonic=time.monotonic))
        )
        sweep.run(Sweep(recipe=recipe, workdir=str(tmp_path / "w")), 2)
    assert {path.name for path in marks.glob("*.stopped")} == {"a.stopped", "b.stopped"}
    assert not list(marks.glob("*.ended")) and not (marks / "c.begun").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_setting_that_cannot_be_is_told_before_anything_runs(recipe, children, tmp_path):
    marks, _ = children
    with pytest.raises(UserError, match="config.eps=8 is not a radius"):
        sweep.run(Sweep(recipe=recipe, workdir=str(tmp_path / "w"), overrides=("eps=8",)))
    assert not list(marks.iterdir())


def test_missing_data_is_told_or_brought_before_anything_runs(recipe, tmp_path):
    pytest.importorskip("sklearn")
    with pytest.raises(UserError, match="'cifar10' is not prepared"):
        sweep.run(Sweep(recipe=recipe, workdir=str(tmp_path / "w"), data_dir=str(tmp_path / "d")))
    assert not (tmp_path / "w").exists()
    whole = Sweep(recipe=METHODS, workdir=str(tmp_path / "w"), data_dir=str(tmp_path / "d"))
    sweep._have_data([whole.config(whole.setting(0))])
    assert sources.find("digits", str(tmp_path / "d"))


def test_children_get_what_the_parent_was_given():
    whole = Sweep(
        recipe="r.py:smoke", workdir="w", overrides=("seed=3", "eps=1/2"), data_dir="d",
        num_examples=7, backend="torch",
    )  # fmt: skip
    assert whole.command(4)[1:] == [
        "-m", "score_jax", "sweep", "--config=r.py:smoke", "--workdir=w", "--sweep_index=4",
        "--data_dir=d", "--num_examples=7", "--backend=torch", "--config.seed=3",
        "--config.eps=1/2",
    ]  # fmt: skip


def test_settings_have_their_folders_and_commands(tmp_path):
    whole = Sweep(recipe=METHODS, workdir="runs/m", overrides=("seed=3",))
    setting = whole.setting(6)
    assert (setting.recipe, whole.folder(setting)) == (
        "configs/digits_methods.py:smoke,method=mart", Path("runs/m/method=mart"),
    )  # fmt: skip
    assert whole.config(setting).objective.name == "mart" and whole.config(setting).seed == 3
    assert whole.train_commands()[6] == (
        "score-jax train --config=configs/digits_methods.py:smoke,method=mart --config.seed=3 "
        "--workdir=runs/m/method=mart"
    )
    with pytest.raises(UserError, match="--sweep_index=99: .* has 18 settings, 0 to 17"):
        whole.setting(99)


@pytest.fixture
def stages(monkeypatch):
    """Replaces the four stages by ones that only leave their files; gives the list of calls."""
    calls = []

    def trained(config, folder):
        calls.append("train")
        place = open_workdir(folder, config, [])
        place.metrics.write_text("")
        place.record(model_passes=17)
        place.stop("finished")

    def exported(folder, checkpoint):
        calls.append("export")
        export = Workdir(Path(folder)).export
        export.mkdir(exist_ok=True)
        facts = {"sha256": {"model.safetensors": SHA}, "checkpoint": checkpoint}
        (export / "model.json").write_text(json.dumps(facts))

    def judged(folder, *, num_examples, name, **options):
        calls.append((name, num_examples))
        path = Workdir(Path(folder)).eval(name) / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        pgd = [{"name": "pgd20-cross_entropy", "accuracy": 0.75}]
        eps = {"value": 0.2, "written": "0.2"}
        path.write_text(json.dumps(dict(
            model_sha256=SHA, num_examples=num_examples or 359, clean_accuracy=0.9, norm="linf",
            robust_accuracy=0.5, eps=eps, attacks=pgd,
        )))  # fmt: skip

    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setattr(export, "export", exported)
    monkeypatch.setattr(evaluate, "evaluate", judged)
    monkeypatch.setattr(official_autoattack, "run", judged)
    return calls


def test_only_what_is_not_done_is_done(stages, tmp_path):
    def run(**changes):
        stages.clear()
        whole = Sweep(recipe=METHODS, workdir=str(tmp_path), **changes)
        folder = Path(sweep.run_setting(whole, 1))
        return folder, list(stages)

    folder, done = run(num_examples=8)
    assert done == ["train", "export", ("pgd20", 8), ("autoattack", 8)]
    assert run(num_examples=8)[1] == []
    assert run()[1] == [("pgd20", 0), ("autoattack", 0)]
    (folder / "eval" / "autoattack" / "result.json").unlink()
    assert run()[1] == [("autoattack", 0)]
    os.utime(folder / "metrics.jsonl", (time.time() + 9,) * 2)
    assert run()[1] == ["export"]
    os.utime(folder / "metrics.jsonl", (0, 0))
    export.export(str(folder), checkpoint="last")
    assert run()[1] == ["export"]
    Workdir(folder).stop("stopped")
    assert run()[1] == ["train", "export"]
    # Another config in the same folder is for the training to refuse.
    with pytest.raises(UserError, match="seed"):
        run(overrides=("seed=1",))


def test_the_table_has_what_was_found(stages, children, tmp_path):
    whole = Sweep(recipe=METHODS, workdir=str(tmp_path), num_examples=8)
    settings = whole.settings()
    sweep.run_setting(whole, 0)
    sweep.run_setting(whole, 11)
    rows = [sweep_table.row(each, whole.folder(each), {}) for each in settings]
    table = sweep_table.write(tmp_path, METHODS, rows).splitlines()
    assert table[2].split() == ["natural", "90.0%", "75.0%", "50.0%", "25.0%", "17", "0"]
    assert table[3].split() == ["at", *["-"] * 6]
    assert table[13].split()[0] == "gair-trades"
    assert "first 8 test images" in table[-1]
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["rows"][0]["gap"] == 0.25 and saved["rows"][1]["clean"] is None
    markdown = (tmp_path / "table.md").read_text().splitlines()
    assert markdown[0] == "| method | clean | PGD-20 | AutoAttack | gap | passes | seconds |"
    assert markdown[2] == "| natural | 90.0% | 75.0% | 50.0% | 25.0% | 17 | 0 |"
    assert len(markdown) == 2 + len(settings)


@pytest.mark.slow
def test_a_setting_is_really_trained_and_judged(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    prepare.prepare("digits", data_dir=str(tmp_path / "data"))
    whole = Sweep(
        recipe=METHODS, workdir=str(tmp_path / "w"), data_dir=str(tmp_path / "data"),
        num_examples=4, overrides=("num_epochs=1",),
    )  # fmt: skip
    folder = Path(sweep.run_setting(whole, 0))
    setting = whole.setting(0)
    row = sweep_table.row(setting, folder, {})
    assert row["num_examples"] == 4 and row["passes"] == 3 and row["seconds"] is not None
    assert (
        0 <= row["autoattack"] <= row["clean"] <= 1 and row["gap"] == row["pgd"] - row["autoattack"]
    )
    assert config_module.to_dict(whole.config(setting)) == json.loads(
        (folder / "config.json").read_text()
    )


def test_a_sweep_needs_settings(tmp_path):
    with pytest.raises(UserError, match="no function sweep"):
        sweep.run(Sweep(recipe="configs/digits_natural.py", workdir=str(tmp_path / "w")))


@pytest.mark.parametrize(
    ("platforms", "accelerator", "cores", "jobs"),
    [
        ("cpu", True, 2, 2),
        ("cpu", False, 64, 4),
        ("", False, 2, 2),
        ("", True, 64, 1),
        ("cuda,cpu", False, 8, 1),
    ],
)
def test_cores_are_shared_where_there_is_nothing_else(
    monkeypatch, platforms, accelerator, cores, jobs
):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(mesh, "has_accelerator", lambda: accelerator)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert sweep.default_jobs() == jobs
