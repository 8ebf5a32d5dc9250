"""The doctor on folders and clocks."""

import os
import subprocess
import sys
import time

import pytest

from score_jax import config as config_lib
from score_jax import doctor_clock, doctor_needs, doctor_storage, recipes
from score_jax.data import builders
from score_jax.doctor_finding import Machine
from score_jax.doctor_storage import PROBE, Trial
from score_jax.workdir import write_json_atomic
from tests.doctor_machines import lines


def need(**fields):
    usual = dict(checkpoint_bytes=1, storage_bytes=1, host_bytes=1, datasets=(), data_dir="")
    return doctor_needs.Need(**usual | fields)


def test_a_good_folder_is_told_and_left_as_it_was(tmp_path):
    (tmp_path / "mine").write_text("x")
    machine = Machine(environ={}, workdir=str(tmp_path / "run/1"))
    writable, room = lines(doctor_storage.workdir, machine)
    assert f"{tmp_path}/run/1 will be made in {tmp_path}, which is writable (" in writable
    assert room.startswith("ok  workdir room: ")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    machine = Machine(environ={}, workdir="/sys/kernel")
    (line, *_) = lines(doctor_storage.workdir, machine)
    assert line.startswith("!!  workdir: /sys/kernel")
    assert "cannot be written (Permission denied); give this user the right" in line
    (tmp_path / "file").write_text("x")
    (line, *_) = lines(doctor_storage.workdir, Machine(environ={}, workdir=str(tmp_path / "file")))
    assert "cannot be written (Not a directory); it is a file: give a folder" in line
    (*_, line) = lines(doctor_storage.workdir, Machine(environ={}, workdir="/proc/x"))
    assert line == "--  workdir room: /proc does not tell how much there is"
    (line,) = lines(doctor_storage.workdir, Machine(environ={}, workdir="gs://bucket/run"))
    assert "is not a folder of this machine; mount the bucket (gcsfuse)" in line


