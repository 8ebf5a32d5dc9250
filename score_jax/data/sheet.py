"""Many small images on one PNG, enlarged, with a line of text under each."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.types import UserError

MAX_PIXELS = 100_000_000  # Of a sheet; a viewer refuses or swaps beyond.
CELL = 72  # Pixels that an image is enlarged to, about.
GAP = 6
FONT = 12
PAPER, INK, FRAME = 255, 40, 200  # Shades of grey.


def sheet(
    images: np.ndarray,
    captions: Sequence[str] = (),
    columns: int = 10,
    *,
    title: str = "",
    scale: int = 0,
) -> bytes:
    """A contact sheet: the images row by row, each in a thin frame.

    An image is enlarged by a whole factor without smoothing, so that every pixel is seen. A cell
    is as wide as its image or the longest caption, up to two images; what is longer is cut. A
    caption has a line each time it has a line break.

    Args:
      images: uint8[n, h, w, 1 or 3].
      captions: n texts, or none.
      columns: images in a row.
      title: a line at the top.
      scale: enlargement; 0: to about 72 pixels, and never smaller than the image.

    Returns:
      The bytes of a PNG file, the same for the same arguments.

    Raises:
      UserError: no image, or a sheet of more than 100 million pixels.
      ValueError: arrays of another type or shape, captions that are not one an image.
    """
    from PIL import Image, ImageDraw, ImageFont

    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
        raise ValueError(f"images are {images.dtype}{list(images.shape)}, not uint8[n, h, w, 1|3]")
    count, height, width, channels = images.shape
    if captions and len(captions) != count:
        raise ValueError(f"{len(captions)} captions for {count} images")
    if columns < 1 or scale < 0:
        raise ValueError(f"columns={columns}, scale={scale}; give 1 or more")
    if not count:
        raise UserError("a sheet of no images cannot be drawn; give at least one")
    columns = min(columns, count)
    scale = scale or max(1, round(CELL / max(height, width)))
    font = ImageFont.load_default(FONT)
    line = sum(font.getmetrics()) if hasattr(font, "getmetrics") else FONT
    tall, wide = height * scale, width * scale
    longest = math.ceil(max((_width(font, text) for text in captions), default=0))
    cell = max(wide, min(longest, 2 * wide))
    lines = max((text.count("\n") + 1 for text in captions if text), default=0)
    step = (cell + GAP + 2, tall + GAP + 2 + lines * line)
    top = GAP + (line + GAP if title else 0)
    size = (GAP + columns * step[0], top + -(-count // columns) * step[1])
    size = (max(size[0], min(2 * GAP + int(_width(font, title)), 2 * size[0])), size[1])
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(
            f"a sheet of {count} images of {height}x{width} would have {size[0]}x{size[1]} pixels, "
            f"more than {MAX_PIXELS:,}; draw fewer"
        )
    page = Image.new("RGB", size, (PAPER,) * 3)
    pen = ImageDraw.Draw(page)
    if title:
        pen.text((GAP, GAP), _cut(font, title, size[0] - 2 * GAP), (INK,) * 3, font=font)
    for i, image in enumerate(images):
        left, upper = GAP + i % columns * step[0], top + i // columns * step[1]
        x = left + (cell - wide) // 2
        pen.rectangle((x, upper, x + wide + 1, upper + tall + 1), outline=(FRAME,) * 3)
        large = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
        shown = Image.fromarray(large[:, :, 0] if channels == 1 else large)
        page.paste(shown.convert("RGB"), (x + 1, upper + 1))
        for row, text in enumerate(captions[i].split("\n") if captions else ()):
            text = _cut(font, text, cell + 2)
            middle = left + (cell + 2 - _width(font, text)) / 2
            pen.text((middle, upper + tall + 3 + row * line), text, (INK,) * 3, font=font)
    file = io.BytesIO()
    page.save(file, "PNG")  # Optimised, it is 1% smaller and takes ten times as long.
    return file.getvalue()


def _width(font: Any, text: str) -> float:
    return max((font.getlength(part) for part in text.split("\n")), default=0)


def _cut(font: Any, text: str, width: float) -> str:
    """The text, or as much of its beginning as fits, with three dots."""
    if _width(font, text) <= width:
        return text
    while text and _width(font, text + "...") > width:
        text = text[:-1]
    return text + "..."


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuses a file that is not named as a PNG, before work is done for it.

    Raises:
      UserError: naming the flag.
    """
    if Path(path).suffix.lower() != ".png":
        raise UserError(f"--out={path} is not the name of a PNG file; give such as --out=sheet.png")


def save(path: str | os.PathLike[str], png: bytes) -> Path:
    """Writes a sheet; the file appears when it is whole.

    Raises:
      UserError: it is not named as a PNG file, or cannot be written.
    """
    check_name(path)
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(png)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror}") from None
    return target
