"""The evaluation job, on classifiers whose robust accuracy is known in closed form."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import command_line_flags, evaluate_attacks, evaluate_examiner, evaluate_trial
from score_jax import evaluate as evaluate_module
from score_jax.attacks import pgd
from score_jax.data import mixing, sources, trained
from score_jax.evaluate import evaluate
from score_jax.export import Artifact
from score_jax.models import Classifier
from score_jax.types import UserError

SHAPE = (2, 2, 1)
COUNT = 37


def linear_artifact(path, weights, sha="a" * 64, **spec):
    """Two classes, logits ±(w · (x - 1/2)): inside the box PGD's worst case is exact."""

    def apply(params, batch_stats, images, *, normalize_by, momentum=None):
        assert normalize_by == "running"
        score = ((images - 0.5) * params["kernel"][None]).sum((1, 2, 3))
        return jnp.stack([-score, score], axis=-1), batch_stats

    classifier = Classifier(
        init=None,
        apply=apply,
        roles={"kernel": "kernel"},
        image_shape=SHAPE,
        batchnorm_momentum=0.1,
    )
    spec = {
        "dataset": "toy", "norm": "linf", "eps": 0.1,
        "model": {"image_shape": list(SHAPE), "num_classes": 2},
        "config": {"validation": {"attack": {"eps": 0.1, "num_steps": 8, "step_size": 0.03}}},
        "sha256": {"model.safetensors": sha}, **spec,
    }  # fmt: skip
    return Artifact(
        classifier=classifier, params={"kernel": jnp.asarray(weights, jnp.float32)},
        batch_stats={}, spec=spec, path=path / "export",
    )  # fmt: skip


@pytest.fixture
def data(monkeypatch):
    random = np.random.default_rng(0)
    # Away from 0 and 255, so that the box never helps the defender.
    images = random.integers(90, 166, (COUNT, *SHAPE)).astype(np.uint8)
    labels = random.integers(0, 2, COUNT).astype(np.int32)
    split = sources.Images(
        images=images, labels=labels, fingerprint="f" * 64, name="toy", split="test", path=""
    )
    monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)
    return split


@pytest.fixture
def judge(monkeypatch, tmp_path, data):
    def run(weights, *, spec=None, **options):
        artifact = linear_artifact(tmp_path, weights, **(spec or {}))
        monkeypatch.setattr(evaluate_module.export, "load", lambda path: artifact)
        options = {"steps": 8, "batch_size": 16, **options}
        evaluate(tmp_path, **options)
        folder = tmp_path / "eval" / (options.get("name") or "pgd8")
        return json.loads((folder / "result.json").read_text()), dict(
            np.load(folder / "examples.npz")
        )

    return run


WEIGHTS = np.array([1.0, -0.5, 0.25, 2.0]).reshape(SHAPE)


def margins(data, dual):
    score = ((data.images / 255 - 0.5) * WEIGHTS).sum((1, 2, 3))
    return np.where(data.labels == 1, score, -score) / dual


@pytest.mark.parametrize(
    ("norm", "dual"), [("linf", np.abs(WEIGHTS).sum()), ("l2", np.sqrt(np.square(WEIGHTS).sum()))]
)
def test_a_linear_classifier_loses_exactly_what_theory_says(judge, data, norm, dual):
    result, _ = judge(WEIGHTS, spec={"norm": norm, "eps": 0.05}, steps=40, name="pgd8")
    distance = margins(data, dual)
    # No image lies so near a radius that rounding decides.
    assert all(np.abs(distance - row["eps"]).min() > 1e-5 for row in result["eps_curve"][1:])
    assert result["clean_accuracy"] == (distance > 0).mean()
    assert result["robust_accuracy"] == (distance > 0.05).mean()
    for row in result["eps_curve"]:
        assert row["accuracy"] == (distance > row["eps"]).mean()
    assert [row["eps"] / 0.05 for row in result["eps_curve"]][:9] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    )
    assert 0 < result["robust_accuracy"] < result["clean_accuracy"]


