"""Each check of the trust report, green and red: masked networks are found, honest ones pass."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import trust, trust_answers, trust_attacks, trust_gradients, trust_others
from score_jax.trust_check import THRESHOLDS, Check, Report, finite, grade, grade_loss, worst
from score_jax.trust_subject import Walk
from score_jax.types import UserError
from tests import trust_networks as networks


@pytest.fixture(scope="module")
def honest(trained):
    return networks.subject(networks.honest)


@pytest.fixture(scope="module", autouse=True)
def trained():
    networks.params()  # Before any function of them is traced.


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    monkeypatch.setattr(trust_others, "NUM_QUERIES", 300)
    monkeypatch.setattr(trust_others, "APGD_STEPS", 10)


def examine(logits_fn, **fields):
    images, labels = networks.digits()
    count = networks.COUNT
    given = dict(norm="linf", eps=networks.EPS, num_classes=10) | fields
    return trust.examine(logits_fn, images[:count], labels[:count], **given)


def test_nothing_is_found_at_an_honest_network():
    told = []
    report = examine(
        networks.honest, transfer_from=[("twin", networks.honest)], coarse=networks.honest,
        tell=told.append,
    )  # fmt: skip
    assert [check.name for check in report.checks] == list(trust.CHECKS)
    assert tuple(told) == report.checks
    colours = {check.name: check.colour for check in report.checks}
    assert colours.pop("autoattack") == "grey"
    assert set(colours.values()) == {"green"}, colours
    assert report.verdict == "green: nothing found in 17 checks"
    assert all(check.finding and not check.remedy for check in report.checks)
    assert 0.3 < report["gap"].numbers["strongest"] <= report["gap"].numbers["pgd"] < 0.9
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again["colour"] == "green" and set(again["thresholds"]) == set(THRESHOLDS)


def test_logits_times_a_thousand_are_flagged():
    scaled = networks.subject(networks.scaled)
    outputs, loss = trust_answers.outputs(scaled), trust_attacks.loss_choice(scaled)
    assert outputs.colour == "red" and "Divide the logits" in outputs.remedy
    assert loss.colour == trust_attacks.radius(scaled).colour == "red"
    assert loss.numbers["cross_entropy"] > loss.numbers["together"] + 0.1
    assert trust_others.gap(scaled, None).numbers["part_lost"] > 0.2


def test_rounded_input_is_flagged(honest):
    quantised = networks.subject(networks.quantised)
    assert trust_answers.staircase(quantised).colour == "red"
    assert trust_gradients.gradient(quantised).colour == "red"
    zero = trust_gradients.zero_gradient(quantised)
    assert zero.colour == "red" and zero.numbers["zero_share"]["clean"] == 1
    trust_attacks.usual_accuracy(quantised)
    found = trust_others.transfer(quantised, [("honest", networks.honest)])
    assert found.colour == "red" and found.numbers["gain"] > 0.05
    found = trust_others.black_box(quantised)  # Random search needs no gradient.
    assert found.colour == "red" and found.numbers["gain"] > 0.05
    assert quantised.left.sum() < quantised.standing.sum() - 3
    assert trust_answers.staircase(honest).colour == "green"
    assert trust_gradients.zero_gradient(honest).colour == "green"


def test_an_invented_gradient_is_flagged(honest):
    invented = networks.subject(networks.straight_through)
    assert trust_gradients.zero_gradient(invented).colour == "green"
    found = trust_gradients.gradient(invented)
    assert found.colour == "red" and found.numbers["median_error"] > 0.1
    assert trust_answers.staircase(invented).colour == "red"
    assert trust_gradients.gradient(honest).numbers["median_error"] < 0.01


def test_noise_is_flagged_and_not_taken_for_the_batch(honest):
    noisy = networks.subject(networks.noisy())
    found = trust_answers.repeatable(noisy)
    assert found.colour == "red" and "EOT" in found.remedy
    assert trust_answers.batch(noisy).colour == "grey"
    assert trust_answers.repeatable(honest).colour == "green"


def test_noise_that_jit_does_not_see_is_flagged():
    rng = np.random.default_rng(0)

    def draw(shape_of):
        return rng.normal(size=shape_of.shape).astype(np.float32)

    def logits(images):
        shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        noise = jax.pure_callback(draw, shape, jax.lax.stop_gradient(images))
        return networks.honest(images + 0.1 * noise)

    assert trust_answers.repeatable(networks.subject(logits)).colour == "red"


def test_an_answer_that_depends_on_the_batch_is_flagged(honest):
    def by_batch(images):
        return networks.honest(images - images.mean(0, keepdims=True))

    found = trust_answers.batch(networks.subject(by_batch))
    assert found.colour == "red" and "BatchNorm" in found.remedy
    assert trust_answers.batch(honest).colour == "green"


@pytest.mark.parametrize(
    ("logits_fn", "colour", "finding"),
    [
        (lambda x: jax.nn.softmax(networks.honest(x)), "red", "the outputs are probabilities"),
        (lambda x: networks.honest(x) / jnp.float32(0), "red", "NaN or infinite logits"),
        (lambda x: -networks.honest(x), "amber", "right"),
        (networks.honest, "green", "logits up to"),
    ],
)
def test_outputs(logits_fn, colour, finding):
    found = trust_answers.outputs(networks.subject(logits_fn))
    assert found.colour == colour and finding in found.finding
    assert bool(found.remedy) == (colour != "green")


def test_nothing_more_is_examined_where_logits_are_not_finite():
    report = examine(lambda images: networks.honest(images) / jnp.float32(0))
    assert [check.name for check in report.checks] == ["outputs"]
    assert json.dumps(report.to_dict(), allow_nan=False)


def test_pixels_of_another_range_are_found(honest):
    images = honest.images
    mean, std = images.mean(), images.std()
    wants_bytes = networks.subject(lambda x: networks.honest(x / 255))
    found = trust_answers.input_range(wants_bytes, None)
    assert found.colour == "red" and "[0, 255]" in found.remedy
    wants_normalised = networks.subject(lambda x: networks.honest(jnp.clip(x * std + mean, 0, 1)))
    found = trust_answers.input_range(wants_normalised, None)
    assert found.colour != "green" and "normalised" in found.remedy
    found = trust_answers.input_range(honest, ((0.3059,), (0.3763,)))
    assert found.colour == "green" and not found.numbers["clips"]
    assert trust_answers.input_range(honest, ((2.0,), (0.4,))).colour == "red"
    assert trust_answers.input_range(honest, ((0.0,), (1.0,))).colour == "green"


def test_refusal_and_clipping_are_told():
    def careful(images):
        if not isinstance(images, jax.core.Tracer) and images.max() > 1:
            raise ValueError("not in [0, 1]")
        return networks.honest(jnp.clip(images, 0, 1))

    found = trust_answers.input_range(networks.subject(careful), None)
    assert found.numbers["refuses"] == ["[0, 255]", "normalised"] and found.numbers["clips"]
    assert "refused on [0, 255]" in found.finding and found.colour == "green"


def test_precision(honest):
    assert trust_answers.precision(honest, None).colour == "grey"
    assert trust_answers.precision(honest, networks.honest).colour == "green"
    assert trust_answers.precision(honest, lambda x: -networks.honest(x)).colour == "red"


def test_transfer_needs_a_source(honest):
    assert trust_others.transfer(honest, []).colour == "grey"


class Told:
    """A subject whose attacks leave what a test says: (loss, num_steps, fields) -> accuracy."""

    def __init__(self, accuracy, count=100):
        self.accuracy_of, self.count = accuracy, count
        self.norm, self.eps, self.num_classes = "linf", 0.1, 10
        self.images, self.is_right = np.zeros((count, 8, 8, 1)), np.arange(count) < 0.9 * count
        self.left = np.arange(count) < 0.5 * count

    def __len__(self):
        return self.count

    def walk(self, loss="cross_entropy", num_steps=20, **fields):
        right = np.arange(self.count) < round(
            self.count * self.accuracy_of(loss, num_steps, fields)
        )
        losses = np.zeros(self.count, np.float32)
        return Walk(right=right, withstood=right, loss=losses, images=None)


def by_steps(*accuracies):
    table = dict(zip(trust_attacks.STEPS, accuracies, strict=True))
    return lambda loss, num_steps, fields: table[num_steps]


@pytest.mark.parametrize(
    ("check", "accuracy", "colour"),
    [
        (trust_attacks.steps, by_steps(0.8, 0.6, 0.55, 0.52, 0.5, 0.5), "green"),
        (trust_attacks.steps, by_steps(0.8, 0.6, 0.55, 0.52, 0.5, 0.54), "amber"),
        (trust_attacks.steps, by_steps(0.8, 0.6, 0.55, 0.5, 0.5, 0.6), "red"),
        (trust_attacks.steps, by_steps(0.8, 0.7, 0.7, 0.6, 0.5, 0.4), "red"),
        (trust_attacks.one_step, lambda loss, steps, fields: 0.4 if steps == 1 else 0.5, "red"),
        (trust_attacks.one_step, lambda loss, steps, fields: 0.7 if steps == 1 else 0.5, "green"),
        (
            trust_attacks.start,
            lambda loss, steps, fields: 0.5 if fields.get("random_start", True) else 0.8,
            "red",
        ),
        (trust_attacks.start, lambda loss, steps, fields: 0.5, "green"),
        (trust_attacks.restarts, lambda loss, steps, f: 0.8 - 0.06 * f["restart"], "red"),
        (trust_attacks.restarts, lambda loss, steps, f: 0.8 - 0.02 * min(f["restart"], 4), "green"),
        (trust_attacks.radius, lambda loss, steps, f: 0.5 * (f["eps"] < 1.0), "green"),
        (trust_attacks.radius, lambda loss, steps, f: 0.5, "red"),
        (trust_attacks.radius, lambda loss, steps, f: 0.8 * (f["eps"] == 0.2), "red"),
        (trust_attacks.loss_choice, lambda loss, s, f: 0.5 if "cross" in loss else 0.3, "red"),
        (trust_attacks.loss_choice, lambda loss, s, f: 0.5 if "cross" in loss else 0.49, "green"),
    ],
)  # fmt: skip
def test_what_attacks_do_is_judged(check, accuracy, colour):
    found = check(Told(accuracy))
    assert found.colour == colour, found.finding
    assert bool(found.remedy) == (colour != "green")


def official(accuracy, **fields):
    robust = np.arange(100) < 100 * accuracy
    told = dict(robust_accuracy=accuracy, num_examples=100, robust=robust, flags=[])
    return told | fields


@pytest.mark.parametrize(
    ("result", "colour"),
    [
        (official(0.47), "green"),
        (official(0.39), "amber"),
        (official(0.3), "red"),
        (official(0.3, robust=None), "green"),  # Of other images: only mentioned.
        (official(0.25, robust=np.arange(20) < 17), "green"),  # Three of the shared images.
        (official(0.6), "red"),  # What AutoAttack left fell to weaker attacks.
    ],
)
def test_the_gap_to_autoattack(result, colour):
    told = Told(lambda loss, steps, fields: 0.5)
    assert trust_others.gap(told, result).colour == colour
    told.left = np.arange(100) < 30
    assert trust_others.gap(told, None).colour == "red"


@pytest.mark.parametrize(
    ("names", "colour"),
    [
        ([], "green"),
        (["few_classes"], "green"),
        (["zero_gradient"], "amber"),
        (["few_classes", "black_box_gain"], "amber"),
        (["zero_gradient", "randomized"], "red"),
    ],
)
def test_autoattacks_doubts_are_taken_over(names, colour):
    flags = [dict(name=name, meaning=f"about {name}") for name in names]
    found = trust_others.flags(official(0.5, flags=flags))
    assert found.colour == colour
    assert ("about" in found.remedy) == (colour != "green")
    assert trust_others.flags(None).colour == "grey"


def test_walks_are_shared_and_keep_count_of_what_stands(honest):
    fresh = networks.subject(networks.honest)
    assert fresh.walk() is fresh.walk()
    assert fresh.standing.sum() == fresh.walk().withstood.sum() < fresh.is_right.sum()
    before = fresh.standing.copy()
    assert fresh.walk(eps=0.5).accuracy < 0.1 and (fresh.standing == before).all()
    images = fresh.walk(keep_images=True).images
    assert np.abs(images - fresh.images).max() <= networks.EPS + 1e-6
    assert images.min() >= 0 and images.max() <= 1
    right = fresh.logits(images).argmax(-1) == fresh.labels
    assert (right & fresh.is_right == fresh.walk().right).all()


def test_the_batch_size_does_not_matter(honest):
    other = networks.subject(networks.honest, batch_size=25)
    np.testing.assert_array_equal(other.walk("margin").right, honest.walk("margin").right)
    np.testing.assert_allclose(other.clean, honest.clean, atol=1e-5)


def test_an_l2_ball_is_kept():
    inside = networks.subject(networks.honest, norm="l2", eps=0.5)
    images = inside.walk(keep_images=True).images
    distance = np.sqrt(np.square(images - inside.images).sum((1, 2, 3)))
    assert 0.4 < distance.max() <= 0.5 + 1e-5
    assert trust_attacks.radius(inside).numbers["accuracy"][-1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(images=np.zeros((3, 8, 8, 1), np.uint8)), "images are uint8; divide by 255"),
        (dict(images=np.full((3, 8, 8, 1), 255.0)), r"images lie in \[255, 255\]"),
        (dict(images=np.full((3, 8, 8, 1), np.nan)), "images lie in"),
        (dict(images=np.zeros((3, 64))), r"images \(3, 64\)"),
        (dict(labels=np.array([0, 1, 10])), r"labels lie in \[0, 10\], the model has 10"),
        (dict(labels=np.zeros(3)), "labels are float64"),
        (dict(eps=0.0), "eps=0 is not a positive radius"),
        (dict(eps=8.0), "eps=8 is not a radius in pixel units"),
        (dict(norm="l7"), "unknown norm 'l7'"),
        (dict(num_classes=11), r"it must give logits of shape \(3, 11\)"),
        (dict(logits_fn=lambda x: np.asarray(x)), "cannot be traced"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    given = dict(
        logits_fn=networks.honest, images=np.zeros((3, 8, 8, 1)), labels=np.zeros(3, np.int32),
        norm="linf", eps=0.1, num_classes=10,
    ) | change  # fmt: skip
    with pytest.raises(UserError, match=message):
        trust.examine(given.pop("logits_fn"), given.pop("images"), given.pop("labels"), **given)


def test_colours():
    assert grade("gap", 0.19) == "green" and grade("gap", 0.21) == "amber"
    assert grade("gap", 0.26) == grade("gap", float("nan")) == "red"
    # One image of ten is chance, whatever its share; two are not.
    assert (grade("zero_gradient", 0.1, 10), grade("zero_gradient", 0.2, 10)) == ("green", "red")
    assert worst() == "grey" and worst("grey", "green", "amber") == "amber"
    assert finite({"a": (np.float32("nan"), np.arange(2))}) == {"a": [None, [0, 1]]}


@pytest.mark.parametrize(
    ("before", "after", "colour"),
    [
        (50, 35, "red"),
        (24, 21, "green"),  # Three images of a hundred are within two standard errors.
        (24, 20, "amber"),
        (32, 24, "amber"),  # Eight points of a hundred images may be three.
        (240, 216, "green"),  # A tenth, but 2.4 points.
        (60, 31, "green"),
        (60, 30, "amber"),
        (120, 60, "amber"),  # Six points, give or take.
        (120, 30, "red"),
        (500, 460, "green"),  # Four points, but eight in a hundred of it.
        (30, 40, "green"),
        (0, 0, "green"),
    ],
)
def test_a_loss_of_accuracy_takes_points_too(before, after, colour):
    images = np.arange(1000 if max(before, after) > 50 else 100)
    found, part = grade_loss("loss_choice", images < before, images < after)
    assert found == colour
    assert part == pytest.approx(max(before - after, 0) / max(before, 1))


def test_noise_of_two_attacks_is_no_loss():
    before, after = np.arange(100) < 50, np.arange(100) >= 56
    assert grade_loss("loss_choice", before, after)[0] == "green"  # 6 points of 94 that differ.


def test_a_binary_network_is_not_near_chance(honest, monkeypatch):
    monkeypatch.setattr(honest, "num_classes", 2)
    assert honest.is_right.mean() < 1
    assert trust_answers.outputs(honest).colour == "green"


def test_the_report_is_as_bad_as_its_worst_check():
    def check(name, colour):
        return Check(name=name, colour=colour, finding="", numbers={})

    def report(*checks):
        return Report(checks=checks, norm="linf", eps=0.1, num_examples=9, seed=0)

    some = report(check("a", "green"), check("b", "amber"), check("c", "grey"))
    assert some.colour == "amber" and "look at b" in some.verdict
    assert report(check("a", "red"), check("b", "amber")).verdict.endswith("see a; amber: b")
    assert some["c"].colour == "grey"
    with pytest.raises(UserError, match="unknown check 'd'; known: a, b, c"):
        some["d"]
