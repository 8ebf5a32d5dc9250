"""AutoAugment and RandAugment on the device, as Wang et al. (ICML 2023) used them.

AutoAugment: Cubuk et al. (2019); RandAugment: Cubuk et al. (2020). Operations and their ranges are
those of https://github.com/wzekai99/DM-Improves-AT and of the RandAugment that it calls for,
https://github.com/ildoonet/pytorch-randaugment.
"""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.data import augment_geometry as geometry
from score_jax.data import augment_ops as ops
from score_jax.data.augment_choice import STARTS, TABLES, Operation, apply
from score_jax.data.augment_draws import below, draws, uniform
from score_jax.types import Array, Key

# Each pair of AutoAugment for CIFAR-10: probability, operation and level of 0 to 9, twice.
AUTOAUGMENT = (
    (0.1, "invert", 7, 0.2, "contrast", 6), (0.7, "rotate", 2, 0.3, "translate_x", 9),
    (0.8, "sharpness", 1, 0.9, "sharpness", 3), (0.5, "shear_y", 8, 0.7, "translate_y", 9),
    (0.5, "autocontrast", 8, 0.9, "equalize", 2), (0.2, "shear_y", 7, 0.3, "posterize", 7),
    (0.4, "color", 3, 0.6, "brightness", 7), (0.3, "sharpness", 9, 0.7, "brightness", 9),
    (0.6, "equalize", 5, 0.5, "equalize", 1), (0.6, "contrast", 7, 0.6, "sharpness", 5),
    (0.7, "color", 7, 0.5, "translate_x", 8), (0.3, "equalize", 7, 0.4, "autocontrast", 8),
    (0.4, "translate_y", 3, 0.2, "sharpness", 6), (0.9, "brightness", 6, 0.2, "color", 8),
    (0.5, "solarize", 2, 0.0, "invert", 3), (0.2, "equalize", 0, 0.6, "autocontrast", 0),
    (0.2, "equalize", 8, 0.6, "equalize", 4), (0.9, "color", 9, 0.6, "equalize", 6),
    (0.8, "autocontrast", 4, 0.2, "solarize", 8), (0.1, "brightness", 3, 0.7, "color", 0),
    (0.4, "solarize", 5, 0.9, "autocontrast", 3), (0.9, "translate_y", 9, 0.7, "translate_y", 9),
    (0.9, "autocontrast", 2, 0.8, "solarize", 3), (0.8, "equalize", 8, 0.1, "invert", 3),
    (0.7, "translate_y", 9, 0.9, "autocontrast", 1),
)  # fmt: skip


def autoaugment_operation(
    name: str, level: int, sign: int, height: int, width: int
) -> Operation:  # fmt: skip
    """An operation of AutoAugment; a turn has no sign, and is always counter-clockwise."""
    if name in STARTS:
        return Operation(name, factor=float(1 + sign * np.linspace(0, 0.9, 10)[level]))
    if name in TABLES:
        return Operation(name)
    way = sign * np.linspace(0, 150 / 331, 10)[level]
    return {
        "invert": Operation("tones", threshold=0),
        "solarize": Operation("tones", threshold=math.ceil(np.linspace(256, 0, 10)[level])),
        "posterize": _posterize(round(np.linspace(8, 4, 10)[level])),
        "rotate": Operation(
            "move", geometry.rotation(np.linspace(0, 30, 10)[level], height, width)
        ),
        "translate_x": Operation("move", geometry.translation(way * width, 0)),
        "translate_y": Operation("move", geometry.translation(0, way * height)),
        "shear_y": Operation("shear_y_cubic", share=sign * level * Fraction(3, 90)),
    }[name]


def _posterize(bits: int) -> Operation:
    return Operation("tones", mask=256 - 2 ** (8 - bits))


