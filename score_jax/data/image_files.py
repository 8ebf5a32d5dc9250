"""Image files in a folder or a zip, found by name and decoded in blocks by some threads."""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import control_groups
from score_jax.data.raw_split import READ_ERRORS, Block, RawSplit, damaged
from score_jax.types import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
MAX_BYTES = 64 << 20  # Of a file; the largest of ImageNet has 15 MB.
MAX_PIXELS = 1 << 26  # The largest of ImageNet has 61 million.
DEPTH = 4  # Of folders below a class.
BLOCK_BYTES = 8 << 20  # Of decoded images that are given at once.
THREADS = 8  # At most; Pillow decodes without Python's lock.
LARGE_PIXELS = 4 << 20  # Images of more take hundreds of MB and are decoded one at a time.
_LARGE = threading.Semaphore()


class _Files:
    """What `Folder` and `Zip` have in common."""

    files: Callable[..., list[str]]

    def images(self, at: str, depth: int = DEPTH) -> list[str]:
        """The image files below the folder `at`, from there on, sorted."""
        return [name for name in self.files(at, depth) if name.lower().endswith(ENDINGS)]


class Folder(_Files):
    """The files below a folder."""

    def __init__(self, path: Path):
        self.path = path

    def folders(self, at: str = "") -> list[str]:
        """The names of the folders in `at`, sorted."""
        return sorted(e.name for e in self._entries(at) if e.is_dir() and _is_shown(e.name))

    def files(self, at: str, depth: int = DEPTH) -> list[str]:
        """All files below the folder `at`, from there on, sorted."""
        names = []
        for entry in self._entries(at):
            if not _is_shown(entry.name):
                continue
            if entry.is_dir():
                if depth:
                    inside = self.files(_join(at, entry.name), depth - 1)
                    names += [f"{entry.name}/{name}" for name in inside]
            else:
                names.append(entry.name)
        return sorted(names)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with (self.path / name).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"{name} is larger than {MAX_BYTES >> 20} MiB")
        return content

    def _entries(self, at: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path / at) as entries:
                return list(entries)
        except OSError as error:
            raise UserError(
                f"--source={self.path / at} cannot be read ({error.strerror}); check the path"
            ) from None

    def close(self) -> None:
        """Nothing is held."""


class Zip(_Files):
    """The files of a zip, as `Folder` gives them; nothing is unpacked to disk."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except READ_ERRORS as error:
            raise damaged(path, error) from None
        self._sizes = {}
        for info in self._zip.infolist():
            if wrong := _wrong_name(info.filename, info.filename in self._sizes):
                self._zip.close()
                raise UserError(f"--source={path} holds {wrong}; pack it again")
            self._sizes[info.filename] = info.file_size
        # Of each folder, the names of its folders and of its files.
        self._inside: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        for name in self._sizes:
            *folders, file = name.split("/")
            at = ""
            for folder in folders:
                self._inside[at][0].add(folder)
                at = _join(at, folder)
                self._inside.setdefault(at, (set(), set()))
            if file:
                self._inside[at][1].add(file)

    def folders(self, at: str = "") -> list[str]:
        """The names of the folders in `at`, sorted."""
        return sorted(name for name in self._inside.get(at, ((), ()))[0] if _is_shown(name))

    def files(self, at: str, depth: int = DEPTH) -> list[str]:
        """All files below the folder `at`, from there on, sorted."""
        names = [name for name in self._inside.get(at, ((), ()))[1] if _is_shown(name)]
        for folder in self.folders(at) if depth else ():
            names += [f"{folder}/{n}" for n in self.files(_join(at, folder), depth - 1)]
        return sorted(names)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._sizes

    def read(self, name: str) -> bytes:
        """The content of a file, its checksum compared."""
        if self._sizes.get(name, 0) > MAX_BYTES:
            raise ValueError(f"{name} is larger than {MAX_BYTES >> 20} MiB")
        return self._zip.read(name)

    def close(self) -> None:
        """Lets go of the file."""
        self._zip.close()


def open_files(path: Path) -> contextlib.closing[Any]:
    """The `Folder` or `Zip` at a path, for a `with`."""
    return contextlib.closing(Folder(path) if path.is_dir() else Zip(path))


def _wrong_name(name: str, known: bool) -> str:
    """What is wrong with the name of a file in a zip; '' for nothing."""
    if known and not name.endswith("/"):
        return f"two files of the name {name!r}"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return f"a file {name!r}, which is no name below the zip's folder"
    return ""


def _is_shown(name: str) -> bool:
    # macOS leaves '._name' and '__MACOSX' beside what it packs.
    return bool(name) and not name.startswith((".", "__MACOSX"))


def _join(at: str, name: str) -> str:
    return f"{at}/{name}" if at else name


def mixed_order(names: Sequence[str]) -> list[int]:
    """The positions of names, ordered by the sha256 of each: classes mixed, always the same way.

    Files are found class by class, and the first training images validate: of all classes.
    """
    # Linux has names that are not UTF-8; they come with what their own bytes are.
    whole = [name.encode(errors="surrogateescape") for name in names]
    return sorted(range(len(names)), key=lambda i: hashlib.sha256(whole[i]).digest())


def open_image(content: bytes) -> Any:
    """A Pillow image of which only the header was read.

    Raises:
      ValueError: no image, or one of more than MAX_PIXELS or of more than 8 bits.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:  # Pillow raises almost any type on damaged input.
        raise ValueError(" ".join(str(error).split())[:100]) from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width}x{image.height} pixels")
    if image.mode.startswith(("I", "F")):  # `convert` would make them white.
        raise ValueError("it holds 16-bit values or larger ones; 8-bit images are expected")
    return image


