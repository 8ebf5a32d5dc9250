"""Compiled plans on disk: a plan that was made before is only traced, not compiled again."""

import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from score_jax.topologies import Slice

LOGGER = logging.getLogger("score_jax")
NUMBERS = {"inputs", "temporaries", "program", "needed"}


def folder() -> Path:
    """Where they lie: $XDG_CACHE_HOME/score_jax/plans, or below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "score_jax/plans"


def fingerprint(lowered: Any, place: Slice, effort: str = "full") -> str:
    """Of the traced program, where it shall run, and what compiles it and how hard."""
    versions = "".join(_versions()) + ("" if effort == "full" else f" effort {effort}")
    digest = hashlib.sha256(f"{place.name} {place.chip.kind} {versions}\n".encode())
    digest.update(lowered.as_text().encode())
    return digest.hexdigest()[:32]


def _versions() -> Iterator[str]:
    for library in ("jax", "jaxlib", "libtpu"):
        try:
            yield f"{library} {metadata.version(library)} "
        except metadata.PackageNotFoundError:
            yield f"no {library} "
    yield os.environ.get("XLA_FLAGS", "") + os.environ.get("LIBTPU_INIT_ARGS", "")


def read(file: Path | None) -> dict[str, Any] | None:
    """What was written; None where there is nothing, or nothing whole."""
    if file is None or not file.exists():
        return None
    try:
        kept = json.loads(gzip.decompress(file.read_bytes()))
        memory = kept["memory"]
        is_whole = (
            isinstance(kept["text"], str)
            and kept["seconds"] >= 0
            and kept.get("available", 0) >= 0
            and set(memory) <= NUMBERS
            and all(number >= 0 for number in memory.values())
            and memory["needed"] + memory["temporaries"] > 0
        )
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zlib.error):
        is_whole = False
    if not is_whole:
        LOGGER.warning("%s is damaged: the plan is compiled anew", file)
        return None
    return kept


def write(file: Path | None, kept: dict[str, Any]) -> None:
    """Keeps it whole or not at all; a folder that cannot be written is told and stops nothing."""
    if file is None:
        return
    part = file.with_suffix(f".part{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(gzip.compress(json.dumps(kept).encode(), 3))
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        LOGGER.warning("the compiled plan is not kept: %s", error)
