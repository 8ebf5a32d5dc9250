"""Published tables beside runs: whose numbers are shown, and what is said where they differ."""

import json

import pytest

from score_jax import config as config_module
from score_jax import recipes, report_run, report_table
from score_jax.types import UserError

SHA = "c0ffee" + 58 * "0"
EPS = {"value": 8 / 255, "written": "8/255"}


def make_run(folder, recipe, changes=(), *, examples=10000, autoattack=0.6012, checkpoint="best"):
    """The files of a run of a recipe, with an AutoAttack and two PGD results."""
    config = recipes.load(f"configs/{recipe}", changes)
    write(folder / "config.json", config_module.to_dict(config))
    write(folder / "run.json", {})
    write(
        folder / "export" / "model.json",
        {"sha256": {"model.safetensors": SHA}, "checkpoint": checkpoint},
    )
    eps = {"value": config.eps, "written": str(config.eps)}
    shared = dict(norm=config.norm, eps=eps, model_sha256=SHA, num_examples=examples)
    shared["clean_accuracy"] = 0.88125
    official = dict(attack="AutoAttack", attack_version="standard", robust_accuracy=autoattack)
    write(folder / "eval" / "autoattack" / "result.json", {**shared, **official})
    for steps, accuracy in ((10, 0.5), (20, 0.4875)):
        attacks = [
            {"name": f"pgd{steps}-cross_entropy", "accuracy": accuracy},
            {"name": f"pgd{steps}-margin", "accuracy": 0.1},
        ]
        result = dict(attack=f"pgd{steps}", official=False, robust_accuracy=0.1, attacks=attacks)
        write(folder / "eval" / f"pgd{steps}" / "result.json", {**shared, **result})
    return folder


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def row_of(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}  "))
    return line.removeprefix(name).split()


def test_without_runs_the_table_holds_published_numbers_alone():
    text = report_table.compare("score")
    assert "Pang et al. (ICML 2022)" in text
    row = row_of(text, "SE beta=3 wrn-28-10-swish")
    assert row == ["88.61", "61.04", "cifar10_score.py:beta=3"]
    assert text.splitlines()[3].split() == ["clean", "here", "AutoAttack", "here", "recipe"]


def test_a_run_of_the_recipe_stands_beside_its_row(tmp_path):
    folder = make_run(tmp_path / "a" / "score", "cifar10_score.py:beta=3")
    text = report_table.compare("score", tmp_path)
    row = row_of(text, "SE beta=3 wrn-28-10-swish")
    assert row == ["88.61", "88.12", "61.04", "60.12", "cifar10_score.py:beta=3"]
    assert row_of(text, "SE beta=4 wrn-28-10-swish")[:2] == ["88.10", "61.51"]
    assert f"SE beta=3 wrn-28-10-swish here: {folder}" in text.splitlines()


def test_where_it_was_and_how_often_it_logged_makes_no_difference(tmp_path):
    make_run(tmp_path / "run", "cifar10_score.py:beta=3", ["data.dir=/d", "log.every_steps=7"])
    assert "*" not in report_table.compare("score", tmp_path)


def test_a_run_that_is_not_the_recipe_is_marked_and_says_why(tmp_path):
    changes = ["num_epochs=10", "seed=3"]
    folder = make_run(tmp_path / "run", "cifar10_score.py:beta=3", changes, examples=100)
    text = report_table.compare("score", tmp_path)
    assert row_of(text, "SE beta=3 wrn-28-10-swish")[:4] == ["88.61", "88.12*", "61.04", "60.12*"]
    assert (
        f"SE beta=3 wrn-28-10-swish here: {folder}, AutoAttack on 100 of 10000 test images, * not "
        "the recipe: num_epochs: 400 in the recipe, 10 here; seed: 0 in the recipe, 3 here"
    ) in text.splitlines()


