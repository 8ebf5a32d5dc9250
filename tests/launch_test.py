"""Launchers on this machine: help, errors, dry runs; local_pod.sh and slurm.sbatch with a stub."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.s*"), *ROOT.glob("benchmarks/*.sh"), ROOT / ".ci/run"])
# Each with the words that it needs for a dry run.
LAUNCHERS = {
    "local_pod.sh": "2 train --config=a.py",
    "tpu_vm.sh": "run r --zone=z --type=v5litepod-16 train --config=a.py",
    "tpu_worker.sh": "start train --config=a.py",
    "gke.sh": "--image=i --tpu=v5e:4x4 train --config=a.py",
    "slurm.sh": "train --config=a.py",
}
# Writes its words, then does what STUB_<process> says: an exit code, `once` 75 and then 0; or goes
# on: until it is told to stop with `wait` (130) and `late` (75), for ever with `hang`.
STUB = """#!/usr/bin/env bash
id="${@: -1}" id="${id#*=}"
echo "process $id: $*"
echo "$$" > "$STUB_FOLDER/pid$id"
what="STUB_$id" what="${!what:-0}"
stopped() {
  echo stop >> "$STUB_FOLDER/stops$id"
  case "$what" in wait) exit 130 ;; late) exit 75 ;; esac
}
trap stopped TERM INT
case "$what" in
  hang | wait | late) while :; do sleep 0.05; done ;;
  once) [ -e "$STUB_FOLDER/done$id" ] && exit 0; touch "$STUB_FOLDER/done$id"; exit 75 ;;
esac
exit "$what"
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    path = tmp_path / "stub.sh"
    path.write_text(STUB)
    path.chmod(0o755)
    monkeypatch.setenv("SCORE_JAX", str(path))
    monkeypatch.setenv("STUB_FOLDER", str(tmp_path))
    yield tmp_path
    for pid in tmp_path.glob("pid*"):
        subprocess.run(["kill", "-KILL", pid.read_text().strip()], stderr=subprocess.DEVNULL)


def launch(words, **environment):
    name, *rest = shlex.split(words)
    return subprocess.run(
        ["bash", str(LAUNCH / name), *rest],
        text=True, capture_output=True, timeout=60, env=os.environ | environment,
    )  # fmt: skip


def wait_for(*paths):
    deadline = time.monotonic() + 20
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < deadline, f"not all written: {paths}"
        time.sleep(0.02)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_shellcheck_finds_nothing():
    found = subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, text=True, capture_output=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_names_every_option_and_a_dry_run_runs_nothing(name):
    told = launch(f"{name} --help")
    assert told.returncode == 0 and f"launch/{name}" in told.stdout
    taken = re.search(r"\nparse (.*?)\d \"\$@\"", (LAUNCH / name).read_text(), re.S).group(1)
    for option in re.findall(r"\w+", taken):
        assert f"--{option.replace('_', '-')}" in told.stdout
    # No tool of any cluster is on this PATH, and nothing can be written.
    dry = launch(f"{name} {LAUNCHERS[name]} --dry-run", PATH="/usr/bin:/bin", HOME="/nonexistent")
    assert dry.returncode == 0, dry.stderr
    assert "train" in dry.stdout and "--config=a.py" in dry.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("local_pod.sh", "how many processes"),
        ("local_pod.sh 0 train", "N=0 is less than 1"),
        ("local_pod.sh 2", "no job"),
        ("local_pod.sh 2 --restarts=3 train", "unknown option --restarts=3; known:"),
        ("local_pod.sh 2 --restart", "--restart has no value"),
        ("local_pod.sh 2 --sweep=3-1 train", "ends before it begins"),
        ("tpu_vm.sh walk r", "unknown action 'walk'"),
        ("tpu_vm.sh run r train", "--zone=ZONE is needed"),
        ("tpu_vm.sh run r --zone=z --dry-run train", "--type=TYPE is needed"),
        ("tpu_vm.sh run r --zone=z --type=v4-8 --spot --flex=1h --dry-run train", "exclude"),
        ("gke.sh train", "--image=IMAGE is needed"),
        ("gke.sh --image=i --tpu=v9:4x4 train", "unknown generation 'v9'"),
        ("gke.sh --image=i --tpu=v5e:4x4 --chips-per-vm=3 train", "no multiple"),
        ("gke.sh --image=i --gpu=h100 train", "no number"),
        ("gke.sh --image=i --tpu=v5e:4x4 --name=Run train", "--name=Run"),
        ("slurm.sh --nodes=2", "no job"),
        ("slurm.sh --chain=2 --sweep=0-3 --dry-run train", "do not go together"),
        ("slurm.sbatch train", "not inside of a SLURM job"),
    ],
)
def test_mistakes_are_one_line(words, message):
    said = launch(words)
    assert said.returncode == 2
    assert message in said.stderr and said.stderr.count("\n") == 1 and not said.stdout