def test_the_multi_targeted_attack_reaches_the_same_in_two_classes(judge, data):
    options = {"attack": "multi_targeted", "steps": None, "eps": 0.05, "name": "pgd8"}
    result, examples = judge(WEIGHTS, **options)
    distance = margins(data, np.abs(WEIGHTS).sum())
    assert result["robust_accuracy"] == (distance > 0.05).mean()
    assert [row["accuracy"] for row in result["eps_curve"][:9]] == [
        (distance > row["eps"]).mean() for row in result["eps_curve"][:9]
    ]
    assert [entry["name"] for entry in result["attacks"]] == ["multi_targeted20"]
    assert (result["attack"], result["num_steps"]) == ("multi_targeted20", 20)
    assert result["step_size"] == pytest.approx(0.005)
    assert result["step_size_rule"] == "eps / 10 (Yang et al. 2020)"
    assert np.abs(examples["adversarial"] - examples["clean"]).max() == pytest.approx(0.05)
    small = judge(WEIGHTS, batch_size=4, **options)[1]
    np.testing.assert_array_equal(small["adversarial"], examples["adversarial"])


@pytest.mark.parametrize("attack", ["cw", "pgd_plus", "multi_targeted_margin", "apgd-ce", "fab-t"])
def test_every_attack_loses_what_theory_says(judge, data, attack):
    options = {"steps": 20 if attack == "fab-t" else None, "eps": 0.05, "name": "pgd8"}
    result, examples = judge(WEIGHTS, attack=attack, eps_curve=False, **options)
    distance = margins(data, np.abs(WEIGHTS).sum())
    assert result["robust_accuracy"] == (distance > 0.05).mean()
    assert result["attack"].removeprefix(attack).isdigit()
    assert np.abs(examples["adversarial"] - examples["clean"]).max() <= 0.05 + 1e-6
    kinds = evaluate_attacks.ATTACKS
    assert (result["step_size"] is None) == (kinds[attack].step_size is kinds["fab-t"].step_size)


def test_an_attack_that_leaves_no_numbers_fools_nobody(judge, monkeypatch):
    kind = evaluate_attacks.Kind(
        parts={"": lambda setting: lambda logits, keys, images, *_: images * jnp.nan}, steps=8
    )
    monkeypatch.setitem(evaluate_attacks.ATTACKS, "pgd", kind)
    result, examples = judge(WEIGHTS, eps_curve=False)
    assert result["robust_accuracy"] == result["clean_accuracy"] > 0
    np.testing.assert_allclose(examples["adversarial"], examples["clean"], atol=1e-6)


def test_only_quick_attacks_have_a_curve():
    slow = {name for name, kind in evaluate_attacks.ATTACKS.items() if not kind.has_curve}
    assert slow == {"apgd-t", "fab-t", "square", "autoattack"}


def test_square_needs_no_gradient_and_has_no_curve(judge, data):
    result, _ = judge(WEIGHTS, attack="square", steps=100, eps=0.05, name="pgd8")
    distance = margins(data, np.abs(WEIGHTS).sum())
    clean = result["clean_accuracy"]
    assert (distance > 0.05).mean() <= result["robust_accuracy"] < clean
    assert result["eps_curve"] == [] and result["eps_curve_attack"] == ""


