"""What an evaluation is of, so that one folder never mixes two; who works in it; shards of it."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.types import UserError

FIELDS = (
    "model", "network", "num_examples", "images", "norm", "eps", "version", "attacks", "seed",
    "seeding", "chunk_size", "backend", "library", "torch",
)  # fmt: skip
IDENTITY, CHUNKS, RESULT = "identity.json", "chunks", "result.json"
# What is too long to be told as it is.
DIGESTS = {
    "model": "another model",
    "network": "another network or normalisation",
    "images": "other images or labels",
}


@dataclass(frozen=True)
class Shard:
    """The chunks index, index + count, index + 2 * count, ... of an evaluation."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """'0/2' is the first of two; '' is all of it.

        Raises:
          UserError: not of this form.
        """
        if not text:
            return cls()
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UserError(
                f"--shard={text} is not one of the parts of an evaluation; they are counted from "
                "0: --shard=0/2 and --shard=1/2."
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def is_all(self) -> bool:
        return self.count == 1

    @property
    def suffix(self) -> str:
        """'' or '-0-of-2', for names of files."""
        return "" if self.is_all else f"-{self.index}-of-{self.count}"


EVERYTHING = Shard()


def digest(identity: Mapping[str, Any]) -> str:
    """The sha256 of an identity, in hex."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def digest_of_images(images: np.ndarray, labels: np.ndarray) -> str:
    """The sha256 of images f32[n, h, w, c] and labels i64[n], in hex."""
    found = hashlib.sha256(str(images.shape).encode())
    for array in (images.astype("<f4"), labels.astype("<i8")):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two identities differ in, as words: 'eps 0.1 there, 0.05 here'."""

    def written(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return [
        DIGESTS.get(name)
        or f"{name} {written(there.get(name))} there, {written(here.get(name))} here"
        for name in dict.fromkeys((*here, *there))
        if there.get(name) != here.get(name)
    ]


def read(folder: Path) -> dict[str, Any] | None:
    """The identity that a folder of chunks belongs to; None where it has none.

    Raises:
      UserError: it is not readable.
    """
    path = folder / IDENTITY
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(FIELDS) <= found.keys():
        raise UserError(f"{path} is not readable; give another --name.")
    return found


def read_result(folder: Path) -> dict[str, Any] | None:
    """result.json of an evaluation; None where there is none."""
    try:
        found = json.loads((folder / RESULT).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def check_same(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuses a folder that holds something else; touches nothing.

    Raises:
      UserError: naming what differs.
    """
    there = read(folder / CHUNKS)
    if there is not None:
        if different := differences(there, identity):
            more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
            raise UserError(
                f"{folder} holds the evaluation of something else ({'; '.join(different[:3])}"
                f"{more}); give another --name."
            )
    elif (folder / RESULT).exists():
        attack = (read_result(folder) or {}).get("attack", "unknown")
        raise UserError(
            f"{folder} holds another result (attack {attack}) without chunks to go on from; give "
            "another --name."
        )


def is_other(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds something else than this evaluation."""
    try:
        check_same(folder, identity)
    except UserError:
        return True
    return False


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Writes the identity of a new folder, or checks that of an old one.

    Raises:
      UserError: the folder holds something else.
    """
    path = folder / CHUNKS / IDENTITY
    if not path.exists():
        temporary = path.with_name(f".{IDENTITY}.{os.getpid()}.tmp")
        try:
            with temporary.open("w") as file:
                file.write(json.dumps(identity, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            # Of several that come at once the first one's identity stands.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            temporary.replace(path)  # A file system without links.
        finally:
            temporary.unlink(missing_ok=True)
    check_same(folder, identity)


def set_aside(folder: Path) -> Path:
    """Moves what an evaluation left into `earlier-1/` (or -2, ...) of its own folder.

    Raises:
      UserError: it is still at work.
    """
    number = 1
    while (folder / f"earlier-{number}").exists():
        number += 1
    place = folder / f"earlier-{number}"
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith("earlier-")]
    with contextlib.ExitStack() as stack:
        if (folder / CHUNKS).exists():
            stack.enter_context(locked(folder / CHUNKS, EVERYTHING))
        place.mkdir()
        for entry in entries:
            entry.rename(place / entry.name)
    return place


@contextlib.contextmanager
def locked(folder: Path, shard: Shard) -> Iterator[None]:
    """Holds a folder of chunks: alone, or as one of several shards. The system lets go of it.

    Raises:
      UserError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context((folder / "lock").open("a"))
        _lock(whole, fcntl.LOCK_EX if shard.is_all else fcntl.LOCK_SH, folder)
        if not shard.is_all:
            own = stack.enter_context((folder / f"lock{shard.suffix}").open("a"))
            _lock(own, fcntl.LOCK_EX, folder)
        yield


def _lock(file: Any, kind: int, folder: Path) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process is at work in {folder.parent}; wait for it to end, or give another "
            "--name."
        ) from None
    except OSError as error:
        # Some network file systems know no locks; files are atomic there too.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
