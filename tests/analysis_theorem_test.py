"""The theorem's classifier: golden numbers (Yang et al. 2020, float64), and the job around it."""

import importlib.util
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from score_jax import cli
from score_jax.analysis import finding, theorem, theorem_job
from score_jax.analysis.separation import nearest_other
from score_jax.analysis.separation_job import First
from score_jax.analysis.separation_pass import Examples
from score_jax.analysis.theorem import DistanceClassifier, Part
from score_jax.analysis.theorem_words import Shown
from score_jax.data import sources
from tests.analysis_separation_test import TRAIN, TRAIN_LABELS


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def train_train(float64):
    return nearest_other(TRAIN, TRAIN_LABELS, TRAIN, TRAIN_LABELS)


def classifier_of(radius):
    return DistanceClassifier(points=Examples(TRAIN, TRAIN_LABELS), radius=radius)


def test_it_is_right_on_every_ball(train_train):
    radius = train_train.distances.min() / 2
    classifier = classifier_of(radius)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (200, 40, 5))
    probes = (TRAIN + 0.999 * radius * signs).reshape(-1, 5)
    assert (classifier(probes) == np.tile(TRAIN_LABELS, 200)).all()
    # The radius is as large as it can be: just beyond it the nearer point is another's.
    pair = int(train_train.distances.argmin())
    gap = TRAIN[train_train.indices[pair]] - TRAIN[pair]
    beyond = TRAIN[pair] + np.clip(gap, -1.001 * radius, 1.001 * radius)
    assert classifier(beyond[None])[0] != TRAIN_LABELS[pair]


def test_its_values_attain_the_bound_and_stay_below(train_train):
    radius = train_train.distances.min() / 2
    classifier = classifier_of(radius)
    corners = TRAIN + 0.5 * radius * np.random.default_rng(1).choice([-1.0, 1.0], TRAIN.shape)
    change = np.abs(classifier.values(corners) - classifier.values(TRAIN))
    slopes = change / (0.5 * radius)
    assert slopes.max() == pytest.approx(1 / radius, rel=1e-9)
    assert 1 / radius == pytest.approx(729.688, abs=1e-3)
    distances = [classifier.distances(of) for of in (TRAIN, corners)]
    steep = theorem.steepness(TRAIN, distances[0], corners, distances[1], np.inf)
    np.testing.assert_allclose(steep, slopes.max(1) * radius, rtol=1e-6)
    still = theorem.steepness(TRAIN, distances[0], TRAIN, distances[0], np.inf)
    assert (still == 0).all()


@pytest.mark.parametrize("p", [np.inf, 2, 3])
@pytest.mark.parametrize("kind", theorem.KINDS)
def test_probes_lie_inside_the_ball(kind, p):
    random = np.random.default_rng(0)
    centers, others = random.integers(0, 256, (2, 50, 4, 4, 1)).astype(np.float32)
    probes = theorem.probe(kind, random, centers, others, 30.0, p)
    away = np.linalg.norm((probes - centers).reshape(50, -1).astype(np.float64), p, axis=1)
    assert (away <= 0.999 * 30).all() and probes.dtype == np.float32
    assert (theorem.GRID * (probes - centers) % 1 == 0).all()
    if kind == "inside":
        assert away.min() < 0.1 and away.max() > 20
        return
    assert (away > 0.998 * 30).all()
    if kind == "towards":
        left = np.linalg.norm((others - probes).reshape(50, -1).astype(np.float64), p, axis=1)
        whole = np.linalg.norm((others - centers).reshape(50, -1).astype(np.float64), p, axis=1)
        np.testing.assert_allclose(left, whole - 0.999 * 30, atol=0.01)


def test_certified_radius_is_half_of_what_is_between():
    distances = np.array([[0.0, 0.5, 0.3], [0.4, 0.1, 0.1], [0.2, 0.6, 0.9]])
    own, other = theorem.own_and_other(distances, np.array([0, 1, 1]), np.arange(3))
    np.testing.assert_allclose(theorem.certified_radius(own, other), [0.15, 0, -0.2])


def test_a_part_as_levels_is_the_same_in_other_units():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (30, 3, 3, 1)).astype(np.uint8)
    points = Examples(images, np.arange(30) % 3)
    rows = np.arange(4, 28)
    whole = DistanceClassifier(points=Part(points, rows), radius=0.1)
    levels = DistanceClassifier(points=Part(points, rows, is_levels=True), radius=25.5)
    told = []
    values = levels.distances(images.astype(np.float32), told.append)
    np.testing.assert_array_equal(values, np.round(255 * whole.distances(images)))
    assert told == sorted(told) and told[-1] == 1