def test_local_pod_gives_each_process_its_place(stub):
    ran = launch("local_pod.sh 3 --devices-per-process=2 train --config=a.py --config.name='a b'")
    assert ran.returncode == 0, ran.stderr
    lines = sorted(re.sub(r"127.0.0.1:\d+", "HERE", ran.stdout).splitlines())
    words = "train --config=a.py --config.name=a b --coordinator=HERE --num_processes=3"
    assert lines == sorted(
        f"{'' if i == 0 else f'[{i}] '}process {i}: {words} --process_id={i}" for i in range(3)
    )
    dry = launch("local_pod.sh 3 --devices-per-process=2 --dry-run train --config.name='a b'")
    assert dry.stdout.count("JAX_NUM_CPU_DEVICES=2") == 3
    assert shlex.split(dry.stdout.splitlines()[2])[-4:] == [
        "--config.name=a b", "--coordinator=127.0.0.1:PORT", "--num_processes=3",
        "--process_id=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("codes", "worst"),
    [((0, 0), 0), ((75, 0), 75), ((130, 75), 75), ((75, 2), 2), ((1, 75), 1), ((1, 2), 2)],
)
def test_local_pod_ends_with_the_worst_code(stub, codes, worst):
    ran = launch("local_pod.sh 2 train", STUB_0=str(codes[0]), STUB_1=str(codes[1]))
    assert ran.returncode == worst
    assert ran.stderr.count("the first to end") == (1 if any(codes) else 0)


def test_local_pod_starts_again_what_asks_for_it(stub):
    ran = launch("local_pod.sh 2 --restart=3 train", STUB_0="once", STUB_1="once")
    assert ran.returncode == 0
    assert "restart 1 of at most 3" in ran.stderr and "restart 2" not in ran.stderr
    assert launch("local_pod.sh 2 --restart=3 train", STUB_1="2").stderr.count("restart") == 0
    ran = launch("local_pod.sh 1 --restart=2 train", STUB_0="75")
    assert ran.returncode == 75 and ran.stdout.count("process 0:") == 3


