"""tpu_vm.sh and tpu_worker.sh against a cloud that is played by a script."""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TPU_VM = str(ROOT / "launch/tpu_vm.sh")

# Plays the states of FOLDER/states, one each time that it is asked, and is two workers, each a home
# folder here. A slice that is taken away loses its homes and processes.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$FOLDER/calls"
every_home() {
  for home in "$FOLDER/worker0" "$FOLDER/worker1"; do
    mkdir -p "$home"
    (cd "$home" && HOME="$home" bash -c "$1") || return 1
  done
}
case "$*" in
  *' describe '*)
    state="$(head -n 1 "$FOLDER/states")"
    [ "$(wc -l < "$FOLDER/states")" -eq 1 ] || sed -i 1d "$FOLDER/states"
    if [ "$state" = NONE ]; then echo 'ERROR: NOT_FOUND: was not found' >&2; exit 1; fi
    if [ "$state" = SUSPENDED ]; then
      every_home 'kill -9 "$(cat .score_jax/pid)" 2> /dev/null; true'
      rm -rf "$FOLDER/worker0" "$FOLDER/worker1"
    fi
    echo "$state" ;;
  *' scp '*) every_home "cp $5 score_jax.tar.gz" ;;
  # The last commit is what is sent; what is tested is what is written here.
  *' install'*) every_home 'tar -xzf score_jax.tar.gz && cp -r "$LAUNCH" score_jax' ;;
  *' ssh '*)
    for word in "$@"; do
      case "$word" in --command=*) every_home "${word#--command=}" ;; esac
    done ;;
