"""What a check of the doctor is given, and what it finds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARKS = {True: "ok", False: "!!", None: "--"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
      name: what was looked at.
      ok: whether all is well; None for a remark that stops no run.
      text: the facts, or what is wrong.
      remedy: what to do about it.
    """

    name: str
    ok: bool | None
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        words = f"{self.text}; {self.remedy}" if self.remedy else self.text
        return f"{MARKS[self.ok]}  {self.name}: {' '.join(words.split())}"


def fine(name: str, text: str) -> Finding:
    """A check that found nothing wrong."""
    return Finding(name, True, text)


def wrong(name: str, text: str, remedy: str) -> Finding:
    """A check that found what stops or spoils a run."""
    return Finding(name, False, text, remedy)


def remark(name: str, text: str, remedy: str = "") -> Finding:
    """What is worth knowing, or does not apply here."""
    return Finding(name, None, text, remedy)


def environ_at_start() -> dict[str, str]:
    """The environment that this process was given; JAX adds variables when it is imported."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that is examined, and the run that is meant for it.

    Attributes:
      environ: the environment variables.
      root: the folder in which /proc, /dev, /sys and /tmp lie.
      packages: folders of installed libraries, in order; (): those of this interpreter.
      workdir, data_dir, recipe, overrides, coordinator: flags; '' or () where not given.
      num_processes, process_id: flags; 0 and -1 where not given.
      cluster: flag: what tells the processes of each other.
      patience: seconds to wait for another process, a device, or a file system.
      facts: what a check learned that a later one may use.
    """

    environ: Mapping[str, str]
    root: Path = Path("/")
    packages: tuple[str, ...] = ()
    workdir: str = ""
    data_dir: str = ""
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    cluster: str = "auto"
    patience: float = 60.0
    facts: dict[str, Any] = field(default_factory=dict)

    def at(self, path: str) -> Path:
        """An absolute path of this machine."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """The text of a file of this machine; '' where there is none to read."""
        try:
            return self.at(path).read_text(errors="replace")
        except OSError:
            return ""

    def command_line(self, pid: int | str) -> str:
        """The words of a running process; '' where it cannot be seen."""
        return " ".join(self.read(f"/proc/{pid}/cmdline").split("\0")).strip()

    def accelerators(self) -> dict[str, int]:
        """Number of device files of each kind: 'gpu', 'tpu', 'rocm'; a kind without is absent."""
        patterns = {"gpu": ("nvidia[0-9]*",), "tpu": ("accel*", "vfio/[0-9]*"), "rocm": ("kfd",)}
        counts = {
            kind: sum(len(list(self.at("/dev").glob(pattern))) for pattern in names)
            for kind, names in patterns.items()
        }
        return {kind: count for kind, count in counts.items() if count}


def size(count: float) -> str:
    """Bytes in words: '1.5 GiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