@pytest.fixture
def dataset(monkeypatch):
    """Images of four corners of a class each, and test images near the first training images."""
    random = np.random.default_rng(0)
    labels = np.arange(40).astype(np.int32) % 4
    train = 60 * labels[:, None, None, None] + random.integers(0, 20, (40, 2, 2, 1))
    test = train[:12] + random.integers(-3, 4, (12, 2, 2, 1))
    held = {"train": (train, labels), "test": (test, labels[:12])}
    for name, (images, of) in held.items():
        split = sources.Images(
            images=images.clip(0, 255).astype(np.uint8), labels=of, fingerprint=name,
            name="toy", split=name, path="",
        )  # fmt: skip
        monkeypatch.setattr(sources, f"{name}_source", lambda dataset, data_dir, split=split: split)
    known = SimpleNamespace(split_sizes=held, class_names=())
    monkeypatch.setattr(sources, "spec", lambda *_: known)
    return held


@pytest.fixture
def answer(dataset, capsys, tmp_path, monkeypatch):
    """What a command line prints, and finds; drawn where it is asked for."""

    def run(*arguments, is_drawn=False):
        if not is_drawn:
            monkeypatch.setattr(finding, "_draw", lambda found: {})
        code = cli.main(["analyze", "theorem", "--data=toy", f"--out={tmp_path}", *arguments])
        out, err = capsys.readouterr()
        assert code == 0, err
        path = next(line for line in out.splitlines() if line.endswith(".json"))
        return out, json.loads(open(path).read()), err

    return run


def smallest_distance(images, labels):
    gaps = np.abs(images[:, None] - images[None]).reshape(40, 40, -1).max(-1)
    return gaps[labels[:, None] != labels].min() / 255


def test_the_job_shows_no_errors_and_no_steeper_slope(answer, dataset, tmp_path):
    text, facts, _ = answer("--probes=90", is_drawn=True)
    smallest = smallest_distance(*dataset["train"])
    assert facts["separation"] == pytest.approx(smallest, rel=1e-12)
    assert facts["radius"] == pytest.approx(smallest / 2, rel=1e-12)
    assert facts["errors"] == 0 and facts["num_balls"] == 30
    assert [kind["number"] for kind in facts["probes"].values()] == [30, 30, 30]
    towards = facts["probes"]["towards"]
    assert towards["largest_own"] < 1 < towards["smallest_other"] < 1.01
    steepest = [pairs["share_of_bound"] for pairs in facts["slopes"].values()]
    assert max(steepest) == 1.0 and not any(p["above_bound"] for p in facts["slopes"].values())
    assert facts["test"]["accuracy"] == 1 and facts["curve"]["train"][0] == 1
    assert "0 errors at 90 points" in text and "(half the separation)" in text
    is_drawn = importlib.util.find_spec("matplotlib") is not None
    for picture in ("probes", "certified", "hardest"):
        assert (tmp_path / f"theorem_toy_linf_{picture}.png").exists() == is_drawn


@pytest.mark.slow
def test_a_radius_above_half_the_separation_has_errors(answer, dataset):
    smallest = smallest_distance(*dataset["train"])
    text, facts, _ = answer("--probes=90", f"--radius={smallest * 0.75}")
    assert facts["errors"] > 0
    assert facts["probes"]["towards"]["errors"] > 0 and facts["curve"]["train"] is None
    assert "(as given)" in text
    assert f"beyond half the separation, which is {facts['nearest'] / 2:.4f} or less." in text
    text, facts, _ = answer("--probes=90", f"--radius={smallest * 0.75}", "--outliers=2")
    assert facts["outliers"] >= 1 and facts["num_points"] == 40 - facts["outliers"]
    assert facts["separation"] >= smallest
    # In another norm, up to rounding.
    _, facts, _ = answer("--probes=60", "--norm=l2")
    assert facts["errors"] == 0
    assert max(p["share_of_bound"] for p in facts["slopes"].values()) < 1 + 1e-5


