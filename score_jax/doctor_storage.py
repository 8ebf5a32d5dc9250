"""The doctor on folders: may a run write there, is there room, will it last?"""

import errno
import os
import platform
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from score_jax import doctor_needs
from score_jax.data import sources
from score_jax.doctor_finding import Finding, Machine, fine, remark, size, wrong
from score_jax.types import UserError

Result = TypeVar("Result")
PROBE = ".score_jax_doctor_"
PATIENCE = 20.0  # Seconds that a file system has.
SLOW = 2.0  # Seconds for the probe that are worth a word.
TEMPORARY = ("tmpfs", "ramfs", "devtmpfs")
REMEDIES = {
    errno.EACCES: "give this user the right to write there (chown, chmod), or use another folder",
    errno.EPERM: "give this user the right to write there (chown, chmod), or use another folder",
    errno.EROFS: "it is mounted read-only: mount it for writing, or use another folder",
    errno.ENOSPC: "make room, or use another folder",
    errno.EDQUOT: "your quota is used up: make room, or ask for more",
    errno.ESTALE: "the server of this mount changed: mount it anew",
    errno.ENOTCONN: "the program behind this mount ended (gcsfuse?): mount it anew",
    errno.EIO: "the disk or its server fails (dmesg tells more): use another folder",
    errno.ENOTDIR: "it is a file: give a folder",
}


@dataclass(frozen=True)
class Trial:
    """What a probe file showed: seconds it took, and how far the storage's clock is ahead."""

    seconds: float
    skew: float


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """The result of a function that may hang, as a call into a dead mount does.

    Raises:
      TimeoutError: it did not come back; its thread stays behind.
    """
    results: queue.Queue[tuple[bool, object]] = queue.Queue()

    def work() -> None:
        try:
            results.put((True, function()))
        except Exception as error:
            results.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        is_result, value = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if not is_result:
        raise value  # type: ignore[misc]
    return value  # type: ignore[return-value]


