import json
import os
import subprocess
import sys
from datetime import datetime

import pytest

from score_jax import config as config_module
from score_jax import overrides, workdir
from score_jax.types import UserError
from tests.pods import Pod


def changed(*texts):
    return overrides.apply(config_module.default(), texts)


def open_run(path, *texts, **fields):
    return workdir.open_workdir(path, changed(*texts), ["score-jax", "train"], **fields)


def test_a_new_folder_holds_config_and_record(tmp_path):
    run = open_run(tmp_path / "a" / "b", devices=["cpu0"])
    assert run.read_config().to_dict() == config_module.default().to_dict()
    record = json.loads(run.run.read_text())
    assert record["argv"] == ["score-jax", "train"]
    assert record["config"] == config_module.to_dict(config_module.default())
    assert record["devices"] == ["cpu0"]
    assert record["versions"]["jax"]
    assert [sorted(start) for start in record["history"]] == [["argv", "host", "pid", "start"]]
    assert datetime.fromisoformat(record["history"][0]["start"]).tzinfo
    assert run.checkpoints.is_dir() and run.best.is_dir() and run.logs.is_dir()


def test_the_names_in_a_folder(tmp_path):
    run = workdir.Workdir(tmp_path)
    named = [run.config, run.run, run.metrics, run.tensorboard, run.logs, run.log(3), run.export]
    named += [run.checkpoints, run.best, run.eval("pgd40"), run.report, run.plots]
    assert [str(path.relative_to(tmp_path)) for path in named] == (
        "config.json run.json metrics.jsonl tb logs logs/host-0003.log export "
        "checkpoints checkpoints_best eval/pgd40 report.html plots"
    ).split()


def test_the_same_config_goes_on_and_history_grows(tmp_path):
    open_run(tmp_path).stop("stopped", step=7)
    (tmp_path / "metrics.jsonl").write_text("kept")
    open_run(tmp_path).stop("finished")
    record = json.loads((tmp_path / "run.json").read_text())
    assert [start["outcome"] for start in record["history"]] == ["stopped", "finished"]
    assert record["history"][0]["step"] == 7
    assert (tmp_path / "metrics.jsonl").read_text() == "kept"


def test_another_config_is_refused_and_the_difference_named(tmp_path):
    open_run(tmp_path, "objective.beta=4")
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError) as refusal:
        open_run(tmp_path, "objective.beta=5")
    assert f"workdir {tmp_path} holds a run with another config" in str(refusal.value)
    assert "(objective.beta: 4.0 there, 5.0 here); use a new --workdir" in str(refusal.value)
    assert (tmp_path / "config.json").read_text() == before


def test_many_differences_are_counted(tmp_path):
    open_run(tmp_path)
    with pytest.raises(UserError, match="and 1 more"):
        open_run(tmp_path, "objective.beta=5", "seed=1", "num_epochs=1", "ema.decay=0",
                 "steps_per_epoch=3")  # fmt: skip


def test_other_data_are_refused_before_anything_is_overwritten(tmp_path):
    data = {"cifar10": "a" * 64, "pseudo-labels of made": "b" * 64}
    run = open_run(tmp_path, data=data)
    open_run(tmp_path, "data.dir=/elsewhere", data=data)
    before = run.run.read_text(), run.config.read_text()
    with pytest.raises(UserError) as refusal:
        open_run(tmp_path, data=data | {"pseudo-labels of made": "c" * 64})
    assert "begun with another pseudo-labels of made (fingerprint bbbbbbbbbbbb there, " in str(
        refusal.value
    )
    assert "cccccccccccc here); give back" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="pseudo-labels of made .fingerprint bbbbbbbbbbbb there, n"):
        open_run(tmp_path, data={"cifar10": "a" * 64})
    assert (run.run.read_text(), run.config.read_text()) == before


def test_a_run_that_noted_no_data_goes_on_as_it_was(tmp_path):
    run = open_run(tmp_path)
    record = json.loads(run.run.read_text())
    del record["data_fingerprints"]
    run.run.write_text(json.dumps(record))
    for digit in "ab":
        open_run(tmp_path, data={"cifar10": digit * 64})
    assert json.loads(run.run.read_text())["data_fingerprints"] == {}


@pytest.mark.parametrize(
    "text", ["data.dir=/elsewhere", "log.every_steps=7", "checkpoint.keep=3", "data.prefetch=1"]
)
def test_what_changes_no_number_may_change(tmp_path, text):
    open_run(tmp_path)
    open_run(tmp_path, text)
    assert config_module.to_dict(workdir.find_workdir(tmp_path).read_config()) == (
        config_module.to_dict(changed(text))
    )


