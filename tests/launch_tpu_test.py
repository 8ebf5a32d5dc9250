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
# folder here. A slice that is taken away loses its homes and processes. What FOLDER/fails names
# fails. A worker's bucket is mounted where its home has a file `mounted`.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$FOLDER/calls"
for word in $(cat "$FOLDER/fails" 2> /dev/null); do
  case "$*" in *" $word "*) echo "no $word" >&2; exit 1 ;; esac
done
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
      every_home 'kill -9 "$(cut -d" " -f1 .score_jax/pid)" 2> /dev/null; true'
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
MOUNTPOINT = """#!/usr/bin/env bash
[ -e "$HOME/mounted" ]
"""
GCSFUSE = """#!/usr/bin/env bash
echo "$*" >> "$FOLDER/mounts"
[ ! -e "$FOLDER/no_mounts" ] && touch "$HOME/mounted"
"""
# What score-jax does at each start, as FOLDER/plan says: `hang`, or an exit code.
JOB = """#!/usr/bin/env bash
trap 'exit 130' TERM
what="$(head -n 1 "$FOLDER/plan.${PWD##*/}")"
echo "$*" >> "$FOLDER/started.${PWD##*/}"
sed -i 1d "$FOLDER/plan.${PWD##*/}"
echo "the last line of $what"
[ "$what" != hang ] || while :; do sleep 0.05; done
exit "$what"
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in dict(
        gcloud=GCLOUD, job=JOB, mountpoint=MOUNTPOINT, gcsfuse=GCSFUSE,
    ).items():  # fmt: skip
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("LAUNCH", str(ROOT / "launch"))
    monkeypatch.setenv("SCORE_JAX", str(tools / "job"))
    yield tmp_path
    for worker in tmp_path.glob("worker*"):
        if (worker / ".score_jax/pid").exists():
            subprocess.run(["kill", "-KILL", pid_of(worker)], stderr=subprocess.DEVNULL)


def pid_of(worker):
    return (worker / ".score_jax/pid").read_text().split()[0]


def plan(cloud, states, *plans):
    (cloud / "states").write_text("".join(f"{state}\n" for state in states.split()))
    for number, text in enumerate(plans):
        (cloud / f"plan.worker{number}").write_text("".join(f"{one}\n" for one in text.split()))


# A run whose results outlive the machines.
SAFE = "--bucket=b train --workdir=bucket/r".split()


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
    ran = run("--spot", *SAFE, "--config=a.py", "--config.name=a b")
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
        words = "train --workdir=bucket/r --config=a.py --config.name=a b --cluster=tpu"
        assert started == [words] * 3
    # The first slice's workers and the second's; the restart after 75 found them mounted.
    assert (cloud / "mounts").read_text().count("--implicit-dirs b ") == 4
    # Before they are deleted.
    last = [line for line in ran.stderr.splitlines() if line == "the last line of 0"]
    assert len(last) == 2


def test_what_a_worker_refuses_is_not_started_again(cloud):
    plan(cloud, "ACTIVE", "2", "hang")
    ran = run("--project=p", *SAFE)
    assert ran.returncode == 2 and "r: refused (exit code 2: see its message)" in ran.stderr
    assert "delete" not in verbs(cloud) and "create" not in verbs(cloud)
    assert "the last line of 2" in ran.stderr
    assert "until 'launch/tpu_vm.sh delete r --zone=z --project=p'" in ran.stderr


def test_a_failure_and_what_is_to_be_kept_are_kept(cloud):
    plan(cloud, "ACTIVE", "1", "0")
    ran = run(*SAFE)
    assert ran.returncode == 1 and "the last line of 1" in ran.stderr and "is kept" in ran.stderr
    shutil.rmtree(cloud / "worker0"), shutil.rmtree(cloud / "worker1")
    plan(cloud, "ACTIVE", "0", "0")
    ran = run("--keep", "train")
    assert ran.returncode == 0 and "is kept" in ran.stderr
    assert "delete" not in verbs(cloud)
    ended = subprocess.run([TPU_VM, "delete", "r", "--zone=z"], text=True, capture_output=True)
    assert ended.stderr.count("the last line of 0") == 2 and verbs(cloud)[-1] == "delete"


def test_a_slice_that_another_deletes_is_not_created_again(cloud):
    plan(cloud, "DELETING NONE ACTIVE DELETING NONE", "hang", "hang")
    ran = run(*SAFE)
    assert ran.returncode == 130 and "r was deleted by someone else" in ran.stderr
    assert verbs(cloud).count("create") == 1


def test_an_installation_that_fails_starts_nothing_and_leaves_nothing(cloud, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # What is there already is an older commit.
    plan(cloud, "ACTIVE ACTIVE SUSPENDED", "0", "0")
    (cloud / "fails").write_text("scp")
    ran = run("--recreations=0", *SAFE, env=os.environ | dict(TMPDIR=str(scratch)))
    assert ran.stderr.count("not all workers were reached; tried again") == 2
    calls = (cloud / "calls").read_text()
    assert "tpu_worker.sh install" not in calls and "tpu_worker.sh start" not in calls
    assert not list(scratch.iterdir())


def worker(cloud, *words):
    command = ["bash", str(ROOT / "launch/tpu_worker.sh"), *words]
    environment = os.environ | dict(HOME=str(cloud / "worker0"))
    (cloud / "worker0").mkdir(exist_ok=True)
    return subprocess.run(
        command, text=True, capture_output=True, timeout=20, env=environment, cwd=cloud / "worker0"
    )


def test_a_worker_that_was_started_anew_mounts_the_bucket_again(cloud):
    plan(cloud, "ACTIVE", "hang hang 0")
    start = ["start", "--bucket=b", "train", "--workdir=bucket/r"]
    assert worker(cloud, *start).returncode == 0
    assert worker(cloud, "status").stdout == "running\n"
    wait_for_starts(cloud, 1, workers=[0])
    # The machine's start is another one, though there is a process of this number.
    pid = pid_of(cloud / "worker0")
    os.kill(int(pid), 9)
    (cloud / "worker0/mounted").unlink()
    code = cloud / "worker0/.score_jax/code"
    deadline = time.monotonic() + 10
    while not code.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    code.unlink()
    own = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
    (cloud / "worker0/.score_jax/pid").write_text(f"{os.getpid()} {own} another-start\n")
    assert worker(cloud, "status").stdout == "137\n"
    assert "nothing is running here" in worker(cloud, "stop").stderr
    refused = worker(cloud, "start", "train", "--workdir=bucket/r")
    assert refused.returncode == 2 and "nothing is mounted at ~/bucket" in refused.stderr
    (cloud / "no_mounts").touch()
    refused = worker(cloud, *start)
    assert refused.returncode == 2 and "b is not mounted at ~/bucket" in refused.stderr
    assert len((cloud / "started.worker0").read_text().splitlines()) == 1
    assert worker(cloud, "status").stdout == "137\n"
    (cloud / "no_mounts").unlink()
    assert worker(cloud, *start).returncode == 0
    assert worker(cloud, "status").stdout == "running\n" and (cloud / "worker0/mounted").exists()


def test_what_ended_just_now_is_not_taken_for_killed(cloud):
    """The shell that waits for it has not written the exit code yet."""
    plan(cloud, "ACTIVE", "75")
    assert worker(cloud, "start", "--bucket=b", "train", "--workdir=bucket/r").returncode == 0
    state = cloud / "worker0/.score_jax"
    deadline = time.monotonic() + 10
    while not (state / "code").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (state / "code").unlink()
    assert worker(cloud, "status").stdout == "137\n"
    write = "sleep 1; echo 75 > code.new; mv code.new code"
    with subprocess.Popen(["bash", "-c", write], cwd=state) as shell:
        stat = Path(f"/proc/{shell.pid}/stat").read_text().rpartition(") ")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        (state / "shell").write_text(f"{shell.pid} {stat[19]} {boot}")
        assert worker(cloud, "status").stdout == "75\n"


def test_restarts_and_recreations_are_limited(cloud):
    plan(cloud, "ACTIVE", "75 75 75", "75 75 75")
    assert run("--restarts=1", *SAFE).returncode == 75
    assert (cloud / "started.worker0").read_text().count("train") == 2
    plan(cloud, "SUSPENDED NONE FAILED NONE FAILED")
    ran = run("--recreations=2", *SAFE)
    assert ran.returncode == 2 and "r was FAILED 3 times" in ran.stderr


def test_a_stop_that_was_asked_for_ends_the_run_and_another_does_not(cloud, request):
    plan(cloud, "ACTIVE", "hang hang", "hang hang")
    words = [TPU_VM, "run", "r", "--zone=z", "--type=v4-8", "--poll=0", *SAFE]
    looking_on = subprocess.Popen(words, text=True, stderr=subprocess.PIPE)
    request.addfinalizer(looking_on.kill)
    wait_for_starts(cloud, 1)
    for worker in ("worker0", "worker1"):  # As a machine does that is taken away.
        subprocess.run(["kill", "-TERM", pid_of(cloud / worker)], check=True)
    wait_for_starts(cloud, 2)
    subprocess.run([TPU_VM, "stop", "r", "--zone=z"], check=True)
    _, errors = looking_on.communicate(timeout=30)
    assert looking_on.returncode == 130, errors
    assert "ended by SIGTERM (exit code 143); restart 1 of at most 10" in errors
    assert "r: stopped as asked, after a save (exit code 130)" in errors
    assert verbs(cloud)[-1] == "delete"


def wait_for_starts(cloud, number, workers=(0, 1)):
    files = [cloud / f"started.worker{worker}" for worker in workers]
    deadline = time.monotonic() + 20
    while not all(
        path.exists() and len(path.read_text().splitlines()) >= number for path in files
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # Its trap.


def test_a_sweep_is_one_queued_resource_a_setting(cloud):
    dry = run("--sweep=1,3", "--slices=2", "--flex=12h", "--dry-run", *SAFE)
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
    dry = run(slices, "--project=p", "--dry-run", *SAFE).stdout.splitlines()
    commands = [shlex.split(line) for line in dry if line.startswith("gcloud ")]
    assert len(commands) == 8
    settings = dict(CLOUDSDK_CONFIG=str(tmp_path), CLOUDSDK_CORE_DISABLE_PROMPTS="1")
    for command in commands[:1] if slices != "--spot" else commands:
        said = subprocess.run(command, text=True, capture_output=True, env=os.environ | settings)
        assert "unrecognized arguments" not in said.stderr, said.stderr
        assert "active account" in said.stderr or "credential" in said.stderr, said.stderr
