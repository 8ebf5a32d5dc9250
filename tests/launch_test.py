"""Launchers on this machine: help, errors, dry runs; local_pod.sh with a stub."""

import os
import re
import shlex
import shutil
import signal
import subprocess

import pytest

from score_jax.cli import JOBS
from tests import launchers
from tests.launchers import LAUNCH, ROOT, launch, wait_for

SCRIPTS = sorted([*LAUNCH.glob("*.s*"), *ROOT.glob("benchmarks/*.sh"), ROOT / ".ci/run"])
# Each with the words that it needs for a dry run.
LAUNCHERS = {
    "local_pod.sh": "2 train --config=a.py",
    "tpu_vm.sh": "run r --zone=z --type=v5litepod-16 --keep train --config=a.py",
    "tpu_worker.sh": "start train --config=a.py",
    "gke.sh": "--image=i --tpu=v5e:4x4 train --config=a.py",
    "slurm.sh": "train --config=a.py",
}


@pytest.fixture
def stub(tmp_path, monkeypatch):
    yield from launchers.stub(tmp_path, monkeypatch)


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
        ("tpu_vm.sh run r --zone=z --dry-run --keep train", "--type=TYPE is needed"),
        ("tpu_vm.sh run r --zone=z --type=v4-8 --spot --flex=1h --dry-run --keep train", "exclude"),
        ("tpu_vm.sh run r --zone=z --type=v4-8 --sweep=abc --dry-run --keep train", "no list of"),
        ("tpu_vm.sh run r --zone=z --type=v4-8 train --workdir=bucket/r", "would be deleted"),
        ("tpu_vm.sh run r --zone=z --type=v4-8 --bucket=b train --workdir=runs/r", "--keep"),
        ("tpu_vm.sh run r --zone=z --type=v4-8 --bucket=b train", "--workdir= would be deleted"),
        ("tpu_vm.sh run r --zone=z --bucket=b train --workdir=bucket/../r", "would be deleted"),
        ("tpu_vm.sh run r --zone=z evaluate --workdir=runs/r", "would be deleted"),
        ("gke.sh train", "--image=IMAGE is needed"),
        ("gke.sh --image=i --tpu=v9:4x4 train", "unknown generation 'v9'"),
        ("gke.sh --image=i --tpu=v5e:4x4 --chips-per-vm=3 train", "no multiple"),
        ("gke.sh --image=i --gpu=h100 train", "no number"),
        ("gke.sh --image=i --tpu=v5e:4x4 --name=Run train", "--name=Run"),
        ("gke.sh --image=i --tpu=v5e train", "the topology of v5e has 2 sides"),
        ("gke.sh --image=i --tpu=v5e:4x train", "a side of --tpu=v5e:4x: ''= is no whole number"),
        ("gke.sh --image=i --tpu=v5e:4x4x4 train", "the topology of v5e has 2 sides"),
        ("gke.sh --image=i --tpu=v6e:4 train", "the topology of v6e has 2 sides"),
        ("gke.sh --image=i --tpu=v5p:4x4 train", "write such as v5p:2x2x4"),
        ("gke.sh --image=i --tpu=v4:2x2x0 train", "less than 1"),
        ("gke.sh --image=i --tpu=v5e:4x4 --xpk=c --queue=q train", "--queue=q does not go with"),
        ("gke.sh --image=i --tpu=v5e:4x4 --xpk=c --namespace=n train", "--namespace=n does not"),
        ("gke.sh --image=i --tpu=v5e:4x4 --xpk=c --service-account=s train", "--service-account=s"),
        ("gke.sh --image=i --tpu=v5e:4x4 --xpk=c --chips-per-vm=8 train", "--chips-per-vm=8 does"),
        ("gke.sh --image=i --gpu=h100:8 --xpk=c train", "--xpk is for --tpu"),
        ("slurm.sh --nodes=2", "no job"),
        ("slurm.sh -N 2 --dry-run train", "unknown option -N"),
        ("slurm.sh --nodes 4 --dry-run train", "'4' is no job of score-jax"),
        ("slurm.sh --dry-run trian", "'trian' is no job of score-jax"),
        ("slurm.sh --chain 2 --dry-run train", "write --chain=VALUE"),
        ("slurm.sh --sweep=0-8%x --dry-run train", "=x is no whole number"),
        ("slurm.sh --sweep=0-8%0 --dry-run train", "=0 is less than 1"),
        ("slurm.sh --sweep=1-2-3 --dry-run train", "no list of settings"),
        ("slurm.sh --sweep=0-99999999999999999999 --dry-run train", "is more than 9999"),
        ("local_pod.sh 2 --port=99999999999999999999 train", "is more than 65535"),
        ("local_pod.sh 2 --port=65536 train", "is more than 65535"),
        ("local_pod.sh 2 --restart=08 train", "--restart=08 is no whole number"),
        ("local_pod.sh 2 --restart 3 train", "--restart has no value; write --restart=VALUE"),
        ("tpu_worker.sh start trian", "'trian' is no job"),
        ("slurm.sh --chain=2 --sweep=0-3 --dry-run train", "do not go together"),
        ("slurm.sbatch train", "not inside of a SLURM job"),
    ],
)
def test_mistakes_are_one_line(words, message):
    said = launch(words)
    assert said.returncode == 2
    assert message in said.stderr and said.stderr.count("\n") == 1 and not said.stdout


def test_the_jobs_that_launchers_know_are_those_there_are():
    command = f". {LAUNCH}/common.sh; echo $JOBS"
    known = subprocess.run(["bash", "-c", command], text=True, capture_output=True, check=True)
    assert sorted(known.stdout.split()) == sorted(JOBS)


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if path.name not in ("common.sh", "environment.sh")],
    ids=lambda path: path.name,
)  # fmt: skip
def test_a_script_is_read_as_a_whole_before_it_works(path):
    """bash goes on in the file where it was, whatever has come there meanwhile."""
    last = path.read_text().splitlines()[-1]
    assert last in ("main; exit", 'main "$@"; exit')


def test_a_script_may_be_edited_while_it_runs(stub):
    shutil.copytree(LAUNCH, stub / "launch")
    script = stub / "launch/local_pod.sh"
    environment = os.environ | dict(STUB_0="wait")
    pod = subprocess.Popen([str(script), "1", "train"], env=environment, stderr=subprocess.PIPE)
    wait_for(stub / "pid0")
    script.write_text("exit 99\n" * 5000)
    pod.send_signal(signal.SIGTERM)
    _, errors = pod.communicate(timeout=20)
    assert pod.returncode == 130, errors


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
    [((0, 0), 0), ((75, 0), 75), ((130, 75), 75), ((75, 2), 2), ((1, 75), 1), ((1, 2), 2),
     ((253, 137), 253)],
)  # fmt: skip
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
