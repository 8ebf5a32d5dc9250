"""The doctor on machines that are made up: libraries, devices, variables, memory; and the job."""

import fcntl
import os
import resource
import subprocess
import sys

import pytest

from score_jax import (
    cli,
    doctor,
    doctor_cache,
    doctor_devices,
    doctor_finding,
    doctor_memory,
    doctor_variables,
    doctor_versions,
)
from score_jax.doctor_finding import Machine


def tree(root, files):
    """Writes files under a root: name to text."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def lines(check, machine):
    return [str(finding) for finding in check(machine)]


def library(root, name, version, *needs, extras=()):
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    text += "".join(f"Provides-Extra: {extra}\n" for extra in extras)
    text += "".join(f"Requires-Dist: {need}\n" for need in needs)
    tree(root, {f"{name.replace('-', '_')}-{version}.dist-info/METADATA": text})


def core(root, **versions):
    """A complete installation, with other versions of some of its libraries."""
    chosen = {"flax": "0.12.8", "jax": "0.10.2", "jaxlib": "0.10.2", **versions}
    needs = ["flax<0.13,>=0.12.8", "jax", 'torch; extra == "torch"', 'jax[tpu]; extra == "tpu"']
    library(root, "score_jax", "0.1.0", *needs, extras=("torch", "tpu"))
    if chosen["flax"]:
        library(root, "flax", chosen["flax"], "jax>=0.9")
    library(
        root, "jax", chosen["jax"], "jaxlib<=0.10.2,>=0.10.1",
        'libtpu==0.0.42.*; extra == "tpu"',
        'jax-cuda12-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda12"',
        'jax-cuda13-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda13"',
    )  # fmt: skip
    library(root, "jaxlib", chosen["jaxlib"])
    return Machine(environ={}, packages=(str(root),))


def test_libraries_that_fit_are_told_in_a_line(tmp_path):
    (line,) = lines(doctor_versions.libraries, core(tmp_path))
    assert line == "ok  libraries: 4 fit together: jax 0.10.2, jaxlib 0.10.2, flax 0.12.8"


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        (dict(flax="0.13.0"), "!!  libraries: flax is 0.13.0, and score-jax needs <0.13,>=0.12.8"),
        (dict(flax=""), "!!  libraries: flax is missing (score-jax needs it); pip install"),
        (dict(jaxlib="0.9.0"), "!!  libraries: jaxlib is 0.9.0, and jax needs <=0.10.2,>=0.10.1"),
    ],
)
def test_a_library_that_does_not_fit_is_named(tmp_path, versions, text):
    assert any(
        text in line for line in lines(doctor_versions.libraries, core(tmp_path, **versions))
    )


@pytest.mark.parametrize(
    ("there", "text"),
    [
        ([("libtpu", "0.0.42.1")], "ok  plugin: libtpu 0.0.42.1 fits jax 0.10.2"),
        ([("libtpu", "0.0.17")], "!!  plugin: libtpu is 0.0.17, and jax 0.10.2 needs ==0.0.42.*"),
        ([("jax-cuda12-plugin", "0.9.0")], "!!  plugin: jax-cuda12-plugin is 0.9.0, and jax"),
        (
            [("jax-cuda12-plugin", "0.10.2"), ("jax-cuda13-plugin", "0.10.2")],
            "both drive the device; keep one: pip uninstall jax-cuda1",
        ),
        (
            [("jax-cuda12-plugin", "0.10.2", 'nvidia-cudnn>=9; extra == "with-cuda"'),
             ("nvidia-cudnn", "8.1")],
            "!!  plugin: jax-cuda12-plugin 0.10.2: nvidia-cudnn is 8.1, and jax-cuda12-plugin",
        ),
        ([], "ok  plugin: none: JAX computes on the CPU"),
    ],
)  # fmt: skip
def test_plugins_fit_jax_and_stand_alone(tmp_path, there, text):
    machine = core(tmp_path)
    for one in there:
        library(tmp_path, *one)
    assert any(text in line for line in lines(doctor_versions.plugins, machine))


def test_other_versions_strangers_and_extras_are_told(tmp_path):
    machine = core(tmp_path, flax="0.12.9")
    library(tmp_path, "tensorflow", "2.20.0")
    assert "others were tested: flax 0.12.9 (0.12.8)" in lines(doctor_versions.tested, machine)[0]
    assert "tensorflow 2.20.0 is installed" in lines(doctor_versions.strangers, machine)[0]
    assert lines(doctor_versions.extras, machine) == ["ok  extras: none; not there: torch, tpu"]
    library(tmp_path, "libtpu", "0.0.42.1")
    assert lines(doctor_versions.extras, machine) == ["ok  extras: tpu; not there: torch"]


def pretend_jax(folder, text):
    """A machine on which `import jax` does as `text`."""
    tree(folder, {"jax.py": text})
    return Machine(environ={"PYTHONPATH": str(folder)}, root=folder, patience=2)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "import time; time.sleep(60)",
            "!!  jax devices: JAX did not start within 2 s; on a slice",
        ),
        ("raise RuntimeError('CUDA_ERROR_NO_DEVICE: x')", "finds no device (CUDA_ERROR_NO_DEVICE)"),
        ("raise RuntimeError('The TPU is already in use by process with pid 7.')", "has the TPU"),
        ("raise ImportError('libfoo.so')", "did not start (exit code 1): ImportError: libfoo.so"),
    ],
)
def test_a_start_of_jax_that_fails_or_hangs_is_told(tmp_path, text, line):
    assert line in lines(doctor_devices.jax_devices, pretend_jax(tmp_path, text))[0]


def test_jax_on_the_cpu_beside_a_device_is_told_with_the_reason(tmp_path):
    tree(tmp_path, {"/dev/nvidia0": "", "/dev/nvidia1": "", "/dev/nvidiactl": ""})
    machine = Machine(environ={"JAX_PLATFORMS": "cpu"}, root=tmp_path)
    (line,) = lines(doctor_devices.jax_devices, machine)
    assert "although there is 2 device file(s) of a gpu; unset JAX_PLATFORMS (it is cpu)" in line
    reasons = [
        ({"CUDA_VISIBLE_DEVICES": ""}, (), "unset CUDA_VISIBLE_DEVICES"),
        ({}, (str(tmp_path),), "pip install 'jax[cuda12]'"),
    ]
    for environ, packages, reason in reasons:
        machine = Machine(environ=environ, root=tmp_path, packages=packages)
        assert reason in doctor_devices._why_cpu(machine, "")


def test_chips_without_a_device_file_are_told(tmp_path):
    files = {"/sys/bus/pci/devices/a/vendor": "0x1ae0\n", "/sys/bus/pci/devices/a/device": "0x0063"}
    card = {"/sys/bus/pci/devices/b/vendor": "0x1ae0\n", "/sys/bus/pci/devices/b/device": "0x0042"}
    pages = {"/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"}
    machine = Machine(environ={}, root=tree(tmp_path, files | card | pages))
    missing, slow = lines(doctor_devices.tpu_chips, machine)
    assert "!!  tpu: 1 chip(s) on the PCI bus, and no /dev/accel*" in missing
    assert "--  tpu: transparent huge pages are off" in slow


def test_the_holder_of_the_tpu_lock_is_named_and_the_lock_stays(tmp_path):
    tree(tmp_path, {"/tmp/libtpu_lockfile": ""})
    (tmp_path / "proc").symlink_to("/proc")
    file, machine = tmp_path / "tmp/libtpu_lockfile", Machine(environ={}, root=tmp_path)
    assert "nobody holds it" in lines(doctor_devices.tpu_lock, machine)[0]
    code = f"import fcntl; f = open({str(file)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    words = [sys.executable, "-c", code + "print(1, flush=True); input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        (line,) = lines(doctor_devices.tpu_lock, machine)
        holder.stdin.close()
    assert f"!!  tpu lock: held by process {holder.pid}: {sys.executable}" in line
    assert file.exists()
    with file.open("r+") as mine:
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo '0, H100, 570.1, 500, 81559'", "ok  gpu: 0 is a H100, driver 570.1, 500.0 MiB of"),
        ("echo '0, H100, 570.1, 70000, 81559'", "!!  gpu: 0 is a H100"),
        ("echo 'Failed to initialize NVML' >&2; exit 9", "!!  gpu: nvidia-smi failed: Failed to"),
        ("exec sleep 60", "!!  gpu: nvidia-smi failed: no answer"),
    ],
)
def test_the_driver_of_gpus_is_asked(tmp_path, script, text):
    tree(tmp_path, {"nvidia-smi": f"#!/bin/sh\n{script}\n"})
    (tmp_path / "nvidia-smi").chmod(0o755)
    machine = Machine(environ={"PATH": f"{tmp_path}:/bin:/usr/bin"}, root=tmp_path, patience=1)
    assert text in lines(doctor_devices.gpus, machine)[0]


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
        ("tpu", {**SLICE, "TPU_HOST_BOUNDS": "2,2,1"}, "and TPU_PROCESS_BOUNDS=2,2,1; take both"),
        ("tpu", SLICE, "2 host(s), and --num_processes=3; give --num_processes=2"),
        ("tpu", {"TPU_LIBRARY_PATH": "/none.so"}, "/none.so is not there"),
        (
            "megascale",
            {"MEGASCALE_NUM_SLICES": "1"},
            "for one slice (MEGASCALE_NUM_SLICES=1); unset",
        ),
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
    found = lines(getattr(doctor_variables, check), machine)
    assert any(text in line for line in found), found


def test_variables_of_a_tpu_are_stale_where_there_is_none(tmp_path):
    machine = Machine(environ={**SLICE, **SLICES}, root=tmp_path)
    assert "there is no TPU here; unset TPU_WORKER" in lines(doctor_variables.tpu, machine)[-1]
    assert "there is no TPU here; unset MEGASC" in lines(doctor_variables.megascale, machine)[-1]


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


def test_few_open_files_and_little_shared_memory_are_told(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        found = lines(doctor_memory.limits, Machine(environ={}, root=tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "!!  open files: 256" in found[0]
    assert found[1] == "--  shared memory: there is no /dev/shm"


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
    assert "ok  clock of workdir: 0.0 s" in told.out
    assert cli.main(["doctor", "storage", "--workdir=gs://bucket/run", "--config=no.py"]) == 2
    told = capsys.readouterr()
    assert "!!  workdir: gs://bucket/run is not a folder of this machine; mount the buc" in told.out
    assert "!!  config: --config=no.py: no such file" in told.out
    assert "2 thing(s) to mend" in told.err
    assert cli.main(["doctor", "storag"]) == 2
    assert "did you mean 'storage'?" in capsys.readouterr().err
