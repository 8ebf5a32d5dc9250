"""The doctor on variables, memory and other jobs of machines that are made up; and the job."""

import os
import resource

import pytest

from score_jax import (
    cli,
    doctor,
    doctor_cache,
    doctor_finding,
    doctor_memory,
    doctor_tpu,
    doctor_variables,
)
from score_jax.doctor_finding import Machine
from tests.doctor_machines import lines, tree

IN_STEP = dict(SLURM_JOB_ID="7", SLURM_STEP_ID="0", SLURM_NTASKS="2", SLURM_PROCID="1")
SLICE = dict(TPU_WORKER_HOSTNAMES="a,b", TPU_WORKER_ID="1")
SLICES = dict(MEGASCALE_NUM_SLICES="2", MEGASCALE_SLICE_ID="1")


@pytest.mark.parametrize(
    ("check", "environ", "text"),
    [
        ("xla_flags", {"XLA_FLAGS": "--xla_nonsense=1"}, "!!  flags of XLA: XLA_FLAGS holds what"),
        (
            "jax_options",
            {"JAX_PLATFROMS": "cpu"},
            "JAX has no such option; JAX_PLATFORMS was meant",
        ),
        (
            "jax_options",
            {"JAX_DISABLE_JIT": "1"},
            "!!  JAX_DISABLE_JIT: it is set: nothing is comp",
        ),
        ("jax_options", {"XLA_PYTHON_CLIENT_MEM_FRACTION": "75"}, "75 is no share of the memory"),
        ("jax_options", {"JAX_COORDINATOR_ADDRESS": "b:1"}, "it is b:1, and --coordinator=a:1; un"),
        ("gpus", {"CUDA_VISIBLE_DEVICES": ""}, "'' hides the 2 GPU(s) of this machine; unset"),
        (
            "gpus",
            {"CUDA_VISIBLE_DEVICES": "0,2"},
            "0,2 names GPU 2, and this machine has 2, from 0",
        ),
        ("slurm", {"SLURM_PROCID": "0"}, "!!  slurm: SLURM_PROCID is set without a job"),
        ("slurm", IN_STEP, "!!  slurm: SLURM_JOB_ID=7, but this process is in no job (ssh or tmux"),
        ("slurm", {**IN_STEP, "SLURM_JOB_END_TIME": "1000"}, "!!  slurm: job 7 ended"),
        ("tpu", {**SLICE, "TPU_WORKER_ID": "2"}, "2 host(s), and TPU_WORKER_ID=2; take both"),
        ("tpu", {"TPU_WORKER_HOSTNAMES": "a,b"}, "2 hosts, but TPU_WORKER_ID=is not set"),
        (
            "tpu",
            {**SLICE, "TPU_HOST_BOUNDS": "2,2,1"},
            "2 host(s), and TPU_HOST_BOUNDS=2,2,1; take both",
        ),
        ("tpu", SLICE, "2 host(s), and --num_processes=3; give --num_processes=2"),
        ("tpu", {"TPU_LIBRARY_PATH": "/none.so"}, "/none.so is not there"),
        ("tpu", {"TPU_VISIBLE_CHIPS": "0,4"}, "0,4 names chip 4, and this machine has 1 chip(s)"),
        (
            "tpu",
            {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,2,1"},
            "!!  TPU_CHIPS_PER_PROCESS_BOUNDS: 1,2,1 are 2 chips, and this machine has 1 chip(s)",
        ),
        (
            "tpu",
            {"TPU_VISIBLE_DEVICES": "0", "TPU_CHIPS_PER_HOST_BOUNDS": "2,1,1"},
            "!!  TPU_CHIPS_PER_HOST_BOUNDS: 2,1,1 are 2 chips, and 1 of them are visible; unset",
        ),
        ("tpu", {"TPU_PROCESS_BOUNDS": "2,2,1"}, "2,2,1 are 4 processes, and nothing names the o"),
        ("tpu", {"TPU_TOPOLOGY": "4x4"}, "--  TPU_TOPOLOGY: a slice of 16 chips, of which 1 are"),
        (
            "megascale",
            {"MEGASCALE_COORDINATOR_ADDRESS": "a"},
            "!!  megascale: MEGASCALE_COORDINATOR_ADDRESS set, but not of how many slices",
        ),
        ("megascale", {"MEGASCALE_NUM_SLICES": "1"}, "ok  megascale: MEGASCALE_NUM_SLICES set: on"),
        ("megascale", SLICES, "2 slices without MEGASCALE_COORDINATOR_ADDRESS"),
        (
            "megascale",
            {**SLICES, "MEGASCALE_SLICE_ID": "2", "MEGASCALE_COORDINATOR_ADDRESS": "a"},
            "2 slices, and MEGASCALE_SLICE_ID=2; set it from 0 to 1",
        ),
    ],
)
def test_variables_that_contradict_are_told(tmp_path, check, environ, text):
    tree(tmp_path, {"/dev/nvidia0": "", "/dev/nvidia1": "", "/dev/accel0": ""})
    machine = Machine(environ=environ, root=tmp_path, coordinator="a:1", num_processes=3)
    module = doctor_tpu if check in ("tpu", "megascale") else doctor_variables
    found = lines(getattr(module, check), machine)
    assert any(text in line for line in found), found


def test_variables_of_a_tpu_are_stale_where_there_is_none(tmp_path):
    machine = Machine(environ={**SLICE, **SLICES}, root=tmp_path)
    assert "there is no TPU here; unset TPU_WORKER" in lines(doctor_tpu.tpu, machine)[-1]
    assert "there is no TPU here; unset MEGASC" in lines(doctor_tpu.megascale, machine)[-1]


@pytest.mark.parametrize(
    ("environ", "told_of_eight"),
    [
        ({"TPU_TOPOLOGY": "2x2"}, "2x2 is a slice of 4 chip(s), and this machine has 8"),
        ({"TPU_ACCELERATOR_TYPE": "v3-8"}, "v3-8 is a slice of 4 chip(s), and this machine has 8"),
        (
            {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "a",
             "TPU_WORKER_ID": "0"},
            "v5litepod-4 is a slice of 4 chip(s)",
        ),
        (
            {"TPU_VISIBLE_CHIPS": "1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
             "TPU_TOPOLOGY": "2x2"},
            "",
        ),
        ({"TPU_PROCESS_BOUNDS": "1,1,1"}, ""),
    ],
)  # fmt: skip
def test_variables_of_four_chips(tmp_path, environ, told_of_eight):
    root = tree(tmp_path, {f"/dev/accel{index}": "" for index in range(4)})
    assert lines(doctor_tpu.tpu, Machine(environ=environ, root=root)) == []
    tree(tmp_path, {f"/dev/accel{index}": "" for index in range(8)})
    found = lines(doctor_tpu.tpu, Machine(environ=environ, root=root))
    assert len(found) == bool(told_of_eight)
    assert all(line.startswith("!!") and told_of_eight in line for line in found)
    stale = Machine(environ=environ, root=tmp_path / "none")
    assert "and there is no TPU here; unset TPU_" in lines(doctor_tpu.tpu, stale)[-1]


def test_a_process_in_its_job_step_has_no_stale_variables(tmp_path):
    status = {f"/proc/{os.getpid()}/status": "Name:\tpython\nPPid:\t7\n"}
    tree(tmp_path, status | {"/proc/7/status": "Name:\tslurmstepd\nPPid:\t1\n"})
    machine = Machine(environ=IN_STEP, root=tmp_path)
    assert lines(doctor_variables.slurm, machine) == ["ok  slurm: task 1 of 2 in step 0 of job 7"]
    (line,) = lines(doctor_variables.slurm, Machine(environ={**IN_STEP, "SLURM_STEP_ID": ""},
                                                    root=tmp_path))  # fmt: skip
    assert "!!  slurm: in job 7 of 2 task(s), but in no step; start the run with srun" in line
    other = Machine(environ=IN_STEP, root=tmp_path, num_processes=4, process_id=1)
    assert "--num_processes=4, and SLURM says 2" in lines(doctor_variables.slurm, other)[0]
    tree(tmp_path, {"/proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_8/step_0\n"})
    assert "is in job 8" in lines(doctor_variables.slurm, machine)[0]


def test_a_container_hides_who_started_a_process(tmp_path):
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026532000]")
    machine = Machine(environ=IN_STEP, root=tmp_path)
    assert lines(doctor_variables.slurm, machine) == ["ok  slurm: task 1 of 2 in step 0 of job 7"]


