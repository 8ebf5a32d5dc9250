"""AutoAugment, RandAugment and IDBH: Pillow's operations, as often as the papers' code has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from score_jax.data import augment_idbh as idbh
from score_jax.data import augment_policies as policies
from score_jax.data.augment_choice import Operation, apply
from tests.data_augment_ops_test import natural, pillow

SIZE = 32
GREY = (128, 128, 128)
SHAPES = {
    "color": ImageEnhance.Color, "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness, "brightness": ImageEnhance.Brightness,
}  # fmt: skip
PLAIN = {
    "autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize, "invert": ImageOps.invert,
}  # fmt: skip


def transform(image, matrix, **options):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, **options)


def autoaugment_by_pillow(image, name, level, sign):
    """An operation of the code that Wang et al. used."""
    if name in PLAIN:
        return PLAIN[name](image)
    if name in SHAPES:
        return SHAPES[name](image).enhance(1 + sign * np.linspace(0, 0.9, 10)[level])
    if name == "solarize":
        return ImageOps.solarize(image, np.linspace(256, 0, 10)[level])
    if name == "posterize":
        return ImageOps.posterize(image, int(np.round(np.linspace(8, 4, 10), 0)[level]))
    if name == "rotate":
        turned = image.convert("RGBA").rotate(np.linspace(0, 30, 10)[level])
        back = Image.new("RGBA", image.size, (128,) * 4)
        return Image.composite(turned, back, turned).convert("RGB")
    way = sign * np.linspace(0, 150 / 331, 10)[level] * SIZE
    if name == "translate_x":
        return transform(image, (1, 0, way, 0, 1, 0), fillcolor=GREY)
    if name == "translate_y":
        return transform(image, (1, 0, 0, 0, 1, way), fillcolor=GREY)
    share = sign * np.linspace(0, 0.3, 10)[level]
    cubic = Image.Resampling.BICUBIC
    return transform(image, (1, 0, 0, share, 1, 0), resample=cubic, fillcolor=GREY)


def randaugment_by_pillow(image, name, sign, level=14):
    """An operation of the RandAugment that Wang et al. used."""
    share = level / 30
    factor = 0.1 + 1.8 * share
    if name in PLAIN:
        return PLAIN[name](image)
    if name in SHAPES:
        return SHAPES[name](image).enhance(factor)
    if name == "posterize":
        return ImageOps.posterize(image, max(1, int(4 * share)))
    if name == "solarize":
        return ImageOps.solarize(image, 256 * share)
    if name == "solarize_add":
        added = np.clip(np.asarray(image).astype(int) + 110 * share, 0, 255).astype(np.uint8)
        return ImageOps.solarize(Image.fromarray(added), 128)
    if name == "rotate":
        return image.rotate(sign * 30 * share)
    return transform(
        image,
        {
            "shear_x": (1, sign * 0.3 * share, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, sign * 0.3 * share, 1, 0),
            "translate_x": (1, 0, sign * 100 * share, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, sign * 100 * share),
        }[name],
    )


def test_each_half_of_autoaugment_is_pillows():
    halves = [
        (*half, sign)
        for pair in policies.AUTOAUGMENT
        for half in (pair[1:3], pair[4:6])
        for sign in (-1, 1)
    ]
    assert len(halves) == 100
    operations = [policies.autoaugment_operation(*half, SIZE, SIZE) for half in halves]
    images, chosen = natural(100), np.arange(100, dtype=np.int32)
    found = np.asarray(jax.jit(lambda x, i: apply(x, operations, i, fill=128))(images, chosen))
    expected = pillow(autoaugment_by_pillow, images, *zip(*halves, strict=True))
    for half, image, wanted in zip(halves, found, expected, strict=True):
        if half[0] == "shear_y":  # Float64 that ends just below a whole number.
            assert (image != wanted).mean() < 0.01
        else:
            np.testing.assert_array_equal(image, wanted, str(half))


RANDAUGMENT = (
    "autocontrast equalize color contrast sharpness brightness invert posterize solarize "
    "solarize_add rotate shear_x shear_y translate_x translate_y"
).split()


def test_each_operation_of_randaugment_is_pillows():
    names = [name for name in RANDAUGMENT for _ in range(2)]
    operations = policies.randaugment_operations(14, SIZE, SIZE)
    images, signs = natural(30, seed=3), [-1, 1] * 15
    chosen = np.arange(30, dtype=np.int32)
    found = jax.jit(lambda x, i: apply(x, operations, i))(images, chosen)
    expected = pillow(randaugment_by_pillow, images, names, signs)
    for name, image, wanted in zip(names, np.asarray(found), expected, strict=True):
        np.testing.assert_array_equal(image, wanted, name)


@pytest.mark.parametrize("level", [5, 14, 29])
def test_posterizing_leaves_a_bit_at_least(level):
    names = [name for name in RANDAUGMENT for _ in range(2)]
    place = names.index("posterize")
    mask = policies.randaugment_operations(level, SIZE, SIZE)[place].mask
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2))
    wanted = np.asarray(randaugment_by_pillow(ramp, "posterize", 1, level))[0, :, 0]
    np.testing.assert_array_equal(np.arange(256) & mask, wanted)


def told(monkeypatch, module, policy, key, count=40_000):
    """What a policy chooses for each of many images, step by step: operations, choice, options."""
    operations = []

    def note(images, known, chosen, **options):
        operations.append(known)
        notes.append((chosen, options))
        return images

    def scan(one, images, rows):
        for row in list(rows) if isinstance(rows, jax.Array) else zip(*rows, strict=True):
            images, _ = one(images, row)
        return images, None

    monkeypatch.setattr(module, "apply", note)
    monkeypatch.setattr(jax.lax, "scan", scan)
    notes = []

    def choices(key):
        policy(key, jnp.zeros((count, 1, 1, 3), jnp.uint8))
        return [(chosen, {k: v for k, v in each.items() if k != "fill"}) for chosen, each in notes]

    steps = jax.device_get(jax.jit(choices)(key))
    return [(known, *step) for known, step in zip(operations, steps, strict=True)]


def test_autoaugment_draws_each_pair_equally_often_and_does_each_half_with_its_share(
    monkeypatch, key
):
    first, second = (
        np.asarray(chosen)
        for _, chosen, _ in told(monkeypatch, policies, policies.autoaugment, key)
    )
    for half, chosen in enumerate((first, second)):
        counts = np.bincount(chosen, minlength=101)
        expected = np.zeros(101)
        for i, pair in enumerate(policies.AUTOAUGMENT):
            expected[1 + 4 * i + 2 * half :][:2] = 40_000 / 25 / 2 * pair[3 * half]
        expected[0] = 40_000 - expected.sum()
        assert np.abs(counts - expected).max() < 5 * 140  # Of the identity; else:
        assert np.abs(counts - expected)[1:].max() < 5 * 27
    both = (first > 0) & (second > 0)
    assert ((first - 1)[both] // 4 == (second - 1)[both] // 4).all()


def test_randaugment_draws_sixteen_operations_equally_often(monkeypatch, key):
    first, second = told(monkeypatch, policies, policies.randaugment, key)
    assert len(first[0]) == 32 and first[0][:2] == [Operation()] * 2
    for _, chosen, _ in (first, second):
        assert np.abs(np.bincount(chosen, minlength=32) - 1250).max() < 5 * 35
    assert abs(np.corrcoef(first[1], second[1])[0, 1]) < 0.02


def test_cutout_of_randaugment_is_pillows_rectangle(monkeypatch, key):
    images = jnp.asarray(natural(400))
    monkeypatch.setattr(policies, "below", lambda bits, bound: jnp.zeros(bits.shape, jnp.int32))
    found = np.asarray(jax.jit(lambda key, x: policies.randaugment(key, x, 1))(key, images))
    changed = (found != images).any((0, 3))
    assert changed.all()
    boxes = set()
    for image, output in zip(np.asarray(images), found, strict=True):
        rows, columns = (np.flatnonzero((output != image).any(2).any(axis)) for axis in (1, 0))
        top, left = int(rows[0]), int(columns[0])
        drawn = Image.fromarray(image)
        far = (min(SIZE, left + 56 / 3), min(SIZE, top + 56 / 3))
        ImageDraw.Draw(drawn).rectangle((left, top, *far), (125, 123, 114))
        np.testing.assert_array_equal(output, drawn)
        boxes.add((top, left))
    tops, lefts = zip(*boxes, strict=True)
    assert max(tops) == max(lefts) == 22 and min(tops) == min(lefts) == 0


def test_idbh_draws_its_eight_operations_and_their_strengths(monkeypatch, key):
    ((operations, chosen, options),) = told(monkeypatch, idbh, idbh.color_shape, key)
    counts, factor = np.bincount(chosen, minlength=8), np.asarray(options["factor"])
    assert np.abs(counts - 5000).max() < 5 * 67
    for i, operation in enumerate(operations):
        low, high = idbh.FACTORS.get(operation.kind, (1, 1))
        drawn = factor[np.asarray(chosen) == i]
        assert low <= drawn.min() and drawn.max() <= high
        assert abs(drawn.mean() - (low + high) / 2) < 0.05
    matrices = np.asarray(options["matrices"])
    sheared, turned = (matrices[np.asarray(chosen) == i] for i in (6, 7))
    shares = np.abs(sheared[:, [1, 3]] / 65536)
    assert (shares.min(1) == 0).all() and 0.48 < (shares[:, 0] == 0).mean() < 0.52
    assert np.tan(0.05) - 1e-4 < shares.max(1).min() and shares.max() < np.tan(0.15) + 1e-4
    degrees = np.rad2deg(np.arctan2(turned[:, 3], turned[:, 0]))
    np.testing.assert_allclose(degrees, np.round(degrees), atol=1e-3)
    found, counts = np.unique(np.round(degrees), return_counts=True)
    assert set(found) == set(range(-10, 11)) - {0} and np.abs(counts - 250).max() < 80
    assert (matrices[np.asarray(chosen) < 6] == [65536, 0, 32768, 0, 65536, 32768]).all()


def test_crops_are_put_elsewhere_as_in_idbhs_code(monkeypatch, key):
    images, shift, noted = natural(300), idbh._shift, []

    def crop(key):
        output = idbh.crop_shift(key, jnp.asarray(images))
        return output, noted[0]

    monkeypatch.setattr(idbh, "_shift", lambda x, *each: noted.append(each) or shift(x, *each))
    found, (start, end, lost) = jax.device_get(jax.jit(crop)(key))
    for i, output in enumerate(found):
        (top, left), (to_top, to_left), (rows, columns) = (
            [int(part[i]) for part in each] for each in (start, end, lost)
        )
        expected = np.zeros((SIZE, SIZE, 3), np.uint8)
        expected[to_top : to_top + SIZE - rows, to_left : to_left + SIZE - columns] = images[
            i, top : top + SIZE - rows, left : left + SIZE - columns
        ]
        np.testing.assert_array_equal(output, expected)
    assert set(lost[0] + lost[1]) == set(range(11))
    for axis in (0, 1):
        for drawn in (start[axis], end[axis]):
            assert (drawn >= 0).all() and (drawn <= lost[axis]).all()
            assert (drawn == 0).any() and (drawn == lost[axis])[lost[axis] > 0].any()


def test_rectangles_are_erased_as_torchvision_does(key):
    images = jnp.full((4000, SIZE, SIZE, 1), 255, jnp.uint8)
    erased = np.asarray(jax.jit(idbh.random_erasing)(key, images))[..., 0] == 0
    some = erased.any((1, 2))
    assert abs(some.mean() - 0.5) < 0.03
    rows, columns = (erased[some].any(axis).sum(1) for axis in (2, 1))
    np.testing.assert_array_equal(erased[some].sum((1, 2)), rows * columns)
    share = rows * columns / SIZE**2
    # Sides are rounded, so that bounds are met but for half a pixel of either side.
    assert 0.015 < share.min() and share.max() < 0.35 and abs(share.mean() - 0.17) < 0.01
    ratio = np.log(rows / columns)
    assert abs(ratio.mean()) < 0.05 and 1.0 < np.abs(ratio).max() < 1.4
    covered = erased[some].mean(0)
    np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.08)


@pytest.mark.parametrize("policy", [policies.autoaugment, policies.randaugment, idbh.idbh])
@pytest.mark.slow
def test_policies_do_not_mix_images(policy, key):
    images = jnp.asarray(natural(32))
    augment = jax.jit(policy)
    others = images.at[5].set(0)
    changed = (np.asarray(augment(key, images)) != augment(key, others)).any((1, 2, 3))
    assert set(np.flatnonzero(changed)) <= {5}