def test_local_pod_runs_a_sweep_and_writes_logs(stub):
    ran = launch(f"local_pod.sh 2 --sweep=0,2-3 --logs={stub}/logs train")
    assert re.findall(r"--sweep_index=(\d)", ran.stdout) == ["0", "2", "3"]
    log = (stub / "logs/process-1.log").read_text()
    assert re.findall(r"--sweep_index=(\d)", log) == ["0", "2", "3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("other", "code"), [("wait", 130), ("late", 75)])
def test_local_pod_passes_a_signal_on_once_and_starts_nothing_again(stub, number, other, code):
    environment = os.environ | dict(STUB_0="wait", STUB_1=other)
    words = [str(LAUNCH / "local_pod.sh"), "2", "--restart=3", "train"]
    pod = subprocess.Popen(words, env=environment, text=True, stderr=subprocess.PIPE)
    wait_for(stub / "pid0", stub / "pid1")
    pod.send_signal(number)
    _, errors = pod.communicate(timeout=20)
    assert pod.returncode == code, errors
    assert "restart" not in errors.replace("started again", "")
    for name in ("stops0", "stops1"):
        assert (stub / name).read_text() == "stop\n"


def test_local_pod_tells_who_was_killed_and_ends_the_rest(stub):
    environment = os.environ | dict(STUB_0="hang", STUB_1="hang")
    words = [str(LAUNCH / "local_pod.sh"), "2", "--grace=1", "train"]
    pod = subprocess.Popen(words, env=environment, text=True, stderr=subprocess.PIPE)
    wait_for(stub / "pid0", stub / "pid1")
    os.kill(int((stub / "pid1").read_text()), signal.SIGKILL)
    _, errors = pod.communicate(timeout=20)
    assert pod.returncode == 137
    assert "process 1 of 2, the first to end, ended by SIGKILL (exit code 137)" in errors
    assert "1 of 2 processes still run 1 seconds later; they are killed" in errors
    assert errors.count("\n") == 3, errors
    with pytest.raises(ProcessLookupError):
        os.kill(int((stub / "pid0").read_text()), 0)


def test_slurm_chains_and_arrays():
    chain = launch("slurm.sh --nodes=4 --chain=3 --dry-run train --config=a.py").stdout
    assert re.findall(r"--dependency=(\S+)", chain) == ["afterany:JOBID1", "afterany:JOBID2"]
    assert chain.count("--nodes=4") == 3 and chain.count("SCORE_JAX_MAX_REQUEUES=0") == 3
    array = launch("slurm.sh --sweep=0-8%2 --time=1:00:00 --dry-run train").stdout
    assert "--array=0-8%2" in array and "--time=1:00:00" in array
    assert "SCORE_JAX_MAX_REQUEUES=100" in array


# srun does what STUB says; scontrol writes what it is asked.
FAKE_SLURM = """#!/usr/bin/env bash
case "${0##*/}" in
  srun) SLURM_PROCID=1 "${@:3}"; exit $? ;;
  squeue) echo 2099-01-01T00:00:00 ;;
  scontrol)
    case "$*" in
      'show hostnames '*) printf 'node7\\nnode8\\n' ;;
      '--oneliner show node node7') echo 'NodeName=node7 NodeAddr=10.0.0.7 Version=22' ;;
      *) echo "$*" >> "$STUB_FOLDER/scontrol" ;;
    esac ;;
esac
"""


@pytest.mark.parametrize(
    ("code", "restarts", "asked"),
    [(0, 0, False), (130, 0, True), (75, 4, True), (137, 0, True), (2, 0, False), (1, 0, False),
     (75, 5, False)],
)  # fmt: skip
def test_the_batch_script_requeues_what_can_go_on(stub, code, restarts, asked):
    tools = stub / "tools"
    tools.mkdir()
    for name in ("srun", "scontrol", "squeue"):
        (tools / name).write_text(FAKE_SLURM)
        (tools / name).chmod(0o755)
    ran = launch(
        "slurm.sbatch train --config=a.py",
        PATH=f"{tools}:{os.environ['PATH']}", STUB_1=str(code), SLURM_JOB_ID="12345",
        SLURM_NTASKS="2", SLURM_JOB_NODELIST="node[7-8]", SLURM_ARRAY_TASK_ID="3",
        SLURM_RESTART_COUNT=str(restarts), SCORE_JAX_MAX_REQUEUES="5",
    )  # fmt: skip
    assert ran.returncode == code
    words = "train --config=a.py --sweep_index=3 --coordinator=10.0.0.7:22345 --num_processes=2"
    assert ran.stdout == f"process 1: {words} --process_id=1\n"
    calls = stub / "scontrol"
    assert (calls.read_text() if calls.exists() else "") == ("requeue 12345\n" if asked else "")


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