def decode(content: bytes, image_shape: tuple[int, int, int], resize: int = 0) -> np.ndarray:
    """An image file as uint8[h, w, c].

    Args:
      image_shape: with one channel, of grey images only; with three, whatever they are.
      resize: its shorter side becomes so many pixels (bilinear, antialiased), of which the centre
        is taken: torchvision's Resize and CenterCrop. 0: it has the size already.

    Raises:
      ValueError: no image, damaged, or other than that.
    """
    height, width, channels = image_shape
    image = open_image(content)
    grey = image.mode in ("1", "L")
    if channels == 1 and not grey:
        raise ValueError(f"it is of mode {image.mode}, the others are grey")
    if not resize and image.size != (width, height):
        raise ValueError(f"it has {image.width}x{image.height} pixels, not {width}x{height}")
    with _LARGE if image.width * image.height > LARGE_PIXELS else contextlib.nullcontext():
        return _pixels(image, image_shape, resize)


def _pixels(image: Any, image_shape: tuple[int, int, int], resize: int) -> np.ndarray:
    from PIL import Image

    height, width, channels = image_shape
    mode = "L" if channels == 1 else "RGB"
    try:
        image.load()
        if image.mode != mode:  # Else `convert` would copy it.
            image = image.convert(mode)
    except Exception as error:  # Pillow raises almost any type on damaged input.
        raise ValueError(" ".join(str(error).split())[:100]) from None
    if resize:
        short, long = sorted(image.size)
        scaled = int(resize * long / short)
        size = (resize, scaled) if image.width <= image.height else (scaled, resize)
        if max(size) > MAX_PIXELS // resize:
            raise ValueError(f"it has {image.width}x{image.height} pixels")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, np.uint8).reshape(image_shape)


def split_of(
    path: Path,
    names: Sequence[str],
    labels: np.ndarray,
    image_shape: tuple[int, int, int],
    resize: int = 0,
    remedy: str = "take it from the official files again",
) -> RawSplit:
    """A split of image files, in this order; decoded when their blocks are asked for.

    Args:
      path: of the folder or zip; names: of the files in it; resize: see `decode`.
      remedy: what to do about a file that is damaged or of another size.
    """
    load = functools.partial(_load, image_shape, resize, remedy)
    blocks = functools.partial(_blocks, path, names, labels, image_shape, load)
    return RawSplit(len(names), blocks, independent=True)


def _blocks(
    path: Path,
    names: Sequence[str],
    labels: np.ndarray,
    image_shape: tuple[int, int, int],
    load: Callable[[Any, str], np.ndarray],
    start: int,
) -> Iterator[Block]:
    size = min(512, max(8, BLOCK_BYTES // int(np.prod(image_shape))))
    threads = min(THREADS, control_groups.cores())
    with open_files(path) as files, concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[list[concurrent.futures.Future[np.ndarray]]]
        waiting = collections.deque()
        try:
            for begin in range(start, len(names), size):
                some = names[begin : begin + size]
                waiting.append([pool.submit(load, files, name) for name in some])
                if len(waiting) > 1:  # The next is decoded while this one is taken.
                    images = np.stack([future.result() for future in waiting.popleft()])
                    yield images, labels[begin - size : begin]
            if waiting:
                images = np.stack([future.result() for future in waiting.popleft()])
                yield images, labels[len(names) - len(images) :]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _load(
    image_shape: tuple[int, int, int], resize: int, remedy: str, files: Any, name: str
) -> np.ndarray:
    try:
        return decode(files.read(name), image_shape, resize)
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--source={files.path}: {name} is damaged or no image of this dataset ({reason}); "
            f"{remedy}"
        ) from None