def test_the_name_of_the_data_may_not_change(tmp_path):
    open_run(tmp_path)
    with pytest.raises(UserError, match="data.name: 'cifar10' there, 'mnist' here"):
        open_run(tmp_path, "data.name=mnist")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(UserError) as refusal:
        open_run(tmp_path)
    assert f"workdir {tmp_path} is not the folder of a run" in str(refusal.value)
    assert "thesis.tex" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("path", ["file/run", "file"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not writable .*; use another --workdir"):
        open_run(tmp_path / path)


def test_a_read_only_folder_is_one_line(tmp_path):
    if os.geteuid() == 0:  # Root writes everywhere but in kernel folders.
        folder = "/proc/score_jax"
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="is not writable"):
        open_run(folder)


def test_a_bucket_is_refused():
    with pytest.raises(UserError, match="mount the bucket"):
        open_run("gs://bucket/run")


def test_other_processes_check_and_write_nothing(tmp_path):
    run = open_run(tmp_path / "run", primary=False)
    assert not run.path.exists()
    open_run(tmp_path / "run")
    with pytest.raises(UserError, match="another config"):
        open_run(tmp_path / "run", "seed=3", primary=False)


def test_a_start_cut_short_is_taken_up(tmp_path):
    (tmp_path / ".config.json.77.tmp").write_text("{")
    open_run(tmp_path).run.unlink()
    assert json.loads(open_run(tmp_path).run.read_text())["history"]


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_broken_config_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="is not the config of a run"):
        open_run(tmp_path)


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run: it has no config.json"):
        workdir.find_workdir(tmp_path)


def test_an_interrupted_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    workdir.write_json_atomic(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError):
        workdir.write_json_atomic(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_numbers_that_json_cannot_say_are_refused(tmp_path):
    with pytest.raises(ValueError):
        workdir.write_json_atomic(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_commit_is_that_of_the_source_not_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    state = workdir.git_state()
    expected = subprocess.run(
        ["git", "-C", str(overrides.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    assert (state["commit"] if state else "") == expected.stdout.strip()


def test_versions_name_what_is_installed():
    versions = workdir.library_versions()
    assert versions["numpy"] == sys.modules["numpy"].__version__
    assert "not-a-library" not in versions


@pytest.mark.slow
def test_several_processes_open_one_folder_and_keep_a_log_each(tmp_path):
    with Pod("folder", FOLDER_0=str(tmp_path / "run"), FOLDER_1=str(tmp_path / "run")) as pod:
        ended = pod.end()
    assert [end.code for end in ended.values()] == [0, 0], ended
    (start,) = json.loads((tmp_path / "run" / "run.json").read_text())["history"]
    assert start["processes"] == 2 and len(start["hosts"]) == 2
    logs = [(tmp_path / "run" / "logs" / f"host-000{i}.log").read_text() for i in (0, 1)]
    assert all("INFO opened" in log and "WARNING hot" in log for log in logs)
    assert "opened" in ended[0].errors and "warning: hot" in ended[0].errors
    assert "opened" not in ended[1].errors and "process 1: warning: hot" in ended[1].errors


@pytest.mark.slow
def test_a_folder_that_not_all_processes_see_is_refused(tmp_path):
    with Pod("folder", FOLDER_0=str(tmp_path / "a"), FOLDER_1=str(tmp_path / "b")) as pod:
        ended = pod.end()
    assert [end.code for end in ended.values()] == [2, 2], ended
    line = ended[1].errors.splitlines()[-1]
    assert f"does not see {tmp_path / 'b'} of process 0 on" in line
    assert "--workdir must be on a file system that all hosts share" in line
    assert line.removeprefix("score-jax task: ") in ended[0].errors
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_processes_of_different_configs_are_refused(tmp_path):
    path = str(tmp_path / "run")
    with Pod("folder", FOLDER_0=path, FOLDER_1=path, REFUSED="1") as pod:
        ended = pod.end()
    assert [end.code for end in ended.values()] == [2, 2], ended
    for end in ended.values():
        assert "was started otherwise than process 0 on" in end.errors
        assert "(config.seed: 0, and 5 in process 0); start all 2 processes with" in end.errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_different_data_are_refused(tmp_path):
    path = str(tmp_path / "run")
    with Pod("folder", FOLDER_0=path, FOLDER_1=path, DATA_1="b") as pod:
        ended = pod.end()
    assert [end.code for end in ended.values()] == [2, 2], ended
    for end in ended.values():
        assert "process 1 on" in end.errors and "Traceback" not in end.errors
        assert "(fingerprint.cifar10: 'bbbbbbbbbbbb', and 'aaaaaaaaaaaa' in proc" in end.errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_process_0_refuses_ends_all(tmp_path):
    path = str(tmp_path)
    open_run(path)
    with Pod("folder", FOLDER_0=path, FOLDER_1=path, SEED="5") as pod:
        ended = pod.end()
    assert [end.code for end in ended.values()] == [2, 2], ended
    assert "holds a run with another config (seed: 0 there, 5 here)" in ended[0].errors
    assert "process 0 on" in ended[1].errors
