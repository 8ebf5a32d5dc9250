"""What a number may depend on beside the config: versions of libraries, and of this code."""

import hashlib
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = (
    "score_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets",
    "array_record", "grain", "ml_collections", "numpy", "safetensors", "torch", "pyautoattack",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """The installed version of every library a number may depend on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state() -> dict[str, Any] | None:
    """The commit of this source tree and whether files differ from it; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return run.stdout.strip()

    try:
        return dict(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def source_digest() -> str:
    """SHA-256 of the source files of this package, also where there is no git."""
    digest, root = hashlib.sha256(), Path(__file__).resolve().parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
