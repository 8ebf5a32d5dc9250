"""What an evaluation has found so far: one file for each attack on each chunk of images.

A file appears whole or not at all, so a process may be killed at any moment. Its name is the attack
and the number of the chunk, `apgd-ce-0003.npz`; `clean-0003.npz` is the pass before the attacks.
"""

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLEAN = "clean"
FIELDS = ("indices", "fallen", "predictions", "images", "facts")


UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError,
    RuntimeError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


class Damaged(Exception):
    """A file that does not hold what its name says; one phrase."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one attack found on one chunk; for the clean pass, what is wrong without an attack.

    Attributes:
      indices: i64[m], the images that were still robust, counted over the whole evaluation.
      fallen: bool[m], which of them are misclassified now.
      predictions: i64[m], on what the attack returned.
      images: f32[k, h, w, c], what it made of those that fell; none for the clean pass.
      facts: seed, seconds, warnings of the library, batch size, devices.
    """

    attack: str
    chunk: int
    indices: np.ndarray
    fallen: np.ndarray
    predictions: np.ndarray
    images: np.ndarray
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of such files, all of one evaluation.

    Attributes:
      folder: where files are written, and looked for first.
      identity: the digest that each file must carry.
      beside: folders to look in after that; nothing is written or renamed there.
      suffix: of temporary files, one for each process that may write at the same time.
    """

    folder: Path
    identity: str
    beside: tuple[Path, ...] = ()
    suffix: str = ""

    def name(self, attack: str, chunk: int) -> str:
        return f"{attack}-{chunk:04d}.npz"

    def has(self, attack: str, chunk: int) -> bool:
        """Whether there is such a file, sound or not."""
        name = self.name(attack, chunk)
        return any((place / name).exists() for place in (self.folder, *self.beside))

    def write(self, found: Found) -> None:
        """Writes a file so that it is there whole, or not at all."""
        facts = {**found.facts, "attack": found.attack, "chunk": found.chunk}
        arrays = {name: getattr(found, name) for name in FIELDS[:-1]}
        name = self.name(found.attack, found.chunk)
        temporary = self.folder / f".{name}{self.suffix}.tmp"
        with temporary.open("wb") as file:
            text = json.dumps({**facts, "identity": self.identity}, sort_keys=True)
            np.savez(file, **arrays, facts=np.array(text))
            file.flush()
            os.fsync(file.fileno())
        self._appear(temporary, name)

    def _appear(self, temporary: Path, name: str) -> None:
        temporary.replace(self.folder / name)
        place = os.open(self.folder, os.O_RDONLY)
        try:
            # A mounted bucket has no folders to make durable.
            with contextlib.suppress(OSError):
                os.fsync(place)
        finally:
            os.close(place)

    def read(
        self, attack: str, chunk: int, indices: np.ndarray, tell: Callable[[str], None]
    ) -> Found | None:
        """The file of an attack on a chunk; None where there is none that is sound.

        A damaged file in the own folder is renamed to NAME.damaged, and told.
        """
        name = self.name(attack, chunk)
        for place in (self.folder, *self.beside):
            path = place / name
            if not path.exists():
                continue
            try:
                return self._read(path, attack, chunk, indices)
            except Damaged as damage:
                if place == self.folder:
                    aside = _free(path.with_name(f"{name}.damaged"))
                    path.rename(aside)
                    tell(f"{path} {damage}; set aside as {aside.name}")
                else:
                    tell(f"{path} {damage}; not taken")
        return None

    def _read(self, path: Path, attack: str, chunk: int, indices: np.ndarray) -> Found:
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in FIELDS}
            facts = json.loads(str(arrays.pop("facts")))
            found = Found(attack=attack, chunk=chunk, facts=facts, **arrays)
            own = [facts.pop(name) for name in ("identity", "attack", "chunk")]
            whole = len(found.indices) == len(found.fallen) == len(found.predictions)
            images = 0 if attack == CLEAN else int(found.fallen.sum())
            whole = whole and len(found.images) == images and found.images.dtype == np.float32
        except UNREADABLE as error:
            raise Damaged(f"is damaged ({type(error).__name__})") from None
        if own != [self.identity, attack, chunk]:
            raise Damaged("belongs to another evaluation")
        if not whole or not np.array_equal(found.indices, indices):
            raise Damaged("is not of the images that the attacks before it left")
        return found

    def stored_facts(self) -> Iterator[dict[str, Any]]:
        """The facts of the files in the own folder that can be read."""
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as stored:
                    facts = json.loads(str(stored["facts"]))
                own = facts["identity"] == self.identity
            except UNREADABLE:
                continue
            if own:
                yield facts

    def gather(self, found: Found) -> None:
        """Copies the file of what was read, where it stands only beside, into the own folder."""
        name = self.name(found.attack, found.chunk)
        for place in (self.folder, *self.beside):
            try:
                self._read(place / name, found.attack, found.chunk, found.indices)
            except Damaged:
                continue
            if place != self.folder:
                temporary = self.folder / f".{name}{self.suffix}.tmp"
                shutil.copyfile(place / name, temporary)
                self._appear(temporary, name)
            return


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free
