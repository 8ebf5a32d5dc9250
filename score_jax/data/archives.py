"""The expected files of an archive or a folder, read into memory and nowhere else."""

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_jax.data.raw_split import READ_ERRORS, damaged
from score_jax.types import UserError

SPARE = 4 << 20  # Bytes for headers, padding, and files such as a readme.


class _Bounded:
    """A stream that gives at most `limit` bytes: a small file can unpack to anything."""

    def __init__(self, stream: Any, limit: int):
        self.stream, self.left = stream, limit

    def read(self, size: int = -1) -> bytes:
        content = self.stream.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError("it unpacks to more than the dataset holds")
        return content


def tar_contents(path: Path, names: Mapping[str, int]) -> dict[str, bytes]:
    """The expected members of a tar file, by name; whatever else it holds is passed over.

    Nothing is written, so that a member's path, link or mode is of no account.

    Args:
      names: 'folder/file' to the largest size that it may have, in bytes.

    Raises:
      UserError: damaged, cut short, or larger than what is expected.
    """
    contents: dict[str, bytes] = {}
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Bounded(gzip.open(raw) if zipped else raw, sum(names.values()) + SPARE)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                for member in tar:
                    name = member.name.removeprefix("./")
                    if name not in names:
                        continue
                    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                    if not plain or member.size > names[name]:
                        raise ValueError(f"{name} is not a plain file of the expected size")
                    if name in contents:
                        raise ValueError(f"it holds {name} twice")
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    if len(content) != member.size:
                        raise EOFError(f"{name} ends early")
                    contents[name] = content
            while stream.read():  # To the end, where gzip's checksum is compared.
                pass
        except READ_ERRORS as error:
            raise damaged(path, error) from None
    return contents


def folder_contents(path: Path, names: Mapping[str, int]) -> dict[str, bytes]:
    """The expected files of a folder, which is one of those named or holds one of them.

    Args:
      names: 'folder/file' to the largest size that it may have, in bytes.

    Raises:
      UserError: a file is larger than that.
    """
    contents = {}
    for name, limit in names.items():
        folder, file = name.split("/")
        for place in (path / file, path / folder / file):
            if not place.is_file():
                continue
            if place.stat().st_size > limit:
                raise UserError(
                    f"{place} holds {place.stat().st_size} bytes where at most {limit} are "
                    "expected; unpack the official archive again"
                )
            try:
                contents.setdefault(name, place.read_bytes())
            except OSError as error:
                raise UserError(f"--source={place} cannot be read: {error.strerror}") from None
    return contents
