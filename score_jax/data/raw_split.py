"""A split as its source holds it, and its reader from npz files, labelled and generated."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.types import UserError

BLOCK = 2000  # Images read at once from a generated file.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
)


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split before it is written.

    labels: int32[n]; blocks: called, gives the images in order, each block uint8[k, h, w, c].
    """

    labels: np.ndarray
    blocks: Callable[[], Iterator[np.ndarray]]


def blocks_of(blocks: Sequence[np.ndarray]) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter(blocks)


def local_path(source: str) -> Path:
    """A source that exists on this machine.

    Raises:
      UserError: an address, or no such file or folder.
    """
    if "://" in source:
        raise UserError(f"--source={source} is an address; download the file and give its path")
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"--source={path} does not exist; give the path of the downloaded file")
    return path


def first_bytes(source: Path) -> bytes:
    """The start of a file; 262 bytes tell a tar, a gzip, an npz and a pickle apart."""
    try:
        with source.open("rb") as file:
            return file.read(262)
    except OSError as error:
        raise UserError(f"--source={source} cannot be read: {error.strerror}") from None


def check_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """`labels` as int32[count]; a trailing axis of length one, as Keras writes, is dropped."""
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where} has labels of type {labels.dtype}; integers are expected")
    if labels.shape not in ((count,), (count, 1)):
        raise UserError(f"{where} has labels of shape {labels.shape} for {count} images")
    if count and not (0 <= labels.min() and labels.max() < 1 << 30):
        raise UserError(f"{where} has labels from {labels.min()} to {labels.max()}")
    return labels.reshape(count).astype(np.int32)


def _npz_header(path: Path, file: Any, key: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"{key} is written in npy version {version}")
    return read(file)


def read_npz(
    path: Path,
    images_key: str,
    labels_key: str,
    image_shape: tuple[int, int, int],
    count: int | None,
) -> RawSplit:
    """Images and labels of an npz; the images stay in the file until their blocks are asked for."""
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            for key in (images_key, labels_key):
                if key not in keys:
                    raise UserError(
                        f"{path} has no array {key!r}; it holds: {', '.join(sorted(keys)[:20])}"
                    )
            with archive.open(f"{images_key}.npy") as file:
                shape, column_major, dtype = _npz_header(path, file, images_key)
            expected = (shape[0] if count is None and shape else count, *image_shape)
            if shape != expected or dtype != np.uint8 or column_major:
                raise UserError(
                    f"{path}: {images_key} is {dtype} of shape {shape}; uint8 of shape "
                    f"{expected} (images, height, width, channels) is expected"
                )
            if archive.getinfo(f"{labels_key}.npy").file_size > 8 * shape[0] + 4096:
                raise UserError(f"{path}: {labels_key} is larger than {shape[0]} labels can be")
            with archive.open(f"{labels_key}.npy") as file:
                label_shape, _, label_dtype = _npz_header(path, file, labels_key)
                labels = np.empty(0, label_dtype)
                if label_dtype.kind in "iu":
                    labels = np.frombuffer(file.read(), label_dtype).reshape(label_shape)
    except READ_ERRORS as error:
        raise UserError(
            f"--source={path} is damaged or cut short ({error}); download it again"
        ) from None
    labels = check_labels(labels, shape[0], f"{path}: {labels_key}")
    return RawSplit(labels, lambda: _npz_blocks(path, images_key, shape))


def _npz_blocks(path: Path, key: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    pixels = int(np.prod(shape[1:]))
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            _npz_header(path, file, key)
            for start in range(0, shape[0], BLOCK):
                count = min(BLOCK, shape[0] - start)
                content = file.read(count * pixels)
                yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
            if file.read(1):
                raise ValueError(f"{key} is longer than its header says")
    except READ_ERRORS as error:
        raise UserError(
            f"--source={path} is damaged or cut short ({error}); download it again"
        ) from None


def read_generated(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int | None]
) -> dict[str, RawSplit]:
    """Generated images from one or more npz with `image` uint8[n, h, w, c] and `label` int[n].

    Several files are joined in the order given.
    """
    if not sources:
        raise UserError("a generated dataset needs --source=FILE.npz (several are joined)")
    parts = []
    for source in sources:
        path = local_path(source)
        parts.append(read_npz(path, "image", "label", image_shape, sizes["train"]))
    labels = np.concatenate([part.labels for part in parts])
    if not len(labels):
        raise UserError(f"--source={sources[0]} holds no images")
    return {"train": RawSplit(labels, lambda: (b for part in parts for b in part.blocks()))}
