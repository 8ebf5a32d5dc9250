"""Operations on the device give Pillow's bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from score_jax.data import augment_ops as ops


def natural(count=24, height=32, width=32, seed=0):
    """Smooth coloured noise of many contrasts, some of a single value, some of two."""
    generator = np.random.default_rng(seed)
    small = generator.random((count, 5, 5, 3))
    images = np.stack([np.kron(image, np.ones((13, 13, 1)))[:height, :width] for image in small])
    images += 0.2 * generator.random(images.shape)
    low, span = generator.integers(0, 200, (2, count, 1, 1, 3))
    images = np.clip(low + images * np.minimum(span, 255 - low), 0, 255).astype(np.uint8)
    images[0], images[1], images[2, :, :, 0] = 0, 77, 255
    images[3] = np.where(images[3] > 128, 131, 130)
    return images


def pillow(operation, images, *parameters):
    """The operation on each image as Pillow has it, with that image's parameters."""
    each = zip(images, *parameters, strict=True)
    return np.stack([np.asarray(operation(Image.fromarray(image), *rest)) for image, *rest in each])


def test_blend_is_pillows_for_all_pairs_of_bytes():
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij")).astype(np.uint8)
    start, images = (Image.fromarray(part) for part in pairs)
    factors = [0.05, 0.1, 0.3, 0.4, 0.6, 0.7, 0.94, 1 - 2**-24, 1, 1 + 2**-23, 1.2, 1.3, 1.5, 1.9]
    factors += np.random.default_rng(0).uniform(0.1, 1.9, 30).tolist()
    found = jax.jit(jax.vmap(ops.blend, (None, None, 0)))(
        pairs[0][None, :, :, None], pairs[1][None, :, :, None], jnp.float32(factors)[:, None]
    )
    for factor, values in zip(factors, np.asarray(found), strict=True):
        expected = np.asarray(Image.blend(start, images, factor))
        np.testing.assert_array_equal(values[0, :, :, 0], expected, f"factor {factor}")


@pytest.mark.parametrize(
    "start, enhance",
    [
        (ops.gray, ImageEnhance.Color),
        (ops.mean_gray, ImageEnhance.Contrast),
        (ops.smooth, ImageEnhance.Sharpness),
        (jnp.zeros_like, ImageEnhance.Brightness),
    ],
)
@pytest.mark.parametrize("shape", [(32, 32), (20, 33)])
def test_enhancements_are_pillows(start, enhance, shape):
    images = natural(24, *shape)
    factors = np.linspace(0.1, 1.9, 24, dtype=np.float32)
    found = jax.jit(lambda x, f: ops.blend(start(x), x, f))(images, factors)
    expected = pillow(lambda image, f: enhance(image).enhance(float(f)), images, factors)
    np.testing.assert_array_equal(found, expected)


def test_what_enhancements_start_from_is_pillows():
    images = natural()
    np.testing.assert_array_equal(
        jax.jit(ops.gray)(images)[..., 0], pillow(lambda image: image.convert("L"), images)
    )
    smoothed = pillow(lambda image: image.filter(ImageFilter.SMOOTH), images)
    np.testing.assert_array_equal(jax.jit(ops.smooth)(images), smoothed)
    alone = images[:, :2]
    np.testing.assert_array_equal(ops.smooth(jnp.asarray(alone)), alone)


def test_tones_are_pillows():
    images, tones = natural(8), jax.jit(ops.tones)
    keep = [np.full(8, value, np.int32) for value in (0, 256, 255)]
    np.testing.assert_array_equal(tones(images, *keep), images)
    inverted = tones(images, keep[0], np.zeros(8, np.int32), keep[2])
    np.testing.assert_array_equal(inverted, pillow(ImageOps.invert, images))
    thresholds = np.int32([0, 1, 29, 86, 114, 200, 255, 256])
    expected = pillow(lambda image, t: ImageOps.solarize(image, int(t)), images, thresholds)
    np.testing.assert_array_equal(tones(images, keep[0], thresholds, keep[2]), expected)
    bits = np.arange(1, 9, dtype=np.int32)
    masks = 256 - 2 ** (8 - bits)
    expected = pillow(lambda image, b: ImageOps.posterize(image, int(b)), images, bits)
    np.testing.assert_array_equal(tones(images, *keep[:2], masks.astype(np.int32)), expected)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    "tables, operation",
    [
        (ops.autocontrast_tables, ImageOps.autocontrast),
        (ops.equalize_tables, ImageOps.equalize),
    ],
)
def test_tables_are_pillows(tables, operation, channels):
    images = natural(60)[..., :channels]
    found = jax.jit(lambda x: ops.remap(x, tables(x)))(images)
    expected = pillow(operation, images if channels == 3 else images[..., 0])
    np.testing.assert_array_equal(found, expected.reshape(found.shape))


def test_autocontrast_is_pillows_for_all_extremes():
    low, high = np.triu_indices(256)
    low, high = low.astype(np.uint8), high.astype(np.uint8)
    tables = np.asarray(
        jax.jit(ops.autocontrast_tables)(np.stack([low, high], 1)[:, :, None, None])
    )[:, 0]
    row = np.arange(256, dtype=np.uint8)
    for table, a, b in list(zip(tables, low, high, strict=True))[::29]:
        a, b = int(a), int(b)
        shown = Image.fromarray(row[None, a : b + 1].copy())
        expected = np.asarray(ImageOps.autocontrast(shown))[0]
        np.testing.assert_array_equal(table[a : b + 1], expected, f"from {a} to {b}")


def test_rectangles_are_pillows():
    images = natural(40)
    top, left, bottom, right = np.random.default_rng(1).integers(0, 36, (4, 40), dtype=np.int32)
    color = np.uint8([125, 123, 114])

    def draw(image, *box):
        y0, x0, y1, x1 = map(int, box)
        if y1 > y0 and x1 > x0:
            ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), tuple(map(int, color)))
        return image

    found = jax.jit(ops.erase)(images, (top, left, bottom, right), color)
    np.testing.assert_array_equal(found, pillow(draw, images, top, left, bottom, right))