esac
"""
# What score-jax does at each start, as FOLDER/plan says: `hang`, or an exit code.
JOB = """#!/usr/bin/env bash
what="$(head -n 1 "$FOLDER/plan.${PWD##*/}")"
echo "$*" >> "$FOLDER/started.${PWD##*/}"
sed -i 1d "$FOLDER/plan.${PWD##*/}"
trap 'exit 130' TERM
[ "$what" != hang ] || while :; do sleep 0.05; done
exit "$what"
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("gcloud", GCLOUD), ("job", JOB)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("LAUNCH", str(ROOT / "launch"))
    monkeypatch.setenv("SCORE_JAX", str(tools / "job"))
    yield tmp_path
    for pid in tmp_path.glob("worker*/.score_jax/pid"):
        subprocess.run(["kill", "-KILL", pid.read_text().strip()], stderr=subprocess.DEVNULL)


def plan(cloud, states, *plans):
    (cloud / "states").write_text("".join(f"{state}\n" for state in states.split()))
    for number, text in enumerate(plans):
        (cloud / f"plan.worker{number}").write_text("".join(f"{one}\n" for one in text.split()))


def run(*words, **options):
    words = [TPU_VM, "run", "r", "--zone=z", "--type=v5litepod-16", "--poll=0", *words]
    return subprocess.run(words, text=True, capture_output=True, timeout=60, **options)


def verbs(cloud):
    calls = [line.split() for line in (cloud / "calls").read_text().splitlines()]
    return [words[words.index("queued-resources") + 1] for words in calls]


def test_a_preempted_slice_is_created_again_and_the_run_finishes(cloud):
    plan(
        cloud,
        "NONE WAITING_FOR_RESOURCES PROVISIONING ACTIVE ACTIVE SUSPENDED DELETING NONE ACTIVE",
        "hang 75 0", "hang 75 0",
    )  # fmt: skip
    ran = run("--spot", "--bucket=b", "train", "--config=a.py", "--config.name=a b")
    assert ran.returncode == 0, ran.stderr
    told = [line.partition("tpu_vm.sh: ")[2] for line in ran.stderr.splitlines()]
    states = [line for line in told if line.startswith("r is ")]
    assert states == [
        f"r is {state}" for state in
        "NONE WAITING_FOR_RESOURCES PROVISIONING ACTIVE SUSPENDED DELETING NONE ACTIVE".split()
    ]  # fmt: skip
    assert "r: asks to be started again (exit code 75); restart 1 of at most 10" in told
    assert told[-1] == "r: finished"
    assert [verb for verb in verbs(cloud) if verb in ("create", "delete", "scp")] == [
        "create", "scp", "delete", "create", "scp", "delete",
    ]  # fmt: skip
    for worker in ("worker0", "worker1"):
        started = (cloud / f"started.{worker}").read_text().splitlines()
        assert started == ["train --config=a.py --config.name=a b --cluster=tpu"] * 3


def test_what_a_worker_refuses_is_not_started_again(cloud):
    plan(cloud, "ACTIVE", "2", "hang")
    ran = run("--keep", "train")
    assert ran.returncode == 2 and "r: refused (exit code 2: see its message)" in ran.stderr
    assert "delete" not in verbs(cloud) and "create" not in verbs(cloud)


def test_restarts_and_recreations_are_limited(cloud):
    plan(cloud, "ACTIVE", "75 75 75", "75 75 75")
    assert run("--restarts=1", "train").returncode == 75
    assert (cloud / "started.worker0").read_text().count("train") == 2
    plan(cloud, "SUSPENDED NONE FAILED NONE FAILED")
    ran = run("--recreations=2", "train")
    assert ran.returncode == 2 and "r was FAILED 3 times" in ran.stderr


def test_a_stop_that_was_asked_for_ends_the_run_and_another_does_not(cloud, request):
    plan(cloud, "ACTIVE", "hang hang", "hang hang")
    words = [TPU_VM, "run", "r", "--zone=z", "--type=v4-8", "--poll=0", "train"]
    looking_on = subprocess.Popen(words, text=True, stderr=subprocess.PIPE)
    request.addfinalizer(looking_on.kill)
    wait_for_starts(cloud, 1)
    for worker in ("worker0", "worker1"):  # As a machine does that is taken away.
        pid = (cloud / worker / ".score_jax/pid").read_text().strip()
        subprocess.run(["kill", "-TERM", pid], check=True)
    wait_for_starts(cloud, 2)
    subprocess.run([TPU_VM, "stop", "r", "--zone=z"], check=True)
    _, errors = looking_on.communicate(timeout=30)
    assert looking_on.returncode == 130, errors
    assert "ended by SIGTERM (exit code 143); restart 1 of at most 10" in errors
    assert "r: stopped as asked, after a save (exit code 130)" in errors
    assert verbs(cloud)[-1] == "delete"


def wait_for_starts(cloud, number):
    files = [cloud / f"started.worker{worker}" for worker in (0, 1)]
    deadline = time.monotonic() + 20
    while not all(
        path.exists() and len(path.read_text().splitlines()) >= number for path in files
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # Its trap.


def test_a_sweep_is_one_queued_resource_a_setting(cloud):
    dry = run("--sweep=1,3", "--slices=2", "--flex=12h", "--dry-run", "train")
    created = [line for line in dry.stdout.splitlines() if " create " in line]
    assert [shlex.split(line)[6] for line in created] == ["r-1", "r-3"]
    assert "--node-count=2 --node-prefix=r-3" in created[1]
    assert "--provisioning-model=flex-start --max-run-duration=12h" in created[1]
    assert dry.stdout.count("--sweep_index=1") == dry.stdout.count("--sweep_index=3") == 1
    assert dry.stdout.count(" delete ") == 2
    assert " delete " not in run("--keep", "--dry-run", "train").stdout
    assert not (cloud / "calls").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="no gcloud here to read the flags")
@pytest.mark.parametrize("slices", ["--spot", "--slices=2", "--flex=12h", "--reserved"])
def test_gcloud_knows_every_flag(slices, tmp_path):
    """Without an account gcloud reads the command line, and then says that it has none."""
    dry = run(slices, "--bucket=b", "--project=p", "--dry-run", "train").stdout.splitlines()
    commands = [shlex.split(line) for line in dry if line.startswith("gcloud ")]
    assert len(commands) == 7
    settings = dict(CLOUDSDK_CONFIG=str(tmp_path), CLOUDSDK_CORE_DISABLE_PROMPTS="1")
    for command in commands[:1] if slices != "--spot" else commands:
        said = subprocess.run(command, text=True, capture_output=True, env=os.environ | settings)
        assert "unrecognized arguments" not in said.stderr, said.stderr
        assert "active account" in said.stderr or "credential" in said.stderr, said.stderr