def test_the_distances_of_a_separation_found_before_are_used(dataset, capsys, tmp_path):
    found = {"data_sha256": {"train": "train"}, "p": "inf"}
    arrays = {"train_train_distances": np.full(40, 0.125), "train_train_indices": np.zeros(40, int)}
    path = tmp_path / "separation_toy_l3.json"
    train = First(sources.train_source("toy", ""), 40)
    call = SimpleNamespace(num_examples=0, out=str(tmp_path), workdir="")

    def known(order, **changes):
        path.write_text(json.dumps(found | changes))
        of = theorem_job._known(call, train, "toy", "l3", order)
        return None if of is None else of.distances.tolist()

    np.savez(path.with_suffix(".npz"), **arrays)
    assert known(np.inf) == known(3.0, p=3) == [0.125] * 40
    # Neither of other images, nor in another norm, nor where a file is damaged.
    assert known(np.inf, data_sha256={"train": "other"}) is None
    assert known(3.0000001, p=3) is None
    whole = path.with_suffix(".npz").read_bytes()
    for damaged in (b"", b"PK", whole[:-40], whole.replace(bytes(8), b"damaged!", 1)):
        path.with_suffix(".npz").write_bytes(damaged)
        assert known(np.inf) is None


@pytest.mark.parametrize(
    ("share", "probes", "is_within", "words"),
    [
        (0.3, "--probes=9", None, "Whether the theorem speaks of this radius is not known"),
        (0.3, "--probes=120", True, "(as given, within half the separation, "),
        (2.0, "--probes=9", False, "it is beyond half the separation, which is "),
    ],
)
def test_a_given_radius_is_judged_by_what_was_compared(
    share, probes, is_within, words, answer, dataset
):
    smallest = smallest_distance(*dataset["train"])
    text, facts, _ = answer(probes, f"--radius={smallest * share}")
    assert facts["is_within_half_the_separation"] is is_within and words in text
    assert facts["nearest"] >= smallest
    assert facts["separation"] == (pytest.approx(smallest) if probes == "--probes=120" else None)


def test_without_test_images_the_training_images_are_judged(answer, dataset):
    del dataset["test"]
    text, facts, _ = answer("--probes=9")
    assert facts["test"] is None and facts["curve"]["test"] is None
    assert facts["curve"]["train"][0] == 1 and "test images" not in text


def test_ties_that_stay_are_told(answer):
    text, facts, _ = answer("--probes=9", "--outliers=1")
    assert (facts["outliers"], facts["outliers_asked"]) == (0, 1)
    assert "Left out: no outliers (ties stay, so 0 of 1 asked)." in text
    assert "still count" not in text


def test_only_what_is_more_than_rounding_is_above_the_bound():
    random = np.random.default_rng(0)
    points = random.integers(0, 256, (60, 64)).astype(np.float32)
    labels = np.arange(60) % 2
    classifier = DistanceClassifier(points=Examples(points, labels), radius=1.0, p=2)
    # On the way to the nearest the distance falls as fast as it can: the slope is 1.
    near = nearest_other(points, labels, points, labels, p=2)
    gap = points[near.indices] - points
    moved = [points + np.float32(share) * gap for share in (1e-4, 1e-3, 0.1)]
    start = classifier.distances(points)
    for probes in moved:
        pair = (probes, classifier.distances(probes), points, start)
        slopes, slack = theorem.steepness(*pair, 2), theorem.slack(*pair, 2)
        assert slopes.max() == pytest.approx(1, abs=1e-4) and (slopes <= 1 + slack).all()
        assert (theorem.slack(*pair, np.inf) == 0).all()
    # Of a point a tenth of the way off next to nothing is rounding.
    assert slack.max() < 1e-3 and theorem.rounding(64, 2) == pytest.approx(5.7e-6, rel=0.01)
    shown = SimpleNamespace(slopes={"pairs": 1 + 2 * slack}, slack={"pairs": slack})
    assert Shown.above_bound(shown, "pairs") == 60
    shown.slopes = {"pairs": 1 + 0.5 * slack}
    assert Shown.above_bound(shown, "pairs") == 0


def test_two_labels_of_one_image_have_no_radius(answer, dataset, capsys, tmp_path, monkeypatch):
    images = sources.train_source("toy", "").images
    images[1] = images[0]
    assert cli.main(["analyze", "theorem", "--data=toy", f"--out={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "are the same and have two labels" in err and "--outliers=N" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("radius", ["-1", "0", "far", "inf"])
def test_what_is_no_radius_is_told_in_one_line(radius, dataset, capsys):
    assert cli.main(["analyze", "theorem", "--data=toy", f"--radius={radius}"]) == 2
    out, err = capsys.readouterr()
    assert f"--radius={radius} is no radius" in err and not out