def test_a_full_folder_is_told(tmp_path):
    code = (
        "import subprocess, sys\n"
        "folder = sys.argv[1]\n"
        "made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=8k', 'none', folder])\n"
        "if made.returncode: sys.exit(77)\n"
        "from score_jax import doctor_storage\n"
        "from score_jax.doctor_finding import Machine\n"
        "print(*doctor_storage.workdir(Machine(environ={}, workdir=folder)), sep='\\n')\n"
    )
    words = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", code]
    try:
        run = subprocess.run([*words, str(tmp_path)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if run.returncode == 77 or "unshare" in run.stderr:
        pytest.skip("no file system may be mounted here")
    assert "cannot be written (No space left on device); make room" in run.stdout, run.stderr


def test_too_little_room_for_the_checkpoints_is_told(tmp_path):
    machine = Machine(environ={}, workdir=str(tmp_path), recipe="a.py")
    machine.facts["need"] = need(storage_bytes=2**60)
    line = lines(doctor_storage.workdir, machine)[1]
    assert line.startswith("!!  workdir room: ")
    assert "the run takes 1048576.0 TiB at most; make room, lower --config.checkpoint.keep" in line


@pytest.mark.parametrize(
    ("mount", "processes", "text"),
    [
        ("none {} tmpfs rw 0 0", 1, "(tmpfs): it lies in memory; use a disk"),
        ("overlay {} overlay rw 0 0", 1, "(overlay): it lies in the container, and goes with it"),
        ("/dev/sda {} ext4 rw 0 0", 2, "(ext4): of this machine alone; processes of other"),
        ("/dev/sda {} ext4 rw 0 0", 1, "is writable (ext4)"),
        ("srv:/home {} nfs4 rw 0 0", 2, "is writable (nfs4)"),
        ("gcsfuse {} fuse rw 0 0", 2, "is writable (fuse.gcsfuse)"),
    ],
)
def test_the_kind_of_file_system_is_told(tmp_path, mount, processes, text):
    (tmp_path / "proc").mkdir()
    folder = tmp_path / "a b"
    folder.mkdir()
    other = f"/dev/sdb {tmp_path}/a xfs rw 0 0\nroot / ext3 rw 0 0\n"
    shown = mount.format(str(folder).replace(" ", "\\040"))
    (tmp_path / "proc/mounts").write_text(f"{other}{shown}\n")
    machine = Machine(environ={}, root=tmp_path, workdir=str(folder), num_processes=processes)
    assert text in lines(doctor_storage.workdir, machine)[0]


def test_a_mount_that_hangs_does_not_hang_the_doctor(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_storage, "PATIENCE", 0.1)
    monkeypatch.setattr(doctor_storage, "try_out", lambda folder: time.sleep(5))
    (line, *_) = lines(doctor_storage.workdir, Machine(environ={}, workdir=str(tmp_path)))
    assert line.startswith(f"!!  workdir: {tmp_path}: no answer within 0 s; its server is gone")


def test_slow_storage_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_storage, "try_out", lambda folder: Trial(7.0, 0.0))
    (line, *_) = lines(doctor_storage.workdir, Machine(environ={}, workdir=str(tmp_path)))
    assert line.startswith("--  workdir: ")
    assert "but 64 KiB took 7.0 s; expect slow saves" in line


def test_the_dataset_of_the_recipe_is_looked_for(tmp_path):
    machine = Machine(environ={}, data_dir=str(tmp_path), recipe="a.py")
    machine.facts["need"] = need(datasets=("digits",), data_dir=str(tmp_path))
    missing, writable = lines(doctor_storage.data, machine)
    assert "!!  data: digits is not prepared in" in missing
    assert f"score-jax data prepare digits --data_dir={tmp_path}" in missing
    assert f"ok  data: {tmp_path} is writable" in writable.replace("--", "ok")
    folder = tmp_path / builders.relative_path("digits")
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    (line,) = lines(doctor_storage.data, machine)
    assert line == f"ok  data: digits is prepared: 1 files, 2 B, in {folder}"
    (folder / "broken").symlink_to("/proc/self/mem")
    (line,) = lines(doctor_storage.data, machine)
    assert line.startswith(f"!!  data: {folder}") or "cannot be read" in line
    (line,) = lines(doctor_storage.data, Machine(environ={"TFDS_DATA_DIR": "gs://data"}))
    assert "!!  data: data.dir=gs://data is not a local folder; copy it" in line


def test_the_needs_of_a_recipe_are_those_of_its_state():
    machine = Machine(
        environ={}, recipe="configs/digits_score.py", overrides=("checkpoint.keep=2",)
    )
    found = doctor_needs.of(machine)
    assert found.datasets == ("digits",)
    # Weights, their averages and momenta in 4 bytes each, and a little more.
    assert 3 * 40_000 * 4 < found.checkpoint_bytes < 3 * 80_000 * 4
    assert 3 * found.checkpoint_bytes < found.storage_bytes < 5 * found.checkpoint_bytes
    (line,) = lines(doctor_storage.recipe, machine)
    assert line.startswith("ok  config: configs/digits_score.py: a checkpoint has ")
    machine = Machine(environ={}, recipe="configs/digits_score.py", overrides=("batch=2",))
    (line,) = lines(doctor_storage.recipe, machine)
    assert line.startswith("!!  config: ")


def test_the_run_in_the_folder_is_compared_with_the_recipe(tmp_path):
    config = recipes.load("configs/digits_score.py", ["num_epochs=7"])
    write_json_atomic(tmp_path / "config.json", config_lib.to_dict(config))
    machine = Machine(environ={}, workdir=str(tmp_path))
    (line,) = lines(doctor_storage.recipe, machine)
    assert line.startswith(f"ok  config: the run in {tmp_path}: a checkpoint has ")
    fields = dict(environ={}, workdir=str(tmp_path), recipe="configs/digits_score.py")
    known = lines(doctor_storage.recipe, Machine(**fields, overrides=("num_epochs=7",)))
    assert known == [line.replace(f"the run in {tmp_path}", "configs/digits_score.py")]
    other = lines(doctor_storage.recipe, Machine(**fields))[1]
    assert other.startswith(f"!!  config: {tmp_path} holds a run with another config (num_epochs")
    (tmp_path / "config.json").write_text("{")
    (line,) = lines(doctor_storage.recipe, Machine(environ={}, workdir=str(tmp_path)))
    assert line.startswith(f"!!  config: {tmp_path}/config.json is not the config of a run")


def test_a_clock_that_is_wrong_is_told(monkeypatch, tmp_path):
    machine = Machine(environ={}, workdir=str(tmp_path))
    assert lines(doctor_clock.today, machine)[0].startswith("ok  clock: 20")
    assert lines(doctor_clock.storage, machine)[0].startswith("ok  clock of workdir: 0.")
    monkeypatch.setattr(doctor_clock, "try_out", lambda folder: Trial(0, -100))
    (line,) = lines(doctor_clock.storage, machine)
    assert line.startswith("!!  clock of workdir: 100.0 s behind this machine; on the server")
    monkeypatch.setattr(doctor_clock.time, "time", lambda: 10.0)
    (line,) = lines(doctor_clock.today, machine)
    assert "!!  clock: 1970-01-01 00:00:10 UTC is before this program was installed; let" in line


def test_a_probe_leaves_no_file_where_it_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        doctor_storage.try_out(tmp_path)
    assert not list(tmp_path.glob(f"{PROBE}*"))
