"""What a sweep measures, as its recipe asks: the columns of Yang et al. (2020)."""

import importlib.util
import json

import pytest

from score_jax import prepare, sweep, sweep_kinds
from score_jax.sweep_settings import Sweep
from score_jax.types import UserError
from tests import table_runs
from tests.table_runs import RECIPE


@pytest.fixture
def runs(tmp_path):
    table_runs.four(tmp_path / "runs")
    return tmp_path / "runs"


def test_a_sweep_of_the_recipe_ends_with_the_table(runs, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # No pictures.
    whole = Sweep(recipe=RECIPE, workdir=str(runs))
    settings = whole.settings()
    assert len(settings) == 16 and sum(",dropout" in setting.name for setting in settings) == 8
    kind = sweep_kinds.of(whole)
    assert (kind.checkpoint, kind.num_examples) == ("last", 0)
    told = kind.tell(whole, settings[0], {})
    assert told.startswith(
        "method=natural: train 100.00, test 90.00, adv test 0.00, test Lipschitz"
    )
    failures = {"method=gr": "no space"}
    assert kind.tell(whole, settings[1], failures) == "method=gr failed: no space"
    begun = runs / "method=gr"  # Its training had not come to its first record.
    begun.mkdir()
    (begun / "config.json").write_text((runs / "method=at" / "config.json").read_text())
    text = kind.write(whole, failures)
    assert "natural" in text and text.endswith("method=gr failed: no space")
    assert len((runs / "table.md").read_text().splitlines()) == 2 + 2  # natural and at.
    assert kind.write(Sweep(recipe=RECIPE, workdir=str(runs / "none")), failures) == (
        "method=gr failed: no space"
    )


def test_a_backend_of_an_attack_that_is_not_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="--backend=torch is of AutoAttack, which a sweep of .*_ya"):
        sweep_kinds.of(Sweep(recipe=RECIPE, workdir=str(tmp_path), backend="torch"))


def test_an_unknown_table_of_a_recipe_is_told(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text("TABLE = 'yong'\ndef sweep():\n    yield ''\n")
    with pytest.raises(UserError, match="unknown TABLE of .* 'yong'; known: score, yang; did"):
        sweep_kinds.of(Sweep(recipe=str(path), workdir=str(tmp_path)))


@pytest.mark.slow
def test_a_setting_is_really_trained_and_measured(tmp_path):
    pytest.importorskip("sklearn")
    prepare.prepare("digits", data_dir=str(tmp_path / "data"))
    whole = Sweep(
        recipe=f"{RECIPE}:smoke", workdir=str(tmp_path / "w"), data_dir=str(tmp_path / "data"),
        num_examples=20, overrides=("num_epochs=1",),
    )  # fmt: skip
    folder = sweep.run_setting(whole, 15)
    assert folder.endswith("method=trades,beta=6,dropout")
    text = sweep_kinds.of(whole).write(whole, {})
    assert "Not measured" not in text and "on 20 training and 20 test images" in text
    (row,) = json.loads((tmp_path / "w" / "table.json").read_text())["runs"]
    assert row["gap"] == row["train"] - row["test"] and 0 <= row["adv test"] <= row["test"]
    assert 0 < row["test Lipschitz"] < row["ascent"] and row["checkpoint"] == "last"
