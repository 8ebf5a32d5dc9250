"""A stuck process ends, tells what it was doing, and asks for a restart; a slow one goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from score_jax import checkpoint, workdir
from score_jax.watchdog import EXIT_CODE, GUARD_SECONDS
from tests.train_test import OVERRIDES, REPOSITORY

# Runs with a limit of a tenth of a second: 0.3 s until anything was seen.
PROGRAM = """
import sys, time
from pathlib import Path
from score_jax.watchdog import Watchdog

def stuck_in_a_collective():
    time.sleep(60)

def on_a_dead_disk():
    time.sleep(60)

def run(watchdog):
{body}

log = Path(sys.argv[1])
with Watchdog({minutes}, 5, log=log, latest={latest}, process=1, num_processes=4) as watchdog:
    run(watchdog)
print("done", flush=True)
"""


def start(log, body, minutes="0.1 / 60", latest="lambda: 5"):
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    program = PROGRAM.format(body=lines, minutes=minutes, latest=latest)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(log)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


STUCK = {
    "in training after step 7": """
for step in range(8):
    time.sleep(0.01)
    watchdog.beat(step)
stuck_in_a_collective()""",
    "in validation after step 7": """
watchdog.beat(7)
with watchdog.doing("validation"):
    watchdog.alive()
    stuck_in_a_collective()""",
    "in training before the first step": """
with watchdog.doing("compiling"):
    time.sleep(0.5)
stuck_in_a_collective()""",
}


@pytest.mark.parametrize("where", STUCK)
def test_a_stuck_process_ends_with_75_and_its_stacks(tmp_path, where):
    log = tmp_path / "host-0001.log"
    process = start(log, STUCK[where])
    out, error = process.communicate(timeout=30)
    assert process.returncode == EXIT_CODE == 75
    assert out == ""
    (line,) = error.strip().splitlines()
    assert line.startswith("critical: process 1 of 4: nothing happened for 0.")
    assert f" {where};" in line and str(log) in line
    assert line.endswith("the same command goes on from the last checkpoint, step 5")
    text = log.read_text()
    assert line.removeprefix("critical: ") in text
    assert "in stuck_in_a_collective" in text and "most recent call first" in text


SLOW = """
with watchdog.doing("compiling"):
    time.sleep(1.0)
with watchdog.doing("restoring"):
    time.sleep(0.45)
for _ in range(3):
    with watchdog.doing("checkpoint"):
        time.sleep(0.001)
with watchdog.doing("checkpoint"):
    time.sleep(0.45)
time.sleep(0.2)
watchdog.beat(0)
for step in range(1, 4):
    time.sleep(0.2)
    watchdog.beat(step)
time.sleep(0.8)
watchdog.beat(4)
with watchdog.doing("validation"):
    for _ in range(8):
        time.sleep(0.2)
        watchdog.alive()
with watchdog.doing("input"):
    time.sleep(0.5)
"""


def test_a_slow_process_goes_on(tmp_path):
    """Long: a compilation, reading and a last save, the first step, another one, a validation."""
    process = start(tmp_path / "log", SLOW)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out, error) == (0, "done\n", "")


# Each step is longer than its parts: after a pause none is there at once.
STEPS = """
for step in range(15):
    for _ in range(10):
        time.sleep(0.01)
    watchdog.beat(step)
    print(step, flush=True)"""


def test_a_process_that_was_stopped_and_continued_goes_on(tmp_path):
    process = start(tmp_path / "log", STEPS)
    for _ in range(5):
        process.stdout.readline()
    time.sleep(0.05)  # In the midst of a step, of which the thread knows.
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(GUARD_SECONDS + 1.0)
    os.kill(process.pid, signal.SIGCONT)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    assert out.endswith("14\ndone\n")


# A call of C through PyDLL keeps the interpreter's lock.
LOCKED = """
import ctypes
def keeps_the_lock():
    ctypes.PyDLL(None).sleep(60)
watchdog.beat(3)
keeps_the_lock()"""


def test_a_process_whose_interpreter_is_locked_is_killed(tmp_path):
    process = start(tmp_path / "log", LOCKED)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (-signal.SIGKILL, "")
    assert "process 1 of 4: no thread of Python could run for 3.0 s" in error
    text = (tmp_path / "log").read_text()
    assert "in keeps_the_lock" in text and "no thread of Python" in text


MUTE = """
import os, score_jax.watchdog
score_jax.watchdog.REPORT_SECONDS = 0.5
os.remove(sys.argv[1])
os.mkfifo(sys.argv[1])  # Nobody reads: opening it waits for ever.
stuck_in_a_collective()"""


def test_a_log_that_does_not_answer_does_not_keep_the_process(tmp_path):
    process = start(tmp_path / "log", MUTE, latest="on_a_dead_disk")
    _, error = process.communicate(timeout=30)
    assert process.returncode == EXIT_CODE
    assert "nothing happened" in error
    assert error.strip().endswith("the same command goes on from the last checkpoint")


def test_a_process_without_a_checkpoint_says_so(tmp_path):
    process = start(tmp_path / "log", "stuck_in_a_collective()", latest="lambda: None")
    assert "begins again: there is no checkpoint yet" in process.communicate(timeout=30)[1]


def test_zero_minutes_turn_it_off(tmp_path):
    process = start(tmp_path / "log", "time.sleep(0.5)", minutes="0")
    assert process.communicate(timeout=30) == ("done\n", "")


# The run of train_test, whose data stop coming at a step.
STALLED = """
import sys, time
from score_jax import train, writers
from score_jax.data import pipeline
from tests.helpers import digits_config

whole = pipeline.train_batches
def batches_that_stop(config, start, count, **given):
    for number, batch in enumerate(whole(config, start, count, **given), start):
        if number == 9:
            time.sleep(1000)
        yield batch

pipeline.train_batches = batches_that_stop
writers.start_logging()
train.train(digits_config(*sys.argv[2:]), sys.argv[1])
"""


@pytest.mark.slow
def test_a_run_whose_data_stop_coming_asks_for_a_restart(data_dir, tmp_path):
    folder = tmp_path / "run"
    overrides = [*OVERRIDES, f"data.dir={data_dir}", "checkpoint.every_epochs=1"]
    run = subprocess.run(
        [sys.executable, "-c", STALLED, str(folder), *overrides, "watchdog.minutes=0.1"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert run.returncode == EXIT_CODE, run.stderr
    assert "in input after step 9;" in run.stderr
    assert run.stderr.strip().endswith("goes on from the last checkpoint, step 6")
    assert "in batches_that_stop" in workdir.find_workdir(folder).log(0).read_text()
    assert checkpoint.latest_step(folder) == 6
