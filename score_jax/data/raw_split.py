"""A split as its source holds it, and its reader from npz files, labelled and generated."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from score_jax.data import npz
from score_jax.types import UserError

BLOCK = 2000  # Images read at once from a generated file.
READ_ERRORS = (  # What the libraries of archives raise on damaged ones.
    OSError,
    EOFError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    RuntimeError,
    OverflowError,
    LookupError,
    MemoryError,
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


def local_paths(sources: Sequence[str], forms: str) -> list[Path]:
    """Sources that exist on this machine, one at least.

    Args:
      forms: what may be given, in words.

    Raises:
      UserError: none is given, or one does not exist here.
    """
    if not sources:
        raise UserError(f"--source=FILE is needed; give {forms}")
    return [local_path(source) for source in sources]


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does, hence as an npz."""
    return path.is_file() and first_bytes(path).startswith(b"PK\x03\x04")


def damaged(path: Path, error: BaseException) -> UserError:
    """The refusal of a source whose reading failed with one of READ_ERRORS."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"--source={path} is damaged or cut short ({reason}); download it again")


def check_label_type(dtype: np.dtype, shape: tuple[int, ...], count: int, where: str) -> None:
    """Refuses labels that are not one integer for each image.

    Raises:
      UserError: another type or shape; (n, 1), as Keras writes, is right.
    """
    if dtype.kind not in "iu":
        raise UserError(f"{where} has labels of type {dtype.name}; integers are expected")
    if shape not in ((count,), (count, 1)):
        raise UserError(f"{where} has labels of shape {shape} for {count} images")


def check_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """`labels` as int32[count]; a trailing axis of length one, as Keras writes, is dropped.

    Raises:
      UserError: other than one integer for each image, negative, or no class number.
    """
    check_label_type(labels.dtype, labels.shape, count, where)
    if count and not (0 <= labels.min() and labels.max() < 1 << 30):
        raise UserError(
            f"{where} has labels from {labels.min()} to {labels.max()}; classes are numbered from "
            "0 on"
        )
    return labels.reshape(count).astype(np.int32)


def read_npz(
    path: Path,
    images_key: str,
    labels_key: str,
    image_shape: tuple[int, int, int],
    count: int | None,
) -> RawSplit:
    """Images and labels of an npz; they stay in the file until their blocks are asked for.

    Checksums are compared by reading from 0 to the end. Images with one channel may come without
    the axis of channels, as Keras writes MNIST.

    Raises:
      UserError: no such arrays, others than expected, or a damaged file.
    """
    try:
        keys = npz.keys(path)
        for key in (images_key, labels_key):
            if key not in keys:
                raise UserError(
                    f"{path} has no array {key!r}; it holds: {', '.join(sorted(keys)[:20])[:200]}"
                )
        images = npz.read_header(path, images_key)
        labels = npz.read_header(path, labels_key)
    except READ_ERRORS as error:
        raise damaged(path, error) from None
    _check_images(images, f"{path}: {images_key}", image_shape, count)
    check_label_type(labels.dtype, labels.shape, images.shape[0], f"{path}: {labels_key}")

    def blocks(start: int) -> Iterator[Block]:
        return _npz_blocks(path, (images_key, images), (labels_key, labels), image_shape, start)

    return RawSplit(images.shape[0], blocks)


def read_npz_splits(
    path: Path, image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """The splits of an npz with x_train, y_train, x_test, y_test, as Keras writes it."""
    return {
        split: read_npz(path, f"x_{split}", f"y_{split}", image_shape, size)
        for split, size in sizes.items()
    }


def largest_label(path: Path, key: str) -> int:
    """The largest of the labels of an npz, of which `read_npz` has seen the header; -1 for none.

    The images are not read.

    Raises:
      UserError: negative labels, or a damaged file.
    """
    largest = -1
    try:
        header = npz.read_header(path, key)
        with npz.open_array(path, key, header, 0) as read:
            while content := read(header.row_bytes << 16):
                labels = np.frombuffer(content, header.dtype)
                labels = check_labels(labels, len(labels), f"{path}: {key}")
                largest = max(largest, int(labels.max()))
    except READ_ERRORS as error:
        raise damaged(path, error) from None
    return largest


def _check_images(
    header: npz.ArrayHeader, where: str, image_shape: tuple[int, int, int], count: int | None
) -> None:
    shape = header.shape
    expected = (shape[0] if count is None and shape else count, *image_shape)
    flat = expected[:-1] if image_shape[-1] == 1 else expected
    if shape not in (expected, flat) or header.dtype != np.uint8:
        raise UserError(
            f"{where} is {header.dtype.name} of shape {shape}; uint8 of shape {expected} "
            "(images, height, width, channels) is expected"
        )
    if header.column_major:
        raise UserError(
            f"{where} is stored in column order; write it again after np.ascontiguousarray"
        )


def _npz_blocks(
    path: Path,
    images: tuple[str, npz.ArrayHeader],
    labels: tuple[str, npz.ArrayHeader],
    image_shape: tuple[int, int, int],
    start: int,
) -> Iterator[Block]:
    where = f"{path}: {labels[0]}"
    try:
        with (
            npz.open_array(path, *images, start) as read_images,
            npz.open_array(path, *labels, start) as read_labels,
        ):
            total = images[1].shape[0]
            for index in range(start, total, BLOCK):
                count = min(BLOCK, total - index)
                pixels = np.frombuffer(read_images(count * images[1].row_bytes), np.uint8)
                classes = np.frombuffer(read_labels(count * labels[1].row_bytes), labels[1].dtype)
                if index + count == total and (read_images(1) or read_labels(1)):
                    raise ValueError(f"{images[0]} or {labels[0]} is longer than its header says")
                yield (
                    pixels.reshape(count, *image_shape),
                    check_labels(classes.reshape(count, -1)[:, 0], count, where),
                )
    except READ_ERRORS as error:
        raise damaged(path, error) from None


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