def existing(path: Path) -> Path:
    """A folder, or the nearest above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def try_out(folder: Path) -> Trial:
    """Writes, syncs, reads back, renames and deletes a file of its own, as a save does.

    Raises:
      OSError: one of these failed.
    """
    first = folder / f"{PROBE}{platform.node()}_{os.getpid()}"
    second = first.with_name(first.name + "_renamed")
    content = os.urandom(1 << 16)
    begin = time.monotonic()
    try:
        with first.open("xb") as file:
            before = time.time()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            skew = os.fstat(file.fileno()).st_mtime - before
        first.replace(second)
        if second.read_bytes() != content:
            raise OSError(errno.EIO, "what was written is not what is read")
    finally:
        for file in (first, second):
            file.unlink(missing_ok=True)
    return Trial(time.monotonic() - begin, skew)


def workdir(machine: Machine) -> Iterator[Finding]:
    """May the run write its folder, and is there room for its checkpoints?"""
    if not machine.workdir:
        yield remark("workdir", "no --workdir was given")
        return
    if "://" in machine.workdir:
        yield wrong(
            "workdir",
            f"{machine.workdir} is not a folder of this machine",
            "mount the bucket (gcsfuse) and give the mounted folder",
        )
        return
    path = Path(machine.workdir).expanduser().absolute()
    yield from _writable("workdir", machine, path)
    need = doctor_needs.of(machine)
    yield from _room("workdir", path, need.storage_bytes if need else 0)


def _writable(name: str, machine: Machine, path: Path) -> Iterator[Finding]:
    try:
        folder = within(PATIENCE, lambda: existing(path))
        trial = within(PATIENCE, lambda: try_out(folder))
    except TimeoutError as error:
        yield wrong(name, f"{path}: {error}", "its server is gone: mount it anew, or use another")
        return
    except OSError as error:
        where = error.filename or path
        text = f"{where if str(where).startswith(str(path)) else path} cannot be written"
        remedy = REMEDIES.get(error.errno or 0, "use another folder")
        yield wrong(name, f"{text} ({error.strerror or error})", remedy)
        return
    kind, is_shared = file_system(machine, folder)
    state = "is writable" if folder == path else f"will be made in {folder}, which is writable"
    text = f"{path} {state} ({kind})"
    if kind in TEMPORARY:
        remedy = "use a disk, where the run is to outlast a reboot"
        yield remark(name, f"{text}: it lies in memory", remedy)
    elif kind == "overlay":
        remedy = "mount a volume, where the run is to outlast this container"
        yield remark(name, f"{text}: it lies in the container, and goes with it", remedy)
    elif trial.seconds > SLOW:
        remedy = "expect slow saves; a local disk or a parallel file system is faster"
        yield remark(name, f"{text}, but 64 KiB took {trial.seconds:.1f} s", remedy)
    elif machine.num_processes > 1 and not is_shared:
        remedy = "processes of other machines need the same folder: use one that all mount"
        yield remark(name, f"{text}: of this machine alone", remedy)
    else:
        yield fine(name, text)


def file_system(machine: Machine, folder: Path) -> tuple[str, bool]:
    """Kind of the file system of a folder, such as 'ext4', and whether other machines see it."""
    best, kind, source = "", "unknown", ""
    for line in machine.read("/proc/mounts").splitlines():
        device, place, name = line.split()[:3]
        # The kernel writes a space as \040.
        place = re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), place)
        inside = place == "/" or folder == Path(place) or Path(place) in folder.parents
        if inside and len(place) >= len(best):
            best, kind, source = place, name, device
    local = ("ext", "xfs", "btrfs", "zfs", "overlay", "f2fs", *TEMPORARY)
    if kind == "fuse" and source:
        kind = f"fuse.{source}"  # gcsfuse names itself there.
    return kind, not kind.startswith(local) and kind != "unknown"


def _room(name: str, path: Path, needed: int) -> Iterator[Finding]:
    try:
        folder = within(PATIENCE, lambda: existing(path))
        usage = within(PATIENCE, lambda: shutil.disk_usage(folder))
        status = within(PATIENCE, lambda: os.statvfs(folder))
    except OSError:
        return  # Told by the trial.
    if not usage.total:  # /proc, /sys, and some mounted buckets have no size.
        yield remark(f"{name} room", f"{folder} does not tell how much there is")
        return
    text = f"{size(usage.free)} of {size(usage.total)} free"
    text += f", the run takes {size(needed)} at most" if needed else ""
    if needed and usage.free < needed:
        yield wrong(f"{name} room", text, "make room, lower --config.checkpoint.keep, or move it")
    elif status.f_files and not status.f_favail:
        yield wrong(f"{name} room", f"{text}, but no file can be added", "delete small files")
    else:
        yield fine(f"{name} room", text)


def data(machine: Machine) -> Iterator[Finding]:
    """Are the datasets prepared, or may they be prepared there?"""
    need = doctor_needs.of(machine)
    given = (need.data_dir if need else machine.data_dir) or machine.environ.get(
        "TFDS_DATA_DIR", ""
    )
    try:
        root = sources.data_folder(given)
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        yield wrong("data", text, remedy)
        return
    names = need.datasets if need else tuple(sources.DATASETS)
    try:
        found = within(PATIENCE, lambda: {name: sources.find(name, str(root)) for name in names})
    except TimeoutError as error:
        yield wrong("data", f"{root}: {error}", "its server is gone: mount it anew")
        return
    for name in names if need else ():
        if (folder := found[name]) is None:
            remedy = f"{sources.prepare_command(name)} --data_dir={root}"
            yield wrong("data", f"{name} is not prepared in {root}", remedy)
        else:
            yield from _readable(name, folder)
    if not need:
        there = ", ".join(name for name, folder in found.items() if folder)
        yield fine("data", f"{root} holds {there or 'no prepared dataset'}")
    if None in found.values() and need or machine.data_dir and not need:
        yield from _writable("data", machine, root)


def _readable(name: str, folder: Path) -> Iterator[Finding]:
    def read() -> tuple[int, int]:
        files = [file for file in folder.iterdir() if file.is_file()]
        for file in files:
            with file.open("rb") as opened:
                opened.read(1)
        return len(files), sum(file.stat().st_size for file in files)

    try:
        count, total = within(PATIENCE, read)
    except TimeoutError as error:
        yield wrong("data", f"{folder}: {error}", "its server is gone: mount it anew")
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "prepare it again in another folder")
        remedy = remedy.replace("write", "read")
        yield wrong("data", f"{error.filename} cannot be read ({error.strerror})", remedy)
    else:
        yield fine("data", f"{name} is prepared: {count} files, {size(total)}, in {folder}")


def recipe(machine: Machine) -> Iterator[Finding]:
    """Is the recipe one, is it that of the run in the folder, and how large are its checkpoints?"""
    if problem := doctor_needs.problem(machine):
        text, _, remedy = problem.partition("; ")
        yield wrong("config", text, remedy or "mend the recipe")
        return
    need = doctor_needs.of(machine)
    if need is None:
        yield remark("config", "neither --config nor the folder of a run: its needs are not known")
        return
    text = f"{need.source}: a checkpoint has {size(need.checkpoint_bytes)}"
    yield fine("config", f"{text}, all that are kept {size(need.storage_bytes)}")
    if need.other:
        text = f"{machine.workdir} holds a run with another config ({', '.join(need.other[:4])})"
        yield wrong("config", text, "use a new --workdir, or the config of that run")


CHECKS = (recipe, workdir, data)
