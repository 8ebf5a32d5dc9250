"""The doctor on libraries and devices of machines that are made up."""

import fcntl
import os
import subprocess
import sys

import pytest

from score_jax import doctor_devices, doctor_versions
from score_jax.doctor_finding import Machine
from tests.doctor_machines import lines, tree


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
    patience = 2 if "sleep" in text else 30
    return Machine(environ={"PYTHONPATH": str(folder)}, root=folder, patience=patience)


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
        (remark,) = lines(doctor_devices.tpu_lock, machine)
        tree(tmp_path, {"/dev/accel0": ""})
        (line,) = lines(doctor_devices.tpu_lock, machine)
        holder.stdin.close()
    assert remark.startswith(f"--  tpu lock: held by process {holder.pid}: ")
    assert f"!!  tpu lock: held by process {holder.pid}: {sys.executable}" in line
    assert file.exists()
    with file.open("r+") as mine:
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            "echo '0, GPU-12ab, H100, 570.1, 500, 81559'",
            "ok  gpu: 0 is a H100, driver 570.1, 500.0 MiB of",
        ),
        ("echo '0, GPU-12ab, H100, 570.1, 70000, 81559'", "!!  gpu: 0 is a H100"),
        ("echo 'Failed to initialize NVML' >&2; exit 9", "!!  gpu: nvidia-smi failed: Failed to"),
        ("exec sleep 60", "!!  gpu: nvidia-smi failed: no answer"),
    ],
)
def test_the_driver_of_gpus_is_asked(tmp_path, script, text):
    tree(tmp_path, {"nvidia-smi": f"#!/bin/sh\n{script}\n"})
    (tmp_path / "nvidia-smi").chmod(0o755)
    patience = 1 if "sleep" in script else 30
    environ = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    machine = Machine(environ=environ, root=tmp_path, patience=patience)
    assert text in lines(doctor_devices.gpus, machine)[0]


@pytest.mark.parametrize(
    ("visible", "marks"),
    [(None, "!! !!"), ("1", "-- !!"), ("GPU-12", "!! --"), ("", "-- --"), ("MIG-1", "!! !!")],
)
def test_a_busy_gpu_matters_where_it_is_visible(tmp_path, visible, marks):
    both = "0, GPU-12ab, H100, 570.1, 70000, 81559\n1, GPU-34cd, H100, 570.1, 70000, 81559"
    tree(tmp_path, {"nvidia-smi": f"#!/bin/sh\necho '{both}'\n"})
    (tmp_path / "nvidia-smi").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    environ |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = lines(doctor_devices.gpus, Machine(environ=environ, root=tmp_path))
    assert [line[:2] for line in found] == marks.split()


def test_a_lock_of_another_user_is_told(monkeypatch, tmp_path):
    machine = Machine(environ={}, root=tree(tmp_path, {"/dev/accel0": ""}))
    assert lines(doctor_devices.tpu_lock, machine) == [
        "ok  tpu lock: free: no /tmp/libtpu_lockfile"
    ]
    tree(tmp_path, {"/tmp/libtpu_lockfile": ""})
    monkeypatch.setattr(os, "access", lambda file, mode: False)  # For root nothing is closed.
    (line,) = lines(doctor_devices.tpu_lock, machine)
    assert line.startswith("!!  tpu lock: /tmp/libtpu_lockfile was left by another user (uid ")
    assert line.endswith("nobody holds it; sudo rm /tmp/libtpu_lockfile")
    inode = (tmp_path / "tmp/libtpu_lockfile").stat().st_ino
    tree(tmp_path, {"/proc/locks": f"1: POSIX  ADVISORY  WRITE 9 00:01:{inode} 0 EOF\n"})
    (line,) = lines(doctor_devices.tpu_lock, machine)
    assert "held by process 9: a process of another user or container; end it (kill 9)" in line


def test_a_machine_without_score_jax_is_told(tmp_path):
    machine = Machine(environ={}, packages=(str(tmp_path),))
    (line,) = lines(doctor_versions.libraries, machine)
    assert line == "!!  libraries: score_jax is not installed here; pip install -e ."


def test_this_installation_is_sound():
    machine = Machine(environ={})
    found = [line for check in doctor_versions.CHECKS for line in lines(check, machine)]
    assert not [line for line in found if line.startswith("!!")]
    assert any(line.startswith("ok  python: 3.") for line in found)