def test_pgd_plus_keeps_the_first_iterate_that_is_wrong():
    """The third iterate is wrong, those after it are right again."""
    labels, images = jnp.asarray([0, 1], jnp.int32), jnp.full((2, 2, 2, 1), 0.5)

    def logits(x):
        moved = jnp.abs(x - 0.5).mean((1, 2, 3))
        wrong = (moved > 0.025) & (moved < 0.035)
        confident = jax.nn.one_hot(jnp.where(wrong, 1 - labels, labels), 2)
        # The gradient always goes further the same way.
        slope = jnp.stack([-x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1)
        return slope - jax.lax.stop_gradient(slope) + confident

    walk = pgd.create(norm="linf", eps=0.1, step_size=0.01, num_steps=6, start="zero")
    setting = evaluate_attacks.Setting(norm="linf", steps=6, walk=walk)
    keys = jax.random.split(jax.random.key(0), 2)
    attack = evaluate_attacks._every_iterate(setting)
    found = attack(logits, keys, images, labels, jnp.float32(0.1))
    np.testing.assert_allclose(jnp.abs(found - 0.5), 0.03, atol=1e-6)
    plain = evaluate_attacks._ascending("cross_entropy")(setting)
    last = plain(logits, keys, images, labels, jnp.float32(0.1))
    np.testing.assert_allclose(jnp.abs(last - 0.5), 0.06, atol=1e-6)


def test_restarts_meet_only_those_that_still_stand(judge, monkeypatch):
    real, calls = evaluate_examiner.Examiner.attack, []

    def attack(self, name, indices, eps, key, watched):
        kept, seen = real(self, name, indices, 0.0, key, watched)
        calls.append((len(indices), jax.random.key_data(key).tolist()))
        return kept[2:], seen

    monkeypatch.setattr(evaluate_examiner.Examiner, "attack", attack)
    options = {"attack": "cw", "restarts": 3, "eps_curve": False, "name": "pgd8"}
    result, _ = judge(WEIGHTS, **options)
    right = round(result["clean_accuracy"] * COUNT)
    assert [count for count, _ in calls] == [right, right - 2, right - 4]
    assert len({str(key) for _, key in calls}) == 3
    assert round(result["robust_accuracy"] * COUNT) == right - 6
    assert result["restarts"] == 3


def test_on_training_images_those_of_the_validation_do_not_count(judge, data, monkeypatch):
    monkeypatch.setattr(sources, "train_split", lambda name, data_dir: data)
    monkeypatch.setattr(sources, "test_split", None)
    spec = {"config": {"data": {"validation_size": 30}}}
    result, examples = judge(WEIGHTS, split="train", spec=spec, name="pgd8-train", eps_curve=False)
    assert (result["split"], result["num_examples"]) == ("train", COUNT - 30)
    assert examples["indices"].min() >= 30
    distance = margins(data, np.abs(WEIGHTS).sum())[30:]
    assert result["clean_accuracy"] == (distance > 0).mean()
    with pytest.raises(UserError, match="toy has 7 train images"):
        judge(WEIGHTS, split="train", spec=spec, num_examples=8)


def test_training_images_are_those_trained_on_by_the_labels_given(judge, data, monkeypatch):
    monkeypatch.setattr(sources, "train_split", lambda name, data_dir: data)
    own = {"validation_size": 5, "take": 12, "label_noise": 0.25, "label_noise_seed": 1}
    options = {"split": "train", "name": "pgd8", "eps_curve": False}
    result, examples = judge(WEIGHTS, spec={"config": {"data": own}}, **options)
    chosen = mixing.balanced(data.labels, 5, 12)
    labels = trained.given_labels(own, data.labels, 2)[chosen]
    assert (labels != data.labels[chosen]).sum() == 3
    assert set(examples["indices"]) <= set(chosen)
    score = ((data.images[chosen] / 255 - 0.5) * WEIGHTS).sum((1, 2, 3))
    assert result["clean_accuracy"] == ((score > 0) == labels).mean()
    assert result["num_examples"] == 12
    assert result["trained_on"] == {"take": 12, "label_noise": 0.25, "label_noise_seed": 1}
    result, _ = judge(WEIGHTS, spec={"config": {"data": own}}, **options | {"split": "test"})
    assert result["num_examples"] == COUNT and result["trained_on"] == {}


def test_usual_names_tell_the_attack_and_the_split(judge, data, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "train_split", lambda name, data_dir: data)
    with pytest.raises(FileNotFoundError):  # Of the fixture, which looks for another name.
        judge(WEIGHTS, split="train", eps_curve=False)
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["pgd8-train"]


def test_autoattack_is_the_ensemble_in_jax_and_says_that_it_is_not_official(
    judge, data, monkeypatch
):
    def ensemble(logits_fn, images, labels, **options):
        assert options["norm"] == "linf" and options["eps"] == 0.05 and options["seed"] == 3
        np.testing.assert_array_equal(images, data.images.astype(np.float32) / 255)
        assert logits_fn(jnp.asarray(images)).shape == (COUNT, 2)
        robust = np.arange(COUNT) < 5
        attacks = [{"name": "apgd-ce", "robust_accuracy": robust.mean()}]
        return types.SimpleNamespace(
            images=images + np.float32(0.01), robust=robust, attacks=attacks, notes=["doubtful"]
        )

    monkeypatch.setattr(evaluate_trial, "autoattack", ensemble)
    options = {"attack": "autoattack", "steps": None, "seed": 3, "eps": 0.05}
    result, examples = judge(WEIGHTS, name="autoattack-jax", **options)
    assert result["robust_accuracy"] == 5 / COUNT and result["official"] is False
    assert (result["attack"], result["num_steps"]) == ("autoattack", None)
    assert result["notes"] == ["doubtful"] and result["eps_curve"] == []
    np.testing.assert_allclose(examples["adversarial"] - examples["clean"], 0.01, atol=1e-6)
    with pytest.raises(UserError, match="--steps=5: autoattack has no steps"):
        judge(WEIGHTS, attack="autoattack", steps=5)


def test_the_command_line_knows_every_attack():
    assert command_line_flags.FLAGS["attack"][0].split("|") == list(evaluate_attacks.ATTACKS)


def test_the_curve_goes_on_until_nothing_is_left(judge, data):
    result, _ = judge(WEIGHTS, eps=0.02)
    last = result["eps_curve"][-1]
    assert last["eps"] > 0.04 and last["accuracy"] <= 0.01
    assert result["eps_curve"][-2]["accuracy"] > 0.01


def test_the_whole_curve_is_one_compilation(judge, monkeypatch):
    seen = []

    class Watched(evaluate_examiner.Examiner):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            seen.append(self)

        def _adversarial(self, attack, *arguments):
            traced.append(attack)  # The body runs once, when it is traced.
            return super()._adversarial(attack, *arguments)

    traced = []
    monkeypatch.setattr(evaluate_module, "Examiner", Watched)
    result, _ = judge(WEIGHTS)
    assert len(result["eps_curve"]) >= 9
    assert seen[0]._layout.num_devices == len(jax.devices()) == 4
    assert set(seen[0].attacks) == {"pgd8-cross_entropy", "pgd8-margin"}
    assert len(traced) == len(set(traced)) == 2


def test_neither_batch_size_nor_devices_change_an_answer(judge):
    # One short step from a random start: where it ends hangs on the draw.
    own = {"eps": 0.1, "num_steps": 1, "step_size": 0.01}
    spec = {"config": {"validation": {"attack": own}}}
    options = {"spec": spec, "steps": 1, "eps_curve": False, "name": "one"}
    small, large = (judge(WEIGHTS, batch_size=size, **options)[1] for size in (4, 500))
    np.testing.assert_array_equal(small["adversarial"], large["adversarial"])
    # And each image has its own draw: the step alone would differ by 0.02 at most.
    changes = small["adversarial"] - small["clean"]
    assert np.abs(changes[0] - changes[1]).max() > 0.03
    again = judge(WEIGHTS, batch_size=4, seed=1, **options)[1]
    assert (again["adversarial"] != small["adversarial"]).any()


def test_an_image_counts_only_if_it_withstands_both_losses(judge, monkeypatch):
    real = evaluate_examiner.Examiner.attack

    def attack(self, name, indices, eps, key, watched):
        kept, seen = real(self, name, indices, 0.0, key, watched)
        return kept[::2] if name.endswith("margin") else kept[1:], seen

    monkeypatch.setattr(evaluate_examiner.Examiner, "attack", attack)
    result, _ = judge(WEIGHTS, eps_curve=False)
    right = round(result["clean_accuracy"] * COUNT)
    alone = [round(entry["accuracy"] * COUNT) for entry in result["attacks"]]
    assert alone == [right - 1, -(-right // 2)]
    assert round(result["robust_accuracy"] * COUNT) == -(-right // 2) - 1
    assert result["attacks"][-1]["robust_accuracy"] == result["robust_accuracy"]


def test_the_result_says_what_it_depends_on(judge, data):
    result, examples = judge(WEIGHTS, num_examples=20)
    assert result["official"] is False and "AutoAttack" in result["note"]
    assert result["num_examples"] == 20 and result["eps_curve"][0]["eps"] == 0
    assert result["eps"] == {"value": 0.1, "written": "0.1"}
    assert (result["model_sha256"], result["data_sha256"]) == ("a" * 64, "f" * 64)
    assert result["step_size"] == 0.03
    assert result["step_size_rule"] == "config.validation.attack.step_size"
    assert {"seed", "precision", "versions", "seconds", "norm"} <= result.keys()
    # The first image of each class, whatever the classifier says of it.
    assert examples["indices"].tolist() == [np.argmax(data.labels == c) for c in (0, 1)]
    np.testing.assert_allclose(examples["clean"] * 255, data.images[examples["indices"]])
    change = np.abs(examples["adversarial"] - examples["clean"])
    assert 0.09 < change.max() <= 0.1 + 1e-6
    score = ((examples["adversarial"] - 0.5) * WEIGHTS).sum((1, 2, 3))
    assert examples["adversarial_predictions"].tolist() == (score > 0).astype(int).tolist()
    # Of -log softmax: opposite to the label's direction in pixel space.
    signs = (
        np.sign(examples["gradients"])
        * np.where(examples["labels"] == 1, -1, 1)[:, None, None, None]
    )
    np.testing.assert_array_equal(signs, np.broadcast_to(np.sign(WEIGHTS), signs.shape))


def test_another_radius_has_the_usual_step_size(judge):
    result, _ = judge(WEIGHTS, eps=0.05, eps_curve=False)
    assert result["step_size"] == pytest.approx(2.5 * 0.05 / 8)
    assert result["step_size_rule"] == "2.5 * eps / num_steps"
    assert result["eps_curve"] == []
    own = {"norm": "l2", "eps": 0.1, "num_steps": 8, "step_size": 0.03}
    spec = {"config": {"validation": {"attack": own}}}
    result, _ = judge(WEIGHTS, spec=spec, eps_curve=False)
    assert result["step_size_rule"] == "2.5 * eps / num_steps"


def test_the_step_size_that_is_asked_for(judge):
    reached, _ = judge(WEIGHTS, step_size=0.1, steps=1, name="a", eps_curve=False)
    short, _ = judge(WEIGHTS, step_size=1e-6, steps=1, name="b", eps_curve=False)
    assert (reached["step_size"], reached["step_size_rule"]) == (0.1, "as asked")
    assert reached["robust_accuracy"] < short["robust_accuracy"]


def test_a_name_belongs_to_one_model(judge, tmp_path):
    judge(WEIGHTS, eps_curve=False)
    again, _ = judge(WEIGHTS, eps_curve=False, seed=5)
    assert again["seed"] == 5
    with pytest.raises(UserError, match="another model.*--name"):
        judge(WEIGHTS, eps_curve=False, spec={"sha": "b" * 64})
    judge(WEIGHTS, eps_curve=False, spec={"sha": "b" * 64}, name="other")
    path = tmp_path / "eval" / "official" / "result.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"attack": "AutoAttack", "model_sha256": "a" * 64}))
    with pytest.raises(UserError, match="another model or evaluation"):
        judge(WEIGHTS, name="official")
    (tmp_path / "eval" / "unfinished" / "chunks").mkdir(parents=True)
    with pytest.raises(UserError, match="by the official AutoAttack.*another --name"):
        judge(WEIGHTS, name="unfinished")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 8.0}, "write 8/255"),
        ({"eps": -0.1}, "eps=-0.1 is "),
        ({"eps": 0.0}, "--eps=0 leaves nothing"),
        ({"eps": float("nan")}, "--eps=nan"),
        ({"steps": 0}, "--steps=0"),
        (
            {"attack": "pgdd"},
            "unknown attack 'pgdd'; known: .*pgd_plus, .*did you mean 'pgd'",
        ),
        ({"restarts": 0}, "--restarts=0"),
        ({"attack": "fab-t", "restarts": 2}, "--restarts=2: fab-t has no restarts"),
        ({"step_size": 0.0}, "--step_size=0 is no step"),
        ({"attack": "fab-t", "step_size": 0.1}, "--step_size=0.1: this attack finds its own"),
        ({"split": "val"}, "unknown --split 'val'"),
        ({"attack": "apgd-t"}, "needs 4 classes"),
        ({"num_examples": 38}, "toy has 37 test images"),
        ({"num_examples": -1}, "--num_examples=-1"),
        ({"name": "../up"}, "--name=../up"),
        ({"spec": {"model": {"image_shape": [8, 8, 3]}}}, r"images \(2, 2, 1\).*\(8, 8, 3\)"),
        ({"spec": {"model": {"image_shape": [2, 2, 1], "num_classes": 1}}}, "tells 1 classes"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(judge, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        judge(WEIGHTS, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "eval").exists()
