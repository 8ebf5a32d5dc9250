"""A folder of published files: its checksums, and that nothing else is ever replaced."""

from collections.abc import Iterator
from pathlib import Path

from score_jax.artifact import sha256
from score_jax.types import UserError

SUMS = "SHA256SUMS"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def write_sums(folder: Path) -> None:
    """In the format of `sha256sum --check`."""
    lines = [f"{sha256(path)}  {path.relative_to(folder)}\n" for path in _files(folder)]
    (folder / SUMS).write_text("".join(lines))


def check_replaceable(out: Path) -> None:
    """Only a bundle that nobody has changed since it was written may be replaced.

    Raises:
      UserError: `out` is something else, or holds a file that was added or changed.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / SUMS).is_file():
        raise UserError(f"{out} is not a bundle of this program; give another --out.")
    lines = (out / SUMS).read_text().splitlines()
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for path in _files(out):
        name = str(path.relative_to(out))
        if name != SUMS and (name not in written or sha256(path) != written[name]):
            raise UserError(
                f"{path} was added or changed since the bundle was written; move it away, or "
                "give another --out."
            )


def replace(out: Path, new: Path, previous: Path) -> None:
    """Puts `new` where `out` is, which goes to `previous`; all on one file system."""
    if out.exists():
        out.rename(previous)
    try:
        new.rename(out)
    except OSError:
        if previous.exists():
            previous.rename(out)
        raise
