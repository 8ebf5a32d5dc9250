"""slurm.sh and slurm.sbatch: what is submitted, and what comes after the tasks' exit codes."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests import launchers
from tests.launchers import LAUNCH, ROOT, launch, wait_for


@pytest.fixture
def stub(tmp_path, monkeypatch):
    yield from launchers.stub(tmp_path, monkeypatch)


def test_slurm_chains_and_arrays():
    chain = launch("slurm.sh --nodes=4 --chain=3 --dry-run train --config=a.py").stdout
    assert re.findall(r"--dependency=(\S+)", chain) == ["afterany:JOBID1", "afterany:JOBID2"]
    assert chain.count("--nodes=4") == 3 and chain.count("SCORE_JAX_MAX_REQUEUES=0") == 3
    array = launch("slurm.sh --sweep=0-8%2 --time=1:00:00 --dry-run train").stdout
    assert "--array=0-8%2" in array and "--time=1:00:00" in array
    assert "SCORE_JAX_MAX_REQUEUES=100" in array and "SCORE_JAX_MAX_RESTARTS=10" in array


# srun is as many tasks as there are, each of which does what STUB says, and returns the highest
# code, or SRUN; squeue tells END; scontrol writes what it is asked. A signal of scancel meets shell
# and tasks.
FAKE_SLURM = """#!/usr/bin/env bash
case "${0##*/}" in
  srun)
    pids=() code=0
    for ((i = 0; i < SLURM_NTASKS; i++)); do
      SLURM_PROCID=$i "${@:3}" &
      pids+=("$!") ; echo "$!" > "$STUB_FOLDER/task$i"
    done
    for pid in "${pids[@]}"; do
      status=0; wait "$pid" || status=$?
      [ "$status" -le "$code" ] || code=$status
    done
    exit "${SRUN:-$code}" ;;
  squeue) [ -z "$END" ] || echo "$END" ; [ -n "$END" ] ;;
  scontrol)
    case "$*" in
      'show hostnames '*) printf 'node7\\nnode8\\n' ;;
      '--oneliner show node node7') echo 'NodeName=node7 NodeAddr=10.0.0.7 Version=22' ;;
      *) echo "$*" >> "$STUB_FOLDER/scontrol" ;;
    esac ;;
esac
"""


@pytest.fixture
def batch(stub, monkeypatch):
    tools = stub / "tools"
    tools.mkdir()
    for name in ("srun", "scontrol", "squeue"):
        (tools / name).write_text(FAKE_SLURM)
        (tools / name).chmod(0o755)
    for name, value in dict(
        PATH=f"{tools}:{os.environ['PATH']}", SLURM_JOB_ID="12345", SLURM_NTASKS="2",
        SLURM_JOB_NODELIST="node[7-8]", SCORE_JAX_MAX_REQUEUES="5", SCORE_JAX_MAX_RESTARTS="2",
        END="2099-01-01T00:00:00",
    ).items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return stub


def is_requeued(batch):
    calls = batch / "scontrol"
    told = calls.read_text() if calls.exists() else ""
    calls.unlink(missing_ok=True)
    assert told in ("", "requeue 12345\n")
    return bool(told)


@pytest.mark.parametrize(
    ("codes", "restarts", "code", "asked"),
    [("0 0", 0, 0, False), ("130 130", 4, 130, True), ("130 75", 0, 75, True),
     ("75 137", 0, 137, True), ("75 2", 0, 2, False), ("139 1", 0, 1, False),
     ("75 1", 0, 1, False), ("1 2", 0, 2, False), ("75 253", 0, 253, False),
     ("130 130", 5, 130, False), ("130 143", 0, 143, True)],
)  # fmt: skip
def test_the_batch_script_requeues_what_can_go_on(batch, codes, restarts, code, asked):
    one, other = codes.split()
    ran = launch("slurm.sbatch train --config=a.py", cwd=batch, STUB_0=one, STUB_1=other,
                 SLURM_RESTART_COUNT=str(restarts), SLURM_ARRAY_TASK_ID="3")  # fmt: skip
    assert ran.returncode == code, ran.stderr
    words = "train --config=a.py --sweep_index=3 --coordinator=10.0.0.7:22345 --num_processes=2"
    assert sorted(ran.stdout.splitlines()) == [
        f"process {i}: {words} --process_id={i}" for i in range(2)
    ]
    assert is_requeued(batch) == asked


def test_out_of_memory_is_not_requeued(batch):
    """SLURM says so by srun's own code; the task it was saw a signal."""
    ran = launch("slurm.sbatch train", cwd=batch, STUB_0="137", STUB_1="75", SRUN="253")
    assert ran.returncode == 253 and not is_requeued(batch)


def test_what_comes_again_by_itself_is_requeued_a_few_times_in_a_row(batch):
    def again(*codes):
        asked = []
        for code in codes:
            ran = launch("slurm.sbatch train", cwd=batch, STUB_0="0", STUB_1=str(code))
            asked.append(is_requeued(batch))
        return asked, ran.stderr

    assert again(75, 139, 130, 75, 137)[0] == [True] * 5
    asked, told = again(75)
    assert asked == [False] and "3 times in a row, SCORE_JAX_MAX_RESTARTS=2: not again" in told
    assert not (batch / "runs/.slurm").exists()


@pytest.mark.parametrize(
    ("end", "asked"),
    [("2099-01-01T00:00:00", False), ("2001-01-01T00:00:00", True), ("", False), ("N/A", False)],
)
def test_a_job_that_slurm_ends_before_its_limit_is_not_requeued(batch, end, asked):
    words = ["bash", str(LAUNCH / "slurm.sbatch"), "train"]
    environment = os.environ | dict(STUB_0="wait", STUB_1="wait", END=end)
    job = subprocess.Popen(words, env=environment, cwd=batch, text=True, stderr=subprocess.PIPE)
    wait_for(batch / "pid0", batch / "pid1")
    time.sleep(0.2)  # Their traps.
    for pid in (job.pid, *(int((batch / f"task{i}").read_text()) for i in range(2))):
        os.kill(pid, signal.SIGTERM)
    _, errors = job.communicate(timeout=20)
    assert job.returncode == 130, errors
    assert is_requeued(batch) == asked, errors
    # The signal met the tasks' shells alone.
    assert [(batch / f"stops{i}").read_text() for i in range(2)] == ["stop\n"] * 2


@pytest.mark.slow
def test_a_run_on_a_slurm_cluster_is_preempted_and_finishes():
    missing = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch")
        if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    ]  # fmt: skip
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurmctld slurmd munge")
    ran = subprocess.run(
        [ROOT / "benchmarks/slurm_cluster.sh"], text=True, capture_output=True, timeout=900,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "saved, requeued and finished" in ran.stdout
    assert ran.stdout.count("stopped and saved at step") == 2