def test_of_several_runs_the_faithful_one_on_most_images_is_shown(tmp_path):
    recipe = "cifar10_score.py:beta=3"
    make_run(tmp_path / "a", recipe, ["seed=1"], autoattack=0.99)
    make_run(tmp_path / "b", recipe, examples=100, autoattack=0.98)
    make_run(tmp_path / "c", recipe, autoattack=0.61)
    text = report_table.compare("score", tmp_path)
    assert row_of(text, "SE beta=3 wrn-28-10-swish")[3] == "61.00"
    assert text.count("SE beta=3 wrn-28-10-swish here: ") == 3


def test_a_smoke_run_and_another_table_are_not_shown(tmp_path):
    make_run(tmp_path / "smoke", "cifar10_score.py:smoke")
    make_run(tmp_path / "yang", "cifar10_yang.py:method=at")
    text = report_table.compare("score", tmp_path)
    assert "here:" not in text


def test_adversarial_accuracy_is_that_of_pgd_with_cross_entropy(tmp_path):
    folder = make_run(tmp_path / "at", "cifar10_yang.py:method=at")
    row = row_of(report_table.compare("yang", tmp_path), "AT wrn-40-10-relu")
    assert row == [
        "99.84", "83.51", "88.12", "43.51", "50.00", "26.23", "16.33", "49.94",
        "cifar10_yang.py:method=at",
    ]  # fmt: skip
    found = dict(splits={"test": dict(official=12.5, ascent=30.0)}, model_sha256=SHA)
    write(folder / "analysis" / "lipschitz.json", found)
    assert "12.50" in report_table.compare("yang", tmp_path)
    write(folder / "analysis" / "lipschitz.json", found | {"model_sha256": "0"})
    assert "12.50" not in report_table.compare("yang", tmp_path)


def test_training_images_fill_the_columns_of_the_gaps_and_no_other(tmp_path):
    folder = make_run(tmp_path / "at", "cifar10_yang.py:method=at")
    path = folder / "eval" / "pgd10" / "result.json"
    attacks = [{"name": "pgd10-cross_entropy", "accuracy": 0.75}]
    train = dict(split="train", clean_accuracy=0.99, num_examples=40000, attacks=attacks)
    write(folder / "eval" / "train" / "result.json", json.loads(path.read_text()) | train)
    row = row_of(report_table.compare("yang", tmp_path), "AT wrn-40-10-relu")
    assert row == [
        "99.84", "99.00", "83.51", "88.12", "43.51", "50.00", "26.23", "16.33", "10.88",
        "49.94", "25.00", "cifar10_yang.py:method=at",
    ]  # fmt: skip


def test_pgd_plus_has_its_column_and_is_no_pgd(tmp_path):
    folder = make_run(tmp_path / "run", "cifar10_gairat.py")
    path = folder / "eval" / "pgd20" / "result.json"
    plus = dict(attack="pgd_plus40", robust_accuracy=0.4321, num_examples=20000)
    write(folder / "eval" / "pgd_plus40" / "result.json", json.loads(path.read_text()) | plus)
    row = row_of(report_table.compare("gairat", tmp_path), "GAIRAT wrn-34-10-relu")
    assert row[:6] == ["85.75", "88.12", "57.81", "48.75", "55.61", "43.21"]
    assert report_run.read(folder).quick == "pgd20"


@pytest.mark.parametrize(("checkpoint", "columns"), [("best", (1, 3)), ("last", (4, 6))])
def test_best_and_last_have_their_own_columns(tmp_path, checkpoint, columns):
    make_run(tmp_path / "run", "cifar10_gairat.py", checkpoint=checkpoint)
    row = row_of(report_table.compare("gairat", tmp_path), "GAIRAT wrn-34-10-relu")
    assert [row.index(value) for value in ("88.12", "48.75")] == list(columns)


def test_unknown_numbers_are_dashes():
    row = row_of(report_table.compare("yang"), "TRADES beta=1 wrn-40-10-relu")
    assert row[4:6] == ["-", "-"]


def test_an_unknown_table_lists_the_known():
    with pytest.raises(UserError, match="unknown --table 'scores'.*did you mean 'score'"):
        report_table.compare("scores")


def test_columns_are_aligned():
    lines = report_table.align([["a", "bb"], ["ccc", "1"], ["d"]])
    assert lines == ["a    bb", "---  --", "ccc   1", "d"]