def test_the_memory_of_the_container_counts(tmp_path):
    tree(tmp_path, {"/proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n"})
    machine = Machine(environ={}, root=tmp_path)
    assert "ok  memory: 16.0 GiB of 32.0 GiB free" in lines(doctor_memory.ram, machine)[0]
    group = "/sys/fs/cgroup/pod/memory"
    tree(
        tmp_path,
        {"/proc/self/cgroup": "0::/pod\n", f"{group}.max": str(2**30), f"{group}.current": "5"},
    )
    (line,) = lines(doctor_memory.ram, machine)
    assert "1024.0 MiB of 1.0 GiB in this container" in line
    assert "!!  memory" in line


def test_the_memory_of_an_older_kind_of_group_counts(tmp_path):
    tree(tmp_path, {"/proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n"})
    tree(tmp_path, {"/proc/self/cgroup": "5:memory:/docker/a\n4:cpu:/\n"})
    base = "/sys/fs/cgroup/memory/memory"  # Where a container sees its own group.
    files = {f"{base}.limit_in_bytes": str(8 * 2**30), f"{base}.usage_in_bytes": str(2**30)}
    machine = Machine(environ={}, root=tree(tmp_path, files))
    (line,) = lines(doctor_memory.ram, machine)
    assert "ok  memory" in line
    assert "7.0 GiB of 8.0 GiB in this container" in line
    tree(tmp_path, {f"{base}.limit_in_bytes": "9223372036854771712"})
    assert "container" not in lines(doctor_memory.ram, machine)[0]


