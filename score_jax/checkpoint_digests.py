"""Digests of a checkpoint's files, so that damage is found before it is trained on.

TensorStore checks its index, not the arrays: a flipped bit may read back as another weight. The
digests are written before Orbax commits a step, so that a committed step always has them.
"""

import hashlib
import json
import os
from pathlib import Path

from score_jax.workdir import write_text_atomic

NAME = "digests.json"
# Orbax changes these when it commits; they hold times, and nothing that a restore reads.
UNSEALED = {NAME, "_CHECKPOINT_METADATA", "commit_success.txt"}


def write(folder: Path) -> None:
    """Writes size and SHA-256 of every file in a step's folder, each of them safe on the disk.

    Raises:
      OSError: something cannot be read or written.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in UNSEALED:
            files[name] = {"bytes": path.stat().st_size, "sha256": _digest(path, to_disk=True)}
    write_text_atomic(folder / NAME, json.dumps({"files": files}, indent=1) + "\n")


def are_in(folder: Path) -> bool:
    """Whether a step has digests; those of older versions of score_jax have none."""
    return (folder / NAME).exists()


def find_damage(folder: Path) -> str | None:
    """What is wrong with which file of a step that has digests, in a few words; else None."""
    try:
        files = json.loads((folder / NAME).read_text())["files"]
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{NAME} cannot be read"
    for name, (size, sha256) in expected.items():
        path = folder / name
        try:
            found = path.stat().st_size
            if found != size:
                return f"{name} has {found} bytes, was saved with {size}"
            if _digest(path) != sha256:
                return f"{name} holds other bytes than were saved"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _digest(path: Path, *, to_disk: bool = False) -> str:
    with path.open("rb") as file:
        if to_disk:  # A machine that is switched off keeps what was committed.
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