def autoaugment(key: Key, images: Array) -> Array:
    """One of AutoAugment's 25 pairs for CIFAR-10, each half with its probability; grey outside.

    Args:
      images: uint8[b, h, w, c].
    """
    _, height, width, _ = images.shape
    # Of the table below: pair, half, sign, after 'identity'.
    operations = [Operation()] + [
        autoaugment_operation(*half, sign, height, width)
        for pair in AUTOAUGMENT
        for half in (pair[1:3], pair[4:6])
        for sign in (-1, 1)
    ]
    probabilities = jnp.asarray([[pair[0], pair[3]] for pair in AUTOAUGMENT], jnp.float32)
    of_pair, *words = draws(key, 5, images)
    pairs = below(of_pair, len(AUTOAUGMENT))
    is_done = uniform(jnp.stack(words[:2])) < probabilities[pairs].T
    half = jnp.arange(2, dtype=jnp.int32)[:, None]
    place = 4 * pairs[None, :] + 2 * half + below(jnp.stack(words[2:]), 2)
    chosen = jnp.where(is_done, 1 + place, 0)

    def one(images: Array, chosen: Array) -> tuple[Array, None]:
        return apply(images, operations, chosen, fill=128), None

    return jax.lax.scan(one, images, chosen)[0]


def randaugment_operations(level: float, height: int, width: int) -> list[Operation]:
    """The fifteen operations of RandAugment beside its cutout, at a level of 0 to 30: each once
    for either sign, equal where it has none.

    Translations are by level / 30 * 100 pixels, as in the code that Wang et al. used, where they
    leave nothing of an image of 32 pixels at their level, 14. Posterizing keeps a bit at least.
    """
    share = level / 30
    factor, shear, far = 0.1 + 1.8 * share, 0.3 * share, 100 * share
    both = [[Operation(kind)] * 2 for kind in TABLES]
    both += [[Operation(kind, factor=factor)] * 2 for kind in STARTS]
    both += [
        [operation] * 2
        for operation in (
            Operation("tones", threshold=0),
            _posterize(max(1, int(4 * share))),
            Operation("tones", threshold=math.ceil(256 * share)),
            Operation("tones", addition=int(110 * share), threshold=128),
        )
    ]
    for matrix in (
        lambda sign: geometry.rotation(sign * 30 * share, height, width),
        lambda sign: geometry.shear_x(sign * shear),
        lambda sign: geometry.shear_y(sign * shear),
        lambda sign: geometry.translation(sign * far, 0),
        lambda sign: geometry.translation(0, sign * far),
    ):
        both.append([Operation("move", matrix(sign)) for sign in (-1, 1)])
    return [operation for pair in both for operation in pair]


def randaugment(key: Key, images: Array, number: int = 2, level: float = 14) -> Array:
    """`number` of RandAugment's 16 operations, drawn with replacement, at `level` of 30.

    Args:
      images: uint8[b, h, w, c].
    """
    _, height, width, channels = images.shape
    operations = [Operation()] * 2 + randaugment_operations(level, height, width)
    color = jnp.asarray([125, 123, 114], jnp.uint8)
    color = color if channels == 3 else ops.gray(color[None, None, None, :])[0, 0, 0]
    words = [jnp.stack(draws(each, number, images)) for each in jax.random.split(key, 3)]
    chosen, side = below(words[0], len(operations)), 40 * level / 30
    # The code draws the centre from (1, size], and paints the far border too.
    corners = [
        jnp.maximum(size - (size - 1) * uniform(bits) - side / 2, 0).astype(jnp.int32)
        for size, bits in zip((height, width), words[1:], strict=True)
    ]

    def one(images: Array, each: tuple[Array, Array, Array]) -> tuple[Array, None]:
        chosen, top, left = each
        images = apply(images, operations, chosen)
        far = jnp.where(chosen < 2, int(side) + 1, 0)  # Nothing where another was drawn.
        return ops.erase(images, (top, left, top + far, left + far), color), None

    return jax.lax.scan(one, images, (chosen, *corners))[0]
