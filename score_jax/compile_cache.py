"""Compiled programs kept on disk, so that a run that starts again need not compile again.

JAX's persistent compilation cache does the work. Process 0 writes, every process reads. Here it
gets a folder inside the run's, and that folder is looked after: JAX never replaces an entry, so one
that a kill or a full disk cut short would be met again at every start, and what is read is executed
(go on only in run folders of people you trust).

A key holds the program, the versions, the flags, the devices and the path of the folder. A program
for the CPU is machine code for its kind of CPU, so each kind has a folder of its own; of several
processes on CPUs only process 0 finds its keys again, the others compile.

`JAX_COMPILATION_CACHE_DIR=DIR` names another folder, seen by all processes, which several runs may
share (also on a bucket, gs://...), and which is left as it is; `JAX_ENABLE_COMPILATION_CACHE=0`
turns the cache off.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from score_jax import distributed

LOGGER = logging.getLogger("score_jax")
SEALS = "seals.json"  # Of each whole entry: its SHA-256.
# Nothing is too quick to be kept: the small programs of a start take seconds together.
MIN_COMPILE_SECONDS = 0.0
WRITES = "/jax/compilation_cache/cache_misses"  # Said before a program is written.
COMPILED = "/jax/core/compile/backend_compile_duration"  # After it is written, or read.
SHARE = 0.1  # Of the time that programs took to compile: recording them may take so much.
ZLIB = b"\x78"  # The first byte.
MAX_BYTES = 2 * 1024**3


@contextlib.contextmanager
def enabled(folder: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[Path | None]:
    """While entered, compilations are read from `folder` and, by process 0, written to it.

    Every process enters it, after `jax.distributed.initialize`, after the run's folder is opened (a
    new one must be empty) and before the first compilation::

        with compile_cache.enabled(place.path / "compile_cache"):
            state = train_state.create(...)

    On entry entries that are not whole are dropped, and the oldest ones where together they exceed
    `max_bytes`. A folder that cannot be written is no error: it is told, and nothing is kept.

    Yields:
      The folder in use, or None where there is none.
    """
    chosen = jax.config.jax_compilation_cache_dir
    is_on = jax.config.jax_enable_compilation_cache
    is_primary, folder = distributed.is_primary(), folder / _machine()
    is_own = is_on and not chosen and (not is_primary or _is_prepared(folder, max_bytes))
    # Nobody looks before process 0 has dropped something: on GPUs a process that compiles waits for
    # what the others measure while they compile.
    if not distributed.from_primary(is_own) or not is_own:
        yield Path(chosen) if is_on and chosen else None
        return
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    compilation_cache.reset_cache()  # It may be open on the folder of another run.

    seals = _Seals(folder)
    if is_primary:
        jax.monitoring.register_event_listener(seals.hear_of_write)
        jax.monitoring.register_event_duration_secs_listener(seals.hear_of_end)
    try:
        yield folder
    finally:
        if is_primary:
            jax.monitoring.unregister_event_listener(seals.hear_of_write)
            jax.monitoring.unregister_event_duration_listener(seals.hear_of_end)
            seals.record()
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        compilation_cache.reset_cache()


@dataclasses.dataclass
class Programs:
    """How many programs were needed, and how many of them the cache had."""

    requests: int = 0
    hits: int = 0

    @property
    def were_kept(self) -> bool:
        """Whether nothing had to be compiled."""
        return 0 < self.hits == self.requests


@contextlib.contextmanager
def counting() -> Iterator[Programs]:
    """Counts the programs that are compiled, or read from the cache, while entered."""
    programs = Programs()

    def listen(event: str, **_: object) -> None:
        programs.requests += event == "/jax/compilation_cache/compile_requests_use_cache"
        programs.hits += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_listener(listen)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_listener(listen)


def _machine() -> str:
    """The kind of machine that a program is for: 'tpu', 'gpu', 'cpu-1a2b3c4d'."""
    platform = jax.default_backend()
    if platform != "cpu":
        return platform
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        told = [repr(os.uname())]
    kinds = ("model name", "flags", "CPU part", "Features")  # The latter two: Arm.
    facts = sorted({line for line in told if line.startswith(kinds)}) or told
    return f"cpu-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"


def _is_prepared(folder: Path, max_bytes: int) -> bool:
    try:
        _prepare(folder, max_bytes)
    except OSError as error:
        reason = error.strerror or error
        LOGGER.warning(
            "compiled programs are not kept in %s (%s); a restart compiles again", folder, reason
        )
        return False
    return True


def _prepare(folder: Path, max_bytes: int) -> None:
    """Makes the folder, and drops entries that are not whole or too many.

    All that is kept is read: damage changes neither the size nor the time of a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seals, kept, size = _read_seals(folder), {}, 0
    found = [(entry, entry.stat()) for entry in _entries(folder)]
    for entry, status in sorted(found, key=lambda pair: pair[1].st_mtime, reverse=True):
        size += status.st_size
        is_too_much = size > max_bytes
        if not is_too_much and seals.get(entry.name) == _hash(entry.read_bytes()):
            kept[entry.name] = seals[entry.name]
            continue
        entry.unlink()
        if not is_too_much:
            LOGGER.warning("dropped a compiled program that was not whole: %s", entry)
    _write_seals(folder, kept)  # Proves, too, that the folder is writable.


class _Seals:
    """Records the hash of each new entry, by which the next start knows that it is whole.

    A kill before that costs the programs that are not recorded yet. On storage that answers slowly
    they are recorded together, a few at a time: a start has many programs that compile at once.
    """

    def __init__(self, folder: Path):
        self._folder, self._seals = folder, _read_seals(folder)
        self._is_due, self._at_stake, self._cost = False, 0.0, 0.0  # Seconds.

    def hear_of_write(self, event: str, **_: object) -> None:
        self._is_due |= event == WRITES

    def hear_of_end(self, event: str, seconds: float, **_: object) -> None:
        if event == COMPILED and self._is_due:
            self._at_stake += seconds
            if SHARE * self._at_stake >= self._cost:
                self.record()

    def record(self) -> None:
        if not self._is_due:
            return
        begin = time.monotonic()
        with contextlib.suppress(OSError):  # A full disk: the next start drops the entry.
            self._record()
        self._is_due, self._at_stake, self._cost = False, 0.0, time.monotonic() - begin

    def _record(self) -> None:
        new = {}
        for entry in _entries(self._folder):
            if entry.name in self._seals:
                continue
            data = entry.read_bytes()
            if _is_cut_short(data):
                entry.unlink()
            else:
                new[entry.name] = _hash(data)
        if new:
            _write_seals(self._folder, self._seals | new)
            self._seals |= new


def _is_cut_short(data: bytes) -> bool:
    """Whether a write failed half-way; JAX packs by zlib, or by Zstandard where that is there."""
    try:
        if data[:1] == ZLIB:
            zlib.decompress(data)
    except zlib.error:
        return True
    return not data


def _entries(folder: Path) -> list[Path]:
    return list(folder.glob("*-cache"))


def _read_seals(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / SEALS).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _write_seals(folder: Path, seals: dict[str, str]) -> None:
    # Not flushed to the disk: where a machine loses it, the next start compiles again.
    temporary = folder / f".{SEALS}.{os.getpid()}.tmp"
    try:
        temporary.write_text(json.dumps(seals, indent=1) + "\n")
        temporary.replace(folder / SEALS)
    finally:
        temporary.unlink(missing_ok=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
