"""What a preparation that was stopped leaves, and how another knows that it may go on with it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from score_jax.data.content import file_sha256
from score_jax.data.shards import OPTIONS, ShardFacts

LOG = "whole_shards.jsonl"
TEMPORARY = ".unfinished-"


class ShardLog:
    """Which shards of an unfinished folder are whole; each is told of by a line of a file.

    folder: that folder; whole: the facts of each, by file name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / LOG
        self.whole: dict[str, ShardFacts] = {}
        for line in self._path.read_text().splitlines() if self._path.is_file() else ():
            try:
                facts = ShardFacts.of(json.loads(line))
            except (ValueError, TypeError):  # Cut short when the process was killed.
                continue
            self.whole[facts.file] = facts

    def check(self, workers: int) -> None:
        """Forgets the shards whose files are not what they were, and removes parts of others."""
        self.tidy()
        with ThreadPoolExecutor(workers) as pool:
            fine = list(pool.map(self._is_whole, self.whole.values()))
        self.whole = {
            name: facts for (name, facts), ok in zip(self.whole.items(), fine, strict=True) if ok
        }

    def tidy(self) -> None:
        """Removes parts of shards, which nobody can go on with."""
        for path in self.folder.glob(f"*{TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def _is_whole(self, facts: ShardFacts) -> bool:
        path = self.folder / facts.file
        try:
            return path.stat().st_size == facts.size and file_sha256(path) == facts.sha256
        except OSError:
            return False

    def temporary(self, file: str) -> Path:
        """Where a shard is written until it is whole; of this process alone."""
        return self.folder / f"{file}{TEMPORARY}{os.getpid()}"

    def add(self, path: Path, facts: ShardFacts) -> None:
        """Gives a whole shard its name, and remembers it."""
        if facts.file in self.whole:
            return
        os.rename(path, self.folder / facts.file)
        with open(self._path, "a") as log:
            # The line break before it ends a line that was cut short.
            log.write("\n" + json.dumps(dataclasses.asdict(facts)) + "\n")
            log.flush()
            os.fsync(log.fileno())
        self.whole[facts.file] = facts

    def remove(self) -> None:
        """Ends the log: the folder is whole."""
        self._path.unlink(missing_ok=True)


def source_files(sources: Sequence[str]) -> list[dict[str, Any]]:
    """Name and size in bytes of each source, of a folder the sum."""
    return [
        {"name": Path(source).name, "size": sum(size for _, size, _ in _files(source))}
        for source in sources
    ]


def source_key(name: str, sources: Sequence[str], options: Mapping[str, Any]) -> str:
    """Sixteen digits that change with a dataset's sources, its options, or the form of shards.

    The sources count by path, size and time of change, folders by those of all files in them.
    """
    whole = hashlib.sha256(json.dumps([name, OPTIONS, sorted(options.items())]).encode())
    for source in sources:
        whole.update(os.path.abspath(source).encode(errors="surrogateescape"))
        for file in _files(source):
            whole.update(json.dumps(file).encode())
    return whole.hexdigest()[:16]


def _files(source: str) -> Iterator[tuple[str, int, int]]:
    """Path below the source, size and time of change of each of its files, in a fixed order."""
    path = Path(source).expanduser()
    if not path.is_dir():
        yield from _file(path, "")
        return
    seen = set()
    for folder, folders, files in os.walk(path, followlinks=True):  # As the readers do.
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # A link to what is above or beside it.
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(files):
            yield from _file(Path(folder, name), os.path.relpath(os.path.join(folder, name), path))


def _file(path: Path, name: str) -> Iterator[tuple[str, int, int]]:
    try:
        status = path.stat()
    except OSError:  # Whoever reads it tells.
        return
    yield name, status.st_size, status.st_mtime_ns
