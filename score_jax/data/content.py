"""What tells a split's content, or a file's, apart from any other."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np

IN_MEMORY = 16 << 20  # Bytes of labels; more go to an unnamed file.


class ContentHash:
    """sha256 over the images' bytes in order, then over the labels as little-endian int32.

    folder: where the labels of large splits are kept until the images are through; '' for the
    system's folder of temporary files.
    """

    def __init__(self, folder: Path | str = "") -> None:
        self._hash = hashlib.sha256()
        self._labels = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder) or None)

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Appends images and labels."""
        self._hash.update(np.ascontiguousarray(images).data)
        self._labels.write(np.asarray(labels, "<i4").tobytes())

    def hexdigest(self) -> str:
        """The hash of what came so far."""
        whole = self._hash.copy()
        self._labels.seek(0)
        while part := self._labels.read(1 << 20):
            whole.update(part)
        return whole.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """The content hash of a whole split."""
    content = ContentHash()
    content.add(images, labels)
    return content.hexdigest()
