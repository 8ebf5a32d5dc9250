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


Block = tuple[np.ndarray, np.ndarray]  # Images, labels.


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split before it is written; neither its images nor its labels need be in memory.

    count: of its images; blocks: called with an index, gives what comes from there on, in order:
    images uint8[k, h, w, c] and labels int32[k]. independent: whether an image is checked as well
    when the reading starts at it as when it starts at 0, as files of their own are and parts of an
    archive with one checksum are not: a preparation that goes on then skips those it has.
    """

    count: int
    blocks: Callable[[int], Iterator[Block]]
    independent: bool = False


def in_memory(parts: Sequence[Block]) -> RawSplit:
    """A split of arrays, one part after the other."""

    def blocks(start: int) -> Iterator[Block]:
        for images, labels in parts:
            if start < len(labels):
                yield images[start:], labels[start:]
            start = max(0, start - len(labels))

    return RawSplit(sum(len(labels) for _, labels in parts), blocks)


def joined(splits: Sequence[RawSplit]) -> RawSplit:
    """Several splits, one after the other."""

    def blocks(start: int) -> Iterator[Block]:
        for split in splits:
            if start < split.count:
                yield from split.blocks(start)
            start = max(0, start - split.count)

    return RawSplit(sum(split.count for split in splits), blocks)


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
            with archive.open(f"{labels_key}.npy") as file:
                label_shape, _, label_dtype = _npz_header(path, file, labels_key)
                # A view of one label says of what type and shape they are.
                labels = np.broadcast_to(np.zeros((), label_dtype), label_shape)
    except READ_ERRORS as error:
        raise UserError(
            f"--source={path} is damaged or cut short ({error}); download it again"
        ) from None
    check_labels(labels, shape[0], f"{path}: {labels_key}")
    return RawSplit(shape[0], lambda start: _npz_blocks(path, images_key, labels_key, shape, start))


def _npz_blocks(
    path: Path, images_key: str, labels_key: str, shape: tuple[int, ...], start: int
) -> Iterator[Block]:
    pixels = int(np.prod(shape[1:]))
    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(f"{images_key}.npy") as image_file,
            archive.open(f"{labels_key}.npy") as label_file,
        ):
            _npz_header(path, image_file, images_key)
            _, _, dtype = _npz_header(path, label_file, labels_key)
            image_file.seek(start * pixels, 1)
            label_file.seek(start * dtype.itemsize, 1)
            for index in range(start, shape[0], BLOCK):
                count = min(BLOCK, shape[0] - index)
                images = np.frombuffer(image_file.read(count * pixels), np.uint8)
                labels = np.frombuffer(label_file.read(count * dtype.itemsize), dtype)
                yield (
                    images.reshape(count, *shape[1:]),
                    check_labels(labels, count, f"{path}: {labels_key}"),
                )
            if image_file.read(1) or label_file.read(1):
                raise ValueError(f"{images_key} or {labels_key} is longer than its header says")
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
    whole = joined(parts)
    if not whole.count:
        raise UserError(f"--source={sources[0]} holds no images")
    return {"train": whole}
