"""CutMix: the official boxes and weights, and nothing mixed but what the box says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax.data.cutmix import box, cutmix, side_of

VERSIONS = 4
mix = jax.jit(cutmix, static_argnums=3)


@pytest.mark.parametrize(
    "row, column, side, expected, share",
    [
        # Numbers of SCORE's code; (row, column, height, width).
        (5, 30, 20, (0, 20, 15, 12), 0.82421875),
        (16, 16, 9, (12, 12, 8, 8), 0.9375),
        (31, 0, 1, (31, 0, 0, 0), 1.0),
        (0, 0, 32, (0, 0, 16, 16), 0.75),
        (16, 16, 32, (0, 0, 32, 32), 0.0),
    ],
)
def test_boxes_are_those_of_the_official_code(row, column, side, expected, share):
    found = jax.jit(box, static_argnums=(3, 4))(row, column, side, 32, 32)
    assert tuple(int(value) for value in found) == expected
    assert 1 - int(found[2]) * int(found[3]) / 1024 == share


@pytest.mark.parametrize(
    "share, side", [(0.0, 32), (0.25, 27), (0.75, 16), (0.91, 9), (0.9999, 0), (0.999, 1)]
)
def test_the_side_is_rounded_down(share, side):
    assert int(side_of(jnp.float32(share), 32, 32)) == side


def numbered_images(count, size=32):
    """Each pixel tells its image and its place: (image, row, column)."""
    images = np.zeros((count, size, size, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None]
    images[..., 1] = np.arange(size)[:, None]
    images[..., 2] = np.arange(size)
    return jnp.asarray(images)


def by_version(values):
    return np.asarray(values).reshape(VERSIONS, -1, *values.shape[1:])


def test_each_version_has_one_box_one_permutation_and_the_weight_of_its_area():
    labels = 100 + jnp.arange(12)
    for seed in range(10):
        key = jax.random.key(seed)
        parts = map(by_version, mix(key, numbered_images(12), labels, VERSIONS))
        for mixed, first, second, weight in zip(*parts, strict=True):
            np.testing.assert_array_equal(first, labels)
            np.testing.assert_array_equal(np.sort(second), labels)
            np.testing.assert_array_equal(mixed[..., 1:], numbered_images(12)[..., 1:])
            # Image i shows itself, or the image that the second label says.
            owners = np.arange(12)[:, None, None]
            partners = np.broadcast_to((second - 100)[:, None, None], mixed.shape[:3])
            from_partner = mixed[..., 0] != owners
            np.testing.assert_array_equal(mixed[..., 0][from_partner], partners[from_partner])
            moved = second != first
            inside = from_partner[moved][0]
            assert (from_partner[moved] == inside).all()
            rows, columns = inside.any(1), inside.any(0)
            np.testing.assert_array_equal(inside, rows[:, None] & columns)
            assert all(
                np.ptp(np.flatnonzero(line)) + 1 == line.sum()
                for line in (rows, columns)
                if line.any()
            )
            np.testing.assert_array_equal(weight, np.float32(1 - inside.sum() / 1024))


def test_versions_differ():
    _, _, second, weight = map(
        by_version, mix(jax.random.key(0), numbered_images(12), jnp.arange(12), VERSIONS)
    )
    assert len({tuple(order) for order in second}) == VERSIONS
    assert len(set(weight[:, 0].tolist())) > 1


def test_shares_and_centres_are_uniform():
    keys = jax.random.split(jax.random.key(1), 4000)
    images = jnp.stack([jnp.zeros((32, 32, 1)), jnp.ones((32, 32, 1))])

    def one(key):
        mixed, _, second, weight = cutmix(key, images, jnp.arange(2), 1)
        return mixed[0, ..., 0], second[0], weight[0]

    mixed, second, weight = jax.jit(jax.vmap(one))(keys)
    generator = np.random.default_rng(0)
    side = np.floor(32 * np.sqrt(1 - generator.random(40000))).astype(int)
    lows, highs = [], []
    for centre in generator.integers(0, 32, (2, 40000)):
        lows.append(np.clip(centre - side // 2, 0, 32))
        highs.append(np.clip(centre + side // 2, 0, 32))
    expected = 1 - (highs[0] - lows[0]) * (highs[1] - lows[1]) / 1024
    # The deviation of a weight is 0.2: three deviations of the mean of 4000.
    assert abs(float(weight.mean()) - expected.mean()) < 0.01
    for quantile in (0.1, 0.5, 0.9):
        assert abs(np.quantile(weight, quantile) - np.quantile(expected, quantile)) < 0.03
    moved = np.asarray(mixed)[np.asarray(second) == 1]
    assert 1850 < len(moved) < 2150
    covered = moved.mean(0)
    # Deviations of 0.01; the same from every side.
    for turned in (covered[::-1], covered[:, ::-1], covered.T):
        assert np.abs(covered - turned)[1:, 1:].max() < 0.09


def test_labels_can_be_probabilities(key):
    probs = jax.nn.one_hot(jnp.arange(6), 10)
    _, first, second, _ = mix(key, numbered_images(6), probs, VERSIONS)
    _, labels, mixed_labels, _ = mix(key, numbered_images(6), jnp.arange(6), VERSIONS)
    np.testing.assert_array_equal(first.argmax(1), labels)
    np.testing.assert_array_equal(second.argmax(1), mixed_labels)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_types_are_kept(dtype, key):
    images, first, second, weight = mix(key, jnp.ones((4, 8, 8, 1), dtype), jnp.arange(4), 2)
    assert images.dtype == dtype and images.shape == (8, 8, 8, 1)
    assert first.dtype == second.dtype == jnp.int32 and first.shape == second.shape == (8,)
    assert weight.dtype == jnp.float32 and weight.shape == (8,)


def test_devices_do_not_change_the_result(key):
    images, labels = numbered_images(16), jnp.arange(16)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("batch",)), PartitionSpec("batch"))
    sharded = jax.jit(cutmix, static_argnums=3, out_shardings=sharding)
    found = sharded(key, *jax.device_put((images, labels), sharding), VERSIONS)
    for value, expected in zip(found, mix(key, images, labels, VERSIONS), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_64_bits_change_no_draw(key):
    images, labels = numbered_images(16), jnp.arange(16)
    with jax.enable_x64(True):
        found = mix(key, images, labels, VERSIONS)
    for value, wanted in zip(found, mix(key, images, labels, VERSIONS), strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)


def test_workers_mix_among_their_own_images_alike():
    """DeepMind's emulated workers: one box for all, one permutation in each."""
    images, labels, workers = numbered_images(12), jnp.arange(12), 3
    with_workers = jax.jit(cutmix, static_argnums=(3, 4))
    for seed in range(8):
        parts = with_workers(jax.random.key(seed), images, labels, VERSIONS, workers)
        for mixed, first, second, weight in zip(*map(by_version, parts), strict=True):
            np.testing.assert_array_equal(first, labels)
            partners = second.reshape(workers, 4)
            np.testing.assert_array_equal(np.sort(partners[0]), np.arange(4))
            for worker, own in enumerate(partners):
                np.testing.assert_array_equal(own - worker * 4, partners[0])
            from_partner = mixed[..., 0] == second[:, None, None]
            moved = second != first
            assert len({inside.tobytes() for inside in from_partner[moved]}) <= 1
            assert np.ptp(weight) == 0
