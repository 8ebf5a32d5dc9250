"""Crops, flips and rotations: only those, all of them equally often, from the key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax.data.augment import AUGMENTATIONS, pad_crop_flip, rotate
from score_jax.data.augment_ops import equalize_tables

EXCHANGES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")


def numbered_images(count, size=8, channels=3):
    """Images whose pixels are all different and none zero."""
    pixels = 1 + np.arange(size * size * channels, dtype=np.float32)
    return np.broadcast_to(pixels.reshape(size, size, channels), (count, size, size, channels))


def all_crops(image, pad=4, padding="constant"):
    """All (2 pad + 1)^2 crops, plain and mirrored: [row, column, flip, h, w, c]."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=padding)
    return np.stack(
        [
            [
                [padded[r : r + height, c : c + width][:, ::step] for step in (1, -1)]
                for c in range(2 * pad + 1)
            ]
            for r in range(2 * pad + 1)
        ]
    )


def places(outputs, image, pad=4, padding="constant"):
    """The (row, column, flip) of each output; fails where it is none of the crops."""
    crops = all_crops(image, pad, padding)
    flat = crops.reshape(-1, image.size)
    table = {crop.tobytes(): i for i, crop in enumerate(flat)}
    assert len(table) == 2 * (2 * pad + 1) ** 2
    indices = [table[np.ascontiguousarray(out).reshape(-1).tobytes()] for out in outputs]
    return np.stack(np.unravel_index(indices, crops.shape[:3]), axis=1)


@pytest.mark.parametrize(
    "name, padding", [("pad_crop_flip", "constant"), ("reflect_crop_flip", "reflect")]
)
def test_every_image_is_one_of_its_crops_and_all_come_equally_often(name, padding, key):
    images = numbered_images(8100, size=12)  # Of 8, some reflected crops would be equal.
    outputs = np.asarray(jax.jit(AUGMENTATIONS[name])(key, jnp.asarray(images)))
    counts = np.zeros((9, 9, 2))
    np.add.at(counts, tuple(places(outputs, images[0], padding=padding).T), 1)
    assert counts.min() > 0  # 50 expected of each of 162.
    # Deviations: 28 of a row's or column's 900; 45 of the flips' 4050; chi squared 161 +- 18.
    assert np.abs(counts.sum((1, 2)) - 900).max() < 140
    assert np.abs(counts.sum((0, 2)) - 900).max() < 140
    assert np.abs(counts.sum((0, 1)) - 4050).max() < 225
    assert 90 < ((counts - 50) ** 2 / 50).sum() < 250


def test_images_draw_independently(key):
    images = numbered_images(2000)
    drawn = places(np.asarray(pad_crop_flip(key, jnp.asarray(images))), images[0])
    correlation = np.corrcoef(drawn.T)
    assert np.abs(correlation - np.eye(3)).max() < 0.1
    neighbours = np.corrcoef(drawn[:-1].T, drawn[1:].T)[:3, 3:]
    assert np.abs(neighbours).max() < 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(5, 32, 32, 3), (3, 8, 8, 1), (2, 6, 9, 2)])
def test_type_and_shape_are_kept(dtype, shape, key):
    images = np.random.default_rng(0).integers(1, 255, shape).astype(dtype)
    outputs = np.asarray(pad_crop_flip(key, jnp.asarray(images), pad=2))
    assert outputs.dtype == dtype and outputs.shape == shape
    for image, output in zip(images, outputs, strict=True):
        places(output[None], image, pad=2)


TURNED = jax.jit(rotate)


@pytest.mark.parametrize("degrees", [-15, -13.7, -7.25, -1, 0, 0.3, 4.4, 9.9, 15])
@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 33, 3)])
def test_rotations_are_those_of_the_official_code(degrees, shape):
    # torchvision's RandomRotation turns PIL images by this very call.
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    expected = np.asarray(pillow.fromarray(image).rotate(degrees))
    found = np.asarray(TURNED(image, jnp.float32(degrees)))
    assert found.dtype == np.uint8
    # Where a source lies on the border of two pixels, rounding decides between them.
    assert (found != expected).any(-1).sum() <= 3


