"""A stop wherever it comes: while waiting for data, in the middle of a validation."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from score_jax import checkpoint, mesh, metrics, recipes, train, train_loop, workdir
from score_jax.data import pipeline
from score_jax.types import UserError
from tests.helpers import digits_config
from tests.train_test import (
    OVERRIDES,
    REPOSITORY,
    assert_same_run,
    metric_lines,
)

# The run of train_test, with data that stop coming at a step, or a validation that is told of.
SCRIPT = """
import sys, time
from score_jax import evaluation, train, writers
from score_jax.data import pipeline
from tests.helpers import digits_config

folder, kind, step, *overrides = sys.argv[1:]
whole, accuracies = pipeline.train_batches, evaluation.accuracies

def batches(config, start, count, **given):
    for number, batch in enumerate(whole(config, start, count, **given), start):
        if number == int(step):
            print("stalled", flush=True)
            time.sleep(1000)
        yield batch

def slow(evaluate, params, statistics, batches, key, is_stopped):
    print("validating", flush=True)
    while not is_stopped():
        time.sleep(0.05)
    return None

if kind == "data":
    pipeline.train_batches = batches
else:
    evaluation.accuracies = slow
writers.start_logging()
try:
    train.train(digits_config(*overrides), folder)
except KeyboardInterrupt:
    sys.exit(130)
"""


def stopped_run(folder: Path, data_dir: str, kind: str, step: int) -> str:
    overrides = [*OVERRIDES, f"data.dir={data_dir}"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), kind, str(step), *overrides],
        cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4",
             "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert process.stdout.readline(), process.communicate()[1]
    time.sleep(2.0)  # The steps before are done; then nothing is left but the wait.
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and time.monotonic() - begin < 30
    return errors


@pytest.mark.slow
def test_a_stop_is_heard_while_waiting_for_data(data_dir, tmp_path):
    errors = stopped_run(tmp_path / "run", data_dir, "data", 10)
    assert "stopped and saved at step 10" in errors
    assert checkpoint.latest_step(tmp_path / "run") == 10


@pytest.mark.slow
def test_a_stop_in_a_validation_saves_and_the_validation_comes_later(
    data_dir,
    tmp_path,
):
    errors = stopped_run(tmp_path / "run", data_dir, "validation", 6)
    assert "stopped and saved at step 6" in errors
    assert checkpoint.latest_step(tmp_path / "run") == 6
    assert not any("val/clean_accuracy" in line for line in metric_lines(tmp_path / "run"))

    config = digits_config(*OVERRIDES, f"data.dir={data_dir}")
    for name in ("run", "whole"):
        assert train.train(config, str(tmp_path / name))["steps"] == 24
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    record = json.loads(workdir.find_workdir(tmp_path / "run").run.read_text())
    assert [entry["outcome"] for entry in record["history"]] == ["stopped", "finished"]


@pytest.mark.parametrize("is_full", [False, True])
def test_an_error_of_the_input_ends_the_run_when_the_state_is_saved(is_full, data_dir, monkeypatch):
    config = digits_config(
        *OVERRIDES, f"data.dir={data_dir}", "log.every_steps=9", "checkpoint.every_minutes=0"
    )
    saved = []

    def save(state, best, *, is_validated):
        if is_full:
            raise UserError("the disk is full")
        saved.append((state.step, is_validated))

    def take(is_stopped):
        if state.step == 2:
            raise UserError("a shard is damaged")
        return {}

    def step_fn(state, batch, key):
        state.step += 1
        return state, ()

    monkeypatch.setattr(metrics, "check", lambda health, saved_step: None)
    loop = train_loop.Loop(
        config, recipes.build(config), mesh.create(), place=None, keys=[None, None],
        checkpoints=SimpleNamespace(save=save, check=print, wait=lambda: saved.append("all")),
        watchdog=SimpleNamespace(doing=contextlib.nullcontext, beat=print),
        data=pipeline.open_training_data(config),
    )  # fmt: skip
    loop.step, loop._begun_step, state = 0, 0, SimpleNamespace(step=0, sums={"health": None})
    stop = SimpleNamespace(poll=lambda: False, poll_waiting=None)
    with pytest.raises(UserError, match="a shard is damaged"):
        loop._turns(step_fn, state, checkpoint.Best(), SimpleNamespace(take=take), {}, stop, True)
    assert saved == ([] if is_full else [(2, False), "all"])


@pytest.mark.slow
def test_a_run_goes_on_where_an_error_of_the_input_ended_it(data_dir, tmp_path, monkeypatch):
    whole = pipeline.train_batches

    def batches(config, start, count, **given):
        for number, batch in enumerate(whole(config, start, count, **given), start):
            if number == 10:
                raise UserError("a shard is damaged")
            yield batch

    config = digits_config(*OVERRIDES, f"data.dir={data_dir}")
    monkeypatch.setattr(pipeline, "train_batches", batches)
    with pytest.raises(UserError, match="a shard is damaged"):
        train.train(config, str(tmp_path))
    assert checkpoint.latest_step(tmp_path) == 10
    monkeypatch.undo()
    assert train.train(config, str(tmp_path))["steps"] == 24
