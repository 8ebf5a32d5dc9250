"""The checkpoints that a run keeps, and what can be read of them while it goes on."""

import shutil
import types

import numpy as np
import pytest

from score_jax import checkpoint, checkpoint_choice, checkpoint_series, config, train, workdir
from score_jax.train_loop import Loop
from score_jax.types import UserError
from tests.checkpoint_states import abstract, folders, numbers, state_at
from tests.helpers import digits_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Steps 2, 4 of a series, 5, 6 the last, 3 the best; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("series") / "run"
    run = workdir.open_workdir(folder, config.default(), ["test"])
    saved = checkpoint.Checkpoints(run, {"seed": 7}, keep=2, keep_every=2)
    for step in range(1, 7):
        saved.save(state_at(step), checkpoint.Best(), is_validated=True)
        if step == 3:
            saved.save_best(state_at(step), {"val/clean_accuracy": 0.75})
    saved.close()
    return run


@pytest.fixture
def copy(run, tmp_path):
    return workdir.Workdir(shutil.copytree(run.path, tmp_path / "run"))


def test_a_series_is_kept_beside_the_last_ones(copy):
    run = copy
    assert folders(run.checkpoints) == [2, 4, 5, 6]
    again = checkpoint.Checkpoints(run, {}, keep=1)
    assert int(again.restore(abstract()).state.step) == 6
    again.save(state_at(7), checkpoint.Best(), is_validated=True)
    again.close()
    assert folders(run.checkpoints) == [7]


@pytest.mark.parametrize(("epochs", "steps"), [(2, [10, 20, 23]), (0, [23])])
def test_a_series_is_due_every_so_many_epochs_and_at_the_end(epochs, steps):
    loop = object.__new__(Loop)
    loop._run = types.SimpleNamespace(steps_per_epoch=5, num_train_steps=23)
    assert [step for step in range(24) if loop._due(step, epochs)] == steps


def test_the_best_is_one_of_the_series(copy):
    run = copy
    names = [one.name for one in checkpoint_series.kept(run)]
    assert names == ["step 2", "step 3 (best)", "step 4", "step 5", "step 6 (last)"]
    shutil.copytree(run.best / "3", run.checkpoints / "3")
    assert [one.step for one in checkpoint_series.kept(run)] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("words", "steps"),
    [("all", [2, 3, 4, 5, 6]), ("best,last", [3, 6]), ("5, 2,last,6", [2, 5, 6]), ("best", [3])],
)
def test_checkpoints_are_named_by_words_and_steps(run, words, steps):
    assert [one.step for one in checkpoint_series.choose(run, words)] == steps


@pytest.mark.parametrize("words", ["1", "best,1", "first", "", "best,,last"])
def test_what_is_not_kept_is_refused(run, words):
    with pytest.raises(UserError, match=r"give all, best, last or steps of 2, 3, 4, 5, 6"):
        checkpoint_series.choose(run, words)


def test_a_run_without_checkpoints_is_refused(tmp_path):
    run = workdir.open_workdir(tmp_path / "run", config.default(), ["test"])
    with pytest.raises(UserError, match="holds no checkpoint; train first"):
        checkpoint_series.choose(run, "all")


@pytest.mark.parametrize("weights", ["ema", "live"])
def test_each_network_is_read_as_it_was_saved(run, weights):
    chosen = checkpoint_series.choose(run, "all")
    found = {one.step: network for one, network in checkpoint_series.networks(chosen, weights)}
    assert list(found) == [2, 3, 4, 5, 6]
    for step, network in found.items():
        state = numbers(step)
        params = state.ema_params if weights == "ema" else state.params
        np.testing.assert_array_equal(
            network["params"]["logits"]["kernel"], params["logits"]["kernel"]
        )
        assert (network["step"], network["config"]) == (step, {"seed": 7})
    assert found[3]["accuracies"] == {"val/clean_accuracy": 0.75}


def test_one_that_is_removed_while_it_is_read_is_left_out(copy, caplog, monkeypatch):
    chosen, read = checkpoint_series.choose(copy, "4,5"), checkpoint_choice.read

    def removing(folder):
        if folder.name == "4":
            folder.rename(folder.with_name("4.removed"))
        return read(folder)

    monkeypatch.setattr(checkpoint_choice, "read", removing)
    assert [one.step for one, _ in checkpoint_series.networks(chosen, "ema")] == [5]
    assert f"{copy.checkpoints / '4'} is gone; it is left out" in caplog.text


def test_damaged_ones_are_left_out(copy, caplog):
    run = copy
    chosen = checkpoint_series.choose(run, "4,5,6")
    next((run.checkpoints / "4").glob("state/d/*")).write_bytes(b"")
    shutil.rmtree(run.checkpoints / "6")
    found = [one.step for one, _ in checkpoint_series.networks(chosen, "ema")]
    assert found == [5]
    assert f"{run.checkpoints / '4'} is damaged: " in caplog.text
    assert f"{run.checkpoints / '6'} is gone; it is left out" in caplog.text
    assert folders(run.checkpoints) == [2, 4, 5]  # Nothing is moved: the run may be going on.
    with pytest.raises(UserError, match="no checkpoint is left to measure: .*4 is damaged"):
        list(checkpoint_series.networks(chosen[:1], "ema"))


@pytest.mark.slow
def test_training_keeps_its_series_and_goes_on_keeping_it(data_dir, tmp_path):
    settings = digits_config(
        f"data.dir={data_dir}", "steps_per_epoch=2", "data.batch_size=32", "num_epochs=5",
        "log.attack_share=false", "validation.attack.num_steps=1", "checkpoint.keep=1",
        "checkpoint.keep_every_epochs=2",
    )  # fmt: skip
    kept = tmp_path / "run" / "checkpoints"
    for _ in range(2):
        train.train(settings, str(tmp_path / "run"))
        assert sorted(int(path.name) for path in kept.glob("[0-9]*")) == [4, 8, 10]
        shutil.rmtree(kept / "10")  # As if the run had been lost before.