def test_images_are_cropped_and_flipped_and_then_turned_by_up_to_15_degrees(key):
    # A lone bright line through the middle tells the angle; its crop and flip keep it a line.
    size = 49
    images = np.zeros((400, size, size, 1), np.uint8)
    images[:, size // 2] = 255
    outputs = np.asarray(jax.jit(AUGMENTATIONS["pad_crop_flip_rotate"])(key, jnp.asarray(images)))
    assert set(np.unique(outputs)) == {0, 255}
    columns = np.arange(6, size - 6)
    rows = outputs[:, :, 6:-6, 0].argmax(1)
    slopes = np.array([np.polyfit(columns, row, 1)[0] for row in rows])
    degrees = np.rad2deg(np.arctan(slopes))
    assert -15.5 < degrees.min() < -14.5 and 14.5 < degrees.max() < 15.5
    counts, _ = np.histogram(degrees, bins=5, range=(-15, 15))
    assert counts.sum() > 380 and np.abs(counts - 80).max() < 35  # Deviations of 8.
    # Turning comes last: whatever the crop, by more than 5 degrees it empties all four corners.
    ones = jnp.ones((200, 16, 16, 1), jnp.uint8)
    turned = np.asarray(AUGMENTATIONS["pad_crop_flip_rotate"](key, ones))
    corners = turned[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert 0.6 < (corners == 0).all(1).mean() < 1 and turned[:, 8, 8].all()


SLOW = ("autoaugment", "idbh", "randaugment")  # To compile; their tables stand for them below.


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in sorted(AUGMENTATIONS)
    ],
)
def augmentation(request):
    """Each augmentation, compiled once, and its name."""
    return request.param, jax.jit(AUGMENTATIONS[request.param])


def noise(count=16, size=32, channels=3):
    shape = (count, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_the_key_decides_and_type_and_shape_stay(augmentation, key):
    name, augment = augmentation
    outputs = augment(key, noise())
    assert outputs.shape == noise().shape and outputs.dtype == jnp.uint8
    np.testing.assert_array_equal(outputs, augment(jax.random.key(0), noise()))
    differs = np.not_equal(outputs, augment(jax.random.key(1), noise())).any((1, 2, 3))
    assert differs.mean() > 0.9 if name != "none" else not differs.any()


def test_devices_do_not_change_the_result_and_exchange_nothing(augmentation, key):
    images, (_, augment) = noise(), augmentation
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    sharded = jax.device_put(images, sharding)
    program = jax.jit(augment, out_shardings=sharding).lower(key, sharded).compile()
    np.testing.assert_array_equal(program(key, sharded), augment(key, images))
    assert not any(exchange in program.as_text() for exchange in EXCHANGES)


def test_64_bits_change_no_draw(augmentation, key):
    name, augment = augmentation
    with jax.enable_x64(True):
        outputs = jax.jit(AUGMENTATIONS[name])(key, noise())
    assert outputs.dtype == jnp.uint8
    np.testing.assert_array_equal(outputs, augment(key, noise()))


def test_histograms_exchange_nothing_either():
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("batch",)), PartitionSpec("batch"))
    equalize = jax.jit(equalize_tables, out_shardings=sharding)
    program = equalize.lower(jax.device_put(noise(), sharding)).compile().as_text()
    assert not any(exchange in program for exchange in EXCHANGES)


def test_grey_levels_are_augmented_as_bytes_are(augmentation, key):
    images, (_, augment) = noise(), augmentation
    outputs = augment(key, images.astype(np.float32) / 255)
    assert outputs.dtype == jnp.float32
    assert float(outputs.min()) >= 0 and float(outputs.max()) <= 1
    np.testing.assert_array_equal(np.round(outputs * 255), augment(key, images))


def test_none_changes_nothing(key):
    images = jnp.asarray(numbered_images(3))
    np.testing.assert_array_equal(AUGMENTATIONS["none"](key, images), images)
