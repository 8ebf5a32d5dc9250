"""Which images count as the same: what is done to them, and what only looks alike."""

import importlib.util
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from score_jax.data import duplicates
from score_jax.data.duplicates import Pair, TestImages

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
COUNT = 48
# Of the near-duplicates that Barz and Denzler list (ciFAIR, meta/duplicates_cifar10.csv), every
# tenth: the index of the test image, and of the training image.
CIFAIR = (
    (6611, 49007), (7029, 19059), (3520, 49426), (6350, 16752), (6503, 41379), (9112, 8368),
    (5585, 7998), (3931, 33873), (1777, 27754), (8031, 41432), (3170, 44698), (2865, 25293),
    (7577, 31724), (8523, 5375), (8356, 1901), (2678, 47946), (3119, 14584), (4868, 24360),
    (2057, 24687), (1423, 27629), (3462, 38704), (3197, 7272), (2228, 32503), (8485, 20275),
)  # fmt: skip


def scenes(count: int, seed: int, side: int = 48) -> np.ndarray:
    """Images whose waves are the weaker the finer they are, as in photographs."""
    generator = np.random.default_rng(seed)
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(side) * side, np.arange(side // 2 + 1)))
    noise = generator.normal(size=(count, 3, *waves.T.shape, 2)) @ np.array([1, 1j])
    noise[:, 1:] = 0.8 * noise[:, :1] + 0.4 * noise[:, 1:]  # Colours go together.
    images = np.fft.irfft2(noise / np.maximum(waves.T, 1), axes=(2, 3))
    images = images / images.std((1, 2, 3), keepdims=True) * 50 + 128
    return np.clip(np.moveaxis(images, 1, 3), 0, 255).astype(np.uint8)


LARGE = scenes(COUNT, 0)
IMAGES = LARGE[:, 8:40, 8:40]


def jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


CHANGES = {
    "mirrored": IMAGES[:, :, ::-1],
    "moved": LARGE[:, 11:43, 6:38],
    "moved and mirrored": LARGE[:, 5:37, 5:37][:, :, ::-1],
    "darker": (IMAGES * 0.6).astype(np.uint8),
    "more contrast": np.clip(IMAGES * 1.5 - 60.0, 0, 255).astype(np.uint8),
    "another tint": np.clip(IMAGES + np.array([8.0, 0, -8]), 0, 255).astype(np.uint8),
    "noisy": np.clip(IMAGES + np.random.default_rng(1).normal(0, 10, IMAGES.shape), 0, 255).astype(
        np.uint8
    ),
    "jpeg": np.stack([jpeg(image) for image in IMAGES]),
}


@pytest.fixture(scope="module")
def known():
    return TestImages(IMAGES)


def test_equal_images_are_exact_duplicates_and_told_once(known):
    assert known.find(IMAGES, first=100) == [
        Pair(index, 100 + index, 1.0, is_exact=True) for index in range(COUNT)
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_is_found_after(change, known):
    pairs = known.find(CHANGES[change])
    assert {(pair.test, pair.other) for pair in pairs} == {(i, i) for i in range(COUNT)}
    assert all(pair.is_mirrored == ("mirrored" in change) for pair in pairs)
    assert not any(pair.is_exact for pair in pairs)
    assert all(duplicates.LIKENESS <= pair.likeness <= 1 for pair in pairs)


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_are_found(count):
    known = TestImages(IMAGES[:count])
    assert known.find(scenes(100, seed=2, side=32)) == []
    for change in CHANGES.values():
        pairs = known.find(change)
        assert {(pair.test, pair.other) for pair in pairs} == {(i, i) for i in range(count)}


def test_other_images_are_not_found(known):
    assert known.find(scenes(400, seed=2)[:, 8:40, 8:40]) == []


def test_what_is_found_does_not_depend_on_the_blocks(known):
    mixed = np.concatenate([scenes(40, seed=3)[:, 8:40, 8:40], CHANGES["moved"], IMAGES])
    whole = known.find(mixed)
    parts = [
        pair for at in range(0, len(mixed), 37) for pair in known.find(mixed[at : at + 37], at)
    ]
    key = lambda pair: (pair.other, pair.test)  # noqa: E731
    assert [key(p) for p in sorted(whole, key=key)] == [key(p) for p in sorted(parts, key=key)]
    assert len(whole) == 2 * COUNT


def test_within_a_set_each_pair_is_told_once():
    images = np.concatenate([IMAGES, IMAGES[:2], CHANGES["darker"][2:4]])
    pairs = TestImages(images).find(images, within=True)
    assert sorted((p.test, p.other, p.is_exact) for p in pairs) == [
        (0, 48, True), (1, 49, True), (2, 50, False), (3, 51, False),
    ]  # fmt: skip


def test_what_looks_like_many_needs_to_be_more_alike(known):
    """Dots in the sky: like each other in detail too, yet no copies."""
    sky = np.linspace(200, 140, 32)[:, None, None] + np.array([-40, 0, 40])
    generator = np.random.default_rng(4)
    rows, columns = np.mgrid[:32, :32]

    def dots(count):
        images = np.tile(sky.reshape(1, 32, 1, 3), (count, 1, 32, 1))
        for image in images:
            y, x = generator.normal(16, 1.0, 2)
            tall, wide = generator.uniform(2.0, 3.5, 2)
            shape = ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 < 1
            image[shape] = generator.uniform(20, 60)
        return np.clip(images + generator.normal(0, 2, images.shape), 0, 255).astype(np.uint8)

    birds, others = dots(300), dots(50)
    alone = TestImages(np.concatenate([birds[:1], IMAGES])).find(others)
    among = [
        pair for pair in TestImages(np.concatenate([birds, IMAGES])).find(others) if pair.test == 0
    ]
    assert len(alone) > 3 * len(among)
    crowded = TestImages(np.concatenate([IMAGES, birds]))
    assert {(p.test, p.other) for p in crowded.find(CHANGES["darker"])} == {
        (i, i) for i in range(COUNT)
    }


@pytest.mark.parametrize("shape", [(32, 32, 1), (8, 8, 3)])
def test_of_grey_or_tiny_images_only_equal_ones_are_found(shape):
    images = np.random.default_rng(5).integers(0, 256, (20, *shape), dtype=np.uint8)
    found = TestImages(images).find(np.concatenate([images[:3], (images[3:] * 0.9).astype("u1")]))
    assert [(p.test, p.other, p.is_exact) for p in found] == [(i, i, True) for i in range(3)]


@pytest.mark.parametrize("side", [(32, 48), (64, 64), (72, 30)])
def test_images_of_other_sizes_are_compared(side):
    images = scenes(12, seed=6, side=72)[:, : side[0], : side[1]]
    found = TestImages(images).find((images[:, :, ::-1] * 0.8).astype(np.uint8))
    assert {(p.test, p.other) for p in found} == {(i, i) for i in range(12)}


def test_images_of_one_colour_are_like_none():
    flat = np.full((3, 32, 32, 3), 7, np.uint8)
    known = TestImages(np.concatenate([flat[:1], IMAGES]))
    assert known.find(flat + 1) == []
    assert [pair.is_exact for pair in known.find(flat)] == [True] * 3


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images in {SHARED}")
def test_most_known_near_duplicates_of_cifar10_are_found():
    module = importlib.util.spec_from_file_location("unpack", SHARED / "unpack.py")
    unpack = importlib.util.module_from_spec(module)
    module.loader.exec_module(unpack)
    train, test = unpack.cifar10("train")[0], unpack.cifar10("test")[0]
    of, to = np.array(CIFAIR).T
    pairs = TestImages(test).find(train[to])
    found = {(pair.test, int(to[pair.other])) for pair in pairs} & set(CIFAIR)
    assert len(found) >= 0.7 * len(CIFAIR)