def test_few_open_files_and_little_shared_memory_are_told(monkeypatch, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        found = lines(doctor_memory.limits, Machine(environ={}, root=tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "!!  open files: 256" in found[0]
    assert found[1] == "--  shared memory: there is no /dev/shm"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/shm").symlink_to("/dev/shm")
    machine = Machine(environ={}, root=tree(tmp_path, {"/dev/nvidia0": "", "/dev/nvidia1": ""}))
    monkeypatch.setattr(doctor_memory, "SHARED", 2**60)
    assert "too little for NCCL; docker run --shm-size" in lines(doctor_memory.limits, machine)[1]


def test_another_job_is_told_and_in_the_same_folder_refused(tmp_path):
    folder = tmp_path / "proc/4242"
    words = "python\0-m\0score_jax\0train\0--workdir=runs/a\0"
    tree(tmp_path, {"/proc/4242/cmdline": words, "/proc/4242/status": "PPid:\t1\n"})
    tree(tmp_path, {"/proc/4243/cmdline": words, "/proc/4243/status": "PPid:\t4242\n"})
    tree(tmp_path, {"/proc/4244/cmdline": words.replace("train", "doctor")})
    (folder / "cwd").symlink_to("/data")
    machine = Machine(environ={}, root=tmp_path, workdir="/data/runs/b")
    (line,) = lines(doctor_memory.other_runs, machine)
    assert "--  other runs: process 4242: python -m score_jax train" in line
    machine = Machine(environ={}, root=tmp_path, workdir="/data/runs/a/")
    assert "!!  other runs" in lines(doctor_memory.other_runs, machine)[0]
    tree(tmp_path, {"/dev/accel0": ""})
    machine = Machine(environ={}, root=tmp_path, workdir="/data/runs/b")
    assert "two jobs on one accelerator" in lines(doctor_memory.other_runs, machine)[0]


@pytest.mark.parametrize(
    ("job", "theirs", "ours", "mark"),
    [
        ("train", {}, {}, "!!"),
        ("autoattack", {"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "1"}, "!!"),
        ("train", {"CUDA_VISIBLE_DEVICES": "0"}, {}, "!!"),
        ("train", {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}, "--"),
        ("train", {"JAX_PLATFORMS": "cpu"}, {}, "--"),
        ("train", {}, {"JAX_PLATFORMS": "cpu"}, "--"),
        ("submit", {}, {}, "--"),
    ],
)
def test_jobs_on_other_devices_are_a_remark(tmp_path, job, theirs, ours, mark):
    environ = "\0".join(f"{name}={value}" for name, value in theirs.items())
    words = f"/bin/python\0/bin/score-jax\0{job}\0--workdir=runs/a\0"
    tree(tmp_path, {"/proc/42/cmdline": words, "/proc/42/environ": environ, "/dev/nvidia0": ""})
    (line,) = lines(doctor_memory.other_runs, Machine(environ=ours, root=tmp_path))
    assert line.startswith(f"{mark}  other runs: process 42: /bin/python /bin/score-jax {job}")


def test_the_folder_of_compiled_programs_is_looked_at(tmp_path):
    folder = tmp_path / "cache"
    named = {"JAX_COMPILATION_CACHE_DIR": str(folder)}
    (line,) = lines(doctor_cache.kept, Machine(environ=named))
    assert line == f"ok  compile cache: {folder} will be made"
    tree(folder, {"jit_step-cache": "x" * 2048, "jit_step-atime": ""})
    assert "1 programs, 2.0 KiB" in lines(doctor_cache.kept, Machine(environ=named))[0]
    folder.chmod(0o777)
    assert "other users may write" in lines(doctor_cache.kept, Machine(environ=named))[0]
    named = {"JAX_COMPILATION_CACHE_DIR": "/sys/kernel"}
    assert (
        "!!  compile cache: /sys/kernel cann" in lines(doctor_cache.kept, Machine(environ=named))[0]
    )
    off = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    assert "every start compiles anew" in lines(doctor_cache.kept, Machine(environ=off))[0]


def test_what_is_set_is_listed():
    environ = {"JAX_PLATFORMS": "cpu", "HOME": "/", **{f"SLURM_{i}": "x" for i in range(10)}}
    assert lines(doctor_variables.listed, Machine(environ=environ)) == [
        "ok  JAX_*: JAX_PLATFORMS=cpu",
        f"ok  SLURM_*: {', '.join(f'SLURM_{i}=x' for i in range(8))} and 2 more",
    ]


def test_a_check_that_fails_is_a_line_and_the_others_go_on(monkeypatch):
    def broken(machine):
        raise ZeroDivisionError("by 0")

    def sound(machine):
        yield doctor_finding.fine("sound", "yes")

    monkeypatch.setitem(doctor.GROUPS, "memory", (broken, sound))
    found = [str(finding) for finding in doctor.examine(Machine(environ={}), ["memory"])]
    assert found[0] == "ok  run: one process, alone"
    assert found[1].startswith("!!  memory, broken: this check failed: ZeroDivisionError: by 0")
    assert found[2] == "ok  sound: yes"


def test_the_job_ends_with_the_number_of_things_to_mend(capsys, monkeypatch, tmp_path):
    assert cli.main(["doctor", "clock", "cache", f"--workdir={tmp_path}"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("ok  host: ")
    assert "ok  clock of workdir: 0." in told.out
    assert cli.main(["doctor", "storage", "--workdir=gs://bucket/run", "--config=no.py"]) == 2
    told = capsys.readouterr()
    assert "!!  workdir: gs://bucket/run is not a folder of this machine; mount the buc" in told.out
    assert "!!  config: --config=no.py: no such file" in told.out
    assert "2 thing(s) to mend" in told.err
    assert cli.main(["doctor", "storag"]) == 2
    assert "did you mean 'storage'?" in capsys.readouterr().err
