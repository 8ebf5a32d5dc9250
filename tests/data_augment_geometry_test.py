"""Shifts, shears and turns on the device give Pillow's bytes."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from score_jax.data import augment_geometry as geometry
from tests.data_augment_ops_test import natural, pillow

AFFINE, BICUBIC = Image.Transform.AFFINE, Image.Resampling.BICUBIC
move = jax.jit(geometry.affine, static_argnums=2)
ONE_SIXTH = 65536 // 6


def matrices(rows):
    return np.array(rows, np.int32)


@pytest.mark.parametrize("shape", [(32, 32), (20, 33)])
@pytest.mark.parametrize("fill", [0, 128])
def test_turns_are_pillows(shape, fill):
    images, degrees = natural(24, *shape), [0, 1, -1, 6.666666666666666, 14, -14, 30, -30]
    degrees += np.random.default_rng(0).uniform(-90, 90, 16).tolist()
    found = move(images, matrices([geometry.rotation(d, *shape) for d in degrees]), fill)
    expected = pillow(lambda i, d: i.rotate(d, fillcolor=(fill,) * 3), images, degrees)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(32, 32), (20, 33)])
def test_shears_and_translations_are_pillows(shape):
    images, shares = natural(16, *shape), np.linspace(-0.35, 0.35, 16)
    for matrix, form in (
        (geometry.shear_x, lambda s: (1, s, 0, 0, 1, 0)),
        (geometry.shear_y, lambda s: (1, 0, 0, s, 1, 0)),
        (lambda s: geometry.translation(100 * s, 0), lambda s: (1, 0, 100 * s, 0, 1, 0)),
        (lambda s: geometry.translation(0, 100 * s), lambda s: (1, 0, 0, 0, 1, 100 * s)),
    ):
        found = move(images, matrices([matrix(share) for share in shares]), 0)
        expected = pillow(
            lambda i, s, form=form: i.transform(i.size, AFFINE, form(s)), images, shares
        )
        np.testing.assert_array_equal(found, expected)


def test_translations_round_as_pillow_does():
    images = natural(9)
    ways = [-14.5, -14.501372, -0.5, -0.49, 0.5, 0.51, 12.888888, 14.501372, 46.666667]
    found = move(images, matrices([geometry.translation(way, 0) for way in ways]), 128)
    expected = pillow(
        lambda i, way: i.transform(i.size, AFFINE, (1, 0, way, 0, 1, 0), fillcolor=(128,) * 3),
        images, ways,
    )  # fmt: skip
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(32, 32), (20, 33)])
def test_shears_about_the_centre_are_those_of_torchvision(shape):
    # Its `affine` calls Pillow with this matrix.
    images, (height, width) = natural(24, *shape), shape
    shares = np.random.default_rng(0).integers(-ONE_SIXTH, ONE_SIXTH, 24, dtype=np.int32)
    along_x = np.arange(24) % 3 < 2
    about = jax.jit(geometry.shear_about_centre, static_argnums=(2, 3))
    found = move(images, about(shares, along_x, height, width), 0)

    def transform(image, share, is_x):
        share = share / 65536
        form = (1, share, -share * height / 2, 0, 1, 0)
        if not is_x:
            form = (1, 0, 0, share, 1, -share * width / 2)
        return image.transform(image.size, AFFINE, form)

    np.testing.assert_array_equal(found, pillow(transform, images, shares, along_x))


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (20, 33)])
@pytest.mark.parametrize("level", [7, 8])
def test_cubic_shears_are_pillows_but_where_its_rounding_fails(shape, level):
    share = Fraction(3, 10) * level / 9
    official = np.linspace(0, 0.3, 10)[level]
    images, which = natural(24, *shape), np.arange(24, dtype=np.int32) % 2
    shear = jax.jit(lambda x, i: geometry.shear_y_cubic(x, (share, -share), i, 128))
    found = np.asarray(shear(images, which)).astype(int)
    expected = pillow(
        lambda i, s: i.transform(
            i.size, AFFINE, (1, 0, 0, official * (1 - 2 * s), 1, 0), BICUBIC, fillcolor=(128,) * 3
        ),
        images, which,
    ).astype(int)  # fmt: skip
    difference = found - expected
    assert set(np.unique(difference)) <= {0, 1}
    assert (difference != 0).mean() < 2e-3


def test_the_identity_changes_nothing():
    images = jnp.asarray(natural()[-2:])
    identity = jnp.tile(jnp.asarray(matrices([geometry.IDENTITY])), (2, 1))
    np.testing.assert_array_equal(move(images, identity, 128), images)
    assert geometry.rotation(0, 32, 32) == geometry.translation(0, 0) == geometry.IDENTITY
    assert math.isclose(geometry.shear_x(0.3)[1] / 65536, 0.3, abs_tol=1e-5)
