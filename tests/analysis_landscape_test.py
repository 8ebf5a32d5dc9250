"""The loss around images, input gradients, growing balls: against closed forms and brute force."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import artifact, cli
from score_jax.analysis import (
    landscape_gradients,
    landscape_radii,
    landscape_surface,
    landscape_words,
)
from score_jax.artifact import Artifact
from score_jax.attacks import pgd
from score_jax.data import sources
from tests import toy_mlp

SHAPE = (2, 3, 1)
SLOPE = np.array([1.0, -2.0, 0.5, 1.5, -1.0, 0.25], np.float32)
EPS = 0.1


def linear(images):
    """Logits ±score of images f[b, 2, 3, 1]: as far apart as twice the score."""
    score = images.reshape(len(images), -1) @ SLOPE
    return jnp.stack([score, -score], axis=-1)


def stepped(images):
    """The same of images rounded to sixteenths: no gradient anywhere."""
    return linear(jnp.round(16 * images) / 16)


def images_of(count, low=0.3, high=0.7):
    """Far enough from 0 and 1 for the whole ball, f32[n, 2, 3, 1]."""
    random = np.random.default_rng(0)
    return jnp.asarray(random.uniform(low, high, (count, *SHAPE)), jnp.float32)


def attack(norm="linf", steps=10, step_size=0.04):
    return pgd.create(norm=norm, eps=EPS, step_size=step_size, num_steps=steps)


def run(compute, images, logits=linear):
    """As numpy, with keys and labels of the right class."""
    keys = jax.random.split(jax.random.key(0), len(images))
    labels = linear(images).argmax(-1).astype(jnp.int32)
    found = jax.jit(lambda keys, images, labels: compute(logits, keys, images, labels))
    return jax.tree.map(np.asarray, found(keys, images, labels))


def softplus(x):
    return np.logaddexp(0, x)


def scores(images):
    return np.abs(np.asarray(images).reshape(len(images), -1) @ SLOPE)


def test_the_highest_point_on_the_way_counts():
    images = jnp.full((3, *SHAPE), 0.5)
    keys = jax.random.split(jax.random.key(1), 3)

    def hill(moved):  # Its top, at 0.55, is stepped over again and again.
        return -jnp.abs(moved - 0.55).sum((1, 2, 3))

    @jax.jit
    def climb(keys, images):
        walk = attack(step_size=0.07, steps=9)
        best, value = landscape_surface.highest(hill, walk, keys, images)
        noise = landscape_surface.draw_noise(walk.threat, keys, images)
        return best, value, hill(best), hill(walk(hill, keys[0], images, noise))

    best, value, again, last = map(np.asarray, climb(keys, images))
    np.testing.assert_allclose(again, value, rtol=1e-6)
    assert (value >= last).all() and (value > last).any()
    assert np.abs(best - 0.5).max() <= EPS + 1e-6


def test_the_tangent_and_the_gap_are_exact_where_the_score_is_linear():
    # At the border of [0, 1] an attack has less room, and the tangent with it.
    at_the_border = jnp.clip(images_of(6, -0.5, 1.5), 0, 1)
    images = jnp.concatenate([images_of(4), at_the_border])
    found = run(landscape_surface.linearity(attack()), images)
    flat = np.asarray(images).reshape(len(images), -1)
    score = flat @ SLOPE
    down = -np.sign(score)[:, None] * np.sign(SLOPE)[None]
    room = np.clip(flat + EPS * down, 0, 1) - flat
    fall = 2 * np.abs(room @ SLOPE)
    low = 2 * np.abs(score)
    slope = 1 / (1 + np.exp(low))  # -dℓ/d(2·score): the loss is softplus(-2·score).
    np.testing.assert_allclose(found["clean"], softplus(-low), rtol=1e-4)
    np.testing.assert_allclose(found["rise"], softplus(fall - low) - softplus(-low), rtol=1e-3)
    np.testing.assert_allclose(found["tangent"], slope * fall, rtol=1e-4)
    corners = np.array(list(itertools.product([-EPS, EPS], repeat=6)))
    moved = np.clip(flat[:, None] + corners[None], 0, 1) - flat[:, None]
    change = 2 * np.sign(score)[:, None] * (moved @ SLOPE)
    gaps = np.abs(
        softplus(-low[:, None] - change) - softplus(-low)[:, None] + slope[:, None] * change
    )
    assert (found["gap"] <= gaps.max(1) + 1e-6).all()  # From below, as said.
    np.testing.assert_allclose(found["gap"], gaps.max(1), rtol=1e-2, atol=1e-6)
    assert (found["rise"] <= found["tangent"] + found["gap"] + 1e-6).all()


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_planes_pass_through_the_image_and_the_point_of_pgd(norm):
    images, points = images_of(4), np.linspace(-1, 1, 5)
    found = run(landscape_surface.plane(attack(norm), points), images)
    assert found["loss"].shape == (4, 5, 5)
    np.testing.assert_allclose(found["loss"][:, 2, 2], found["clean"], rtol=1e-5)
    np.testing.assert_allclose(found["place"], 1, atol=1e-4)
    np.testing.assert_allclose(found["loss"][:, 4, 2], found["reached"], rtol=1e-3)
    np.testing.assert_allclose(found["margin"][:, 2, 2], 2 * scores(images), rtol=1e-4)
    a, b = np.meshgrid(points, points, indexing="ij")
    # The direction of PGD has entries ±eps, and so has the random one; in L2 they are orthogonal.
    ball = np.abs(a) + np.abs(b) if norm == "linf" else np.hypot(a, b)
    np.testing.assert_allclose(found["distance"], np.broadcast_to(ball, (4, 5, 5)), atol=1e-3)
    assert not landscape_surface.is_hidden(found).any()
    np.testing.assert_allclose(landscape_surface.above(found), 0, atol=1e-4)


def test_planes_tell_of_gradients_that_hide_the_way_up():
    plane = landscape_surface.plane(attack(), np.linspace(-1, 1, 13))
    found = run(plane, images_of(40), stepped)
    assert landscape_surface.is_hidden(found).mean() > 0.3
    assert (landscape_surface.above(found) >= 0).all()


def test_points_outside_the_ball_do_not_count():
    found = {
        "loss": np.array([[[1.0, 9.0]]]), "distance": np.array([[[0.9, 1.1]]]),
        "reached": np.array([0.7]), "clean": np.array([0.1]),
    }  # fmt: skip
    assert landscape_surface.above(found) == pytest.approx([0.3])
    assert landscape_surface.is_hidden(found).tolist() == [True]
    assert landscape_surface.is_hidden(found | {"reached": np.array([0.98])}).tolist() == [False]


def test_numbers_of_gradients():
    images = images_of(3)
    found = run(landscape_gradients.numbers, images)
    flat = np.asarray(images).reshape(3, -1)
    cosine = np.abs(flat @ SLOPE) / np.linalg.norm(flat, axis=1) / np.linalg.norm(SLOPE)
    np.testing.assert_allclose(found["alignment"], cosine, rtol=1e-4)
    grid = SLOPE.reshape(2, 3)
    neighbours = np.abs(np.diff(grid, axis=0)).sum() + np.abs(np.diff(grid, axis=1)).sum()
    np.testing.assert_allclose(found["variation"], neighbours / np.abs(SLOPE).sum(), rtol=1e-4)
    spread = np.abs(SLOPE).sum() ** 2 / (6 * np.square(SLOPE).sum())
    np.testing.assert_allclose(found["spread"], spread, rtol=1e-4)
    size = 2 * np.abs(SLOPE).sum() / (1 + np.exp(2 * scores(images)))
    np.testing.assert_allclose(found["size"], size, rtol=1e-4)
    none = run(landscape_gradients.numbers, images, stepped)
    assert np.isnan(none["alignment"]).all() and (none["size"] == 0).all()


def test_what_noise_has_of_it():
    shape = (6, 5, 3)
    noise = np.random.default_rng(0).normal(size=(4000, *shape)).astype(np.float32)
    expected = landscape_gradients.of_noise(shape)
    flat = noise.reshape(len(noise), -1)
    cosine = np.abs(flat[:, 0]) / np.linalg.norm(flat, axis=1)  # With any fixed direction.
    assert expected["alignment"] == pytest.approx(cosine.mean(), rel=0.03)
    assert expected["variation"] == pytest.approx(
        float(landscape_gradients.variation(jnp.asarray(noise)).mean()), rel=0.02
    )
    spread = np.abs(flat).sum(1) ** 2 / np.square(flat).sum(1) / flat.shape[1]
    assert expected["spread"] == pytest.approx(spread.mean(), rel=0.02)


def test_gradients_as_pictures():
    gradient = np.zeros((10, 10, 2), np.float32)
    gradient[0, 0], gradient[1, 1, 1] = (1, -100), 4
    together = landscape_gradients.to_picture(gradient, is_by_channel=False)
    assert together[0, 0].tolist() == pytest.approx([0.505, 0.0]) and together[5, 5, 0] == 0.5
    apart = landscape_gradients.to_picture(gradient)
    assert apart[0, 0].tolist() == [1.0, 0.0] and apart[1, 1, 1] > 0.55


@pytest.mark.parametrize(
    ("radius", "text"),
    [(2 / 255, "2/255"), (0.05, "0.05"), (0.25 / 255, "0.00098"), (1e-4, "0.0001")],
)
def test_radii_are_short(radius, text):
    assert landscape_radii.write_radius(radius) == text


def test_growing_balls():
    # Some with black and white pixels, from which the smallest step would be seen.
    images = jnp.concatenate([images_of(34), jnp.clip(images_of(6, -0.5, 1.5), 0, 1)])
    sizes = landscape_radii.radii_of("linf", EPS)
    assert sizes == pytest.approx((0, 0.025, 0.05, 0.1, 0.2, 0.4))
    assert landscape_radii.radii_of("linf", 0.3) == pytest.approx((0, 0.075, 0.15, 0.3, 0.6))
    assert len(landscape_radii.radii_of("l2", 0.5)) == 6
    found = run(landscape_radii.attacked(attack(), sizes, keeps_images=True), images)
    flat = np.asarray(images).reshape(40, 1, -1)
    towards = np.sign(flat @ SLOPE)[..., None] * -np.sign(SLOPE)
    moved = np.clip(flat + np.array(sizes)[None, :, None] * towards, 0, 1)
    score = (moved @ SLOPE) * np.sign(flat @ SLOPE)
    np.testing.assert_array_equal(found["is_right"], score > 0)
    np.testing.assert_allclose(found["loss"], softplus(-2 * score), rtol=1e-2, atol=1e-4)
    chance = 1 / (1 + np.exp(-2 * np.abs(score)))
    np.testing.assert_allclose(found["confidence"], chance, rtol=1e-2)
    np.testing.assert_array_equal(found["images"][:, 0], images)
    reach = np.abs(found["images"] - np.asarray(images)[:, None]).max((2, 3, 4))
    assert (reach <= np.array(sizes) + 1e-6).all() and (reach[:, 3] > 0.09).all()


@pytest.mark.slow
def test_images_are_led_to_each_class():
    images = images_of(6)
    found = run(landscape_radii.towards_each_class(attack(), 0.2), images)
    reached = np.asarray(found["images"])
    assert reached.shape == (6, 2, *SHAPE)
    for target in (0, 1):
        chance = np.asarray(jax.nn.softmax(linear(reached[:, target])))[:, target]
        np.testing.assert_allclose(found["confidence"][:, target], chance, rtol=1e-4)
        assert (chance > np.asarray(jax.nn.softmax(linear(images)))[:, target]).all()
    assert np.abs(reached - np.asarray(images)[:, None]).max() == pytest.approx(0.2, abs=1e-6)


def model(sha256, scale):
    spec = {
        "dataset": "toy", "norm": "linf", "eps": EPS, "sha256": {"model.safetensors": sha256},
        "model": {"image_shape": list(SHAPE)}, "config": {},
    }  # fmt: skip
    params = jax.tree.map(lambda leaf: scale * leaf, toy_mlp.params(jnp.float32))
    return Artifact(
        classifier=toy_mlp.classifier(), params=params, batch_stats={}, spec=spec, path=None
    )


def test_what_a_large_ball_tells_of_hidden_gradients():
    far = landscape_words.tell_limit("linf", 0.8, (8, 8, 1))
    assert far.startswith("From an L∞ radius of 0.5 on every image can be made the same grey")
    near = landscape_words.tell_limit("linf", 32 / 255, (32, 32, 3))
    assert near.startswith("Accuracy that does not fall") and near.endswith("end at 32/255.")
    # Half of the diagonal of [0, 1]^4.
    assert "L2 radius of 1 on, where" in landscape_words.tell_limit("l2", 0.99, (2, 2, 1))
    assert "L2 radius of 1 on every" in landscape_words.tell_limit("l2", 1.0, (2, 2, 1))


def test_led_to_the_first_classes_alone():
    assert landscape_words.led_to(10, 10) == "each class"
    assert landscape_words.led_to(10, 100) == "each of the first 10 classes"
    (told,) = landscape_words.tell_seen(["one"], [[0.5]], 0.1, "each of the first 10 classes")
    assert "to see as another class, each of the first 10 classes, 50% are" in told


@pytest.mark.slow
def test_two_runs_side_by_side(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    random = np.random.default_rng(0)
    split = sources.Images(
        images=random.integers(0, 256, (12, *SHAPE)).astype(np.uint8),
        labels=random.integers(0, 4, 12).astype(np.int32),
        fingerprint="f", name="toy", split="test", path="",
    )  # fmt: skip
    monkeypatch.setattr(sources, "test_split", lambda dataset, data_dir: split)
    models = {"one": model("a", 1.0), "two": model("b", 2.0)}
    monkeypatch.setattr(artifact, "load", lambda path: models[str(path)])
    flags = ["--artifact=one", "--beside=two", "--images=3,7", f"--out={tmp_path}"]
    code = cli.main(["analyze", "geometry", "--show=surface,gradients,radii", *flags])
    out, err = capsys.readouterr()
    assert code == 0, err
    surface, gradients, radii = (
        json.loads((tmp_path / f"geometry_{part}.json").read_text())
        for part in ("surface", "gradients", "radii")
    )
    for facts in (surface, gradients, radii):
        assert facts["shown"] == [3, 7] and list(facts["runs"]) == ["one", "two"]
        assert facts["model_sha256"] == "a"
    images = np.load(tmp_path / radii["arrays"])["images"]
    assert images.shape == (2, 2, len(radii["radii"]), *SHAPE)
    np.testing.assert_allclose(images[0, :, 0], split.images[[3, 7]] / 255, atol=1e-6)
    for name, run_model in models.items():
        logits = toy_mlp.apply(run_model.params, jnp.asarray(split.images, jnp.float32) / 255)
        right = float((logits.argmax(-1) == split.labels).mean())
        assert radii["runs"][name]["accuracy"][0] == pytest.approx(right)
        assert radii["runs"][name]["accuracy"] == sorted(
            radii["runs"][name]["accuracy"], reverse=True
        )
        assert 0 <= radii["runs"][name]["led_images_seen_as_led_by"]["one"] <= 1
    drawn = {"surface_planes", "gradients_sheet", "gradients_alignment"}
    drawn |= {"radii_sheet", "radii_led", "radii_confidence"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {f"geometry_{name}" for name in drawn}
    assert surface["runs"]["two"]["rise"] > surface["runs"]["one"]["rise"] > 0
    assert "two: PGD-10 raises the loss by" in out and "two: alignment" in out
