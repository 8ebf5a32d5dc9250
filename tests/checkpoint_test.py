"""Checkpoints: what is kept, what a failed save leaves, what is refused."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import checkpoint, config, mesh, models, objectives, optimizers, train_state, workdir
from score_jax.data import augment
from score_jax.recipe import Recipe
from score_jax.types import UserError


@pytest.fixture
def run(tmp_path):
    return workdir.open_workdir(tmp_path / "run", config.default(), ["test"])


@pytest.fixture
def recipe():
    classifier = models.create(
        "cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.5,), std=(0.2,)
    )
    rates = optimizers.create_rates(
        name="constant", unit="step", num_epochs=1, steps_per_epoch=1, momentum=0.9,
        learning_rate=0.1,
    )  # fmt: skip
    return Recipe(
        classifier=classifier,
        attack_classifier=classifier,
        objective=objectives.create("standard"),
        attack=None,
        optimizer=optimizers.create(rates, classifier.roles),
        num_classes=10,
        augment=augment.no_augmentation,
        ema_decay=0.9,
        ema_warmup_steps=0,
    )


def state_at(recipe, step, layout=None):
    state = train_state.create(recipe, jax.random.key(step), layout or mesh.create())
    return jax.tree.map(lambda x: x, state.__class__(**{**vars(state), "step": jnp.int32(step)}))


def folders(path):
    return sorted(int(entry.name) for entry in path.iterdir() if entry.name.isdigit())


def test_newest_comes_back_with_the_best_score(run, recipe):
    saved = checkpoint.Checkpoints(run, {"seed": 0}, keep=2)
    saved.save_best(state_at(recipe, 2), {})
    for step in (1, 2, 3):
        saved.save(state_at(recipe, step), checkpoint.Best(0.25, step - 1))
    assert folders(run.checkpoints) == [2, 3]
    layout = mesh.create()
    state, best = saved.restore(train_state.abstract(recipe, layout))
    assert best == checkpoint.Best(0.25, 2)
    jax.tree.map(np.testing.assert_array_equal, state, state_at(recipe, 3))
    assert all(leaf.sharding == layout.replicated for leaf in jax.tree.leaves(state.params))
    saved.close()


def test_fresh_run_has_nothing_to_restore(run, recipe):
    saved = checkpoint.Checkpoints(run, {}, keep=1)
    assert saved.restore(train_state.abstract(recipe, mesh.create())) is None


def test_saved_on_four_devices_loads_on_one(run, recipe):
    saved = checkpoint.Checkpoints(run, {}, keep=1)
    saved.save(state_at(recipe, 5), checkpoint.Best())
    saved.close()
    one = mesh.create(jax.devices()[:1])
    state, _ = checkpoint.Checkpoints(run, {}, keep=1).restore(train_state.abstract(recipe, one))
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(state.params))


def test_best_replaces_the_best_and_reads_back_on_the_host(run, recipe):
    saved = checkpoint.Checkpoints(run, {"seed": 7}, keep=1)
    for step in (1, 2):
        saved.save_best(state_at(recipe, step), {"val/clean_accuracy": step / 4})
    saved.save_best(state_at(recipe, 2), {"val/clean_accuracy": 0.9})  # Already there: stays.
    saved.close()
    assert folders(run.best) == [2]
    loaded = checkpoint.load_for_export(run, "best", "live")
    assert loaded["step"] == 2 and loaded["accuracies"] == {"val/clean_accuracy": 0.5}
    assert loaded["config"] == {"seed": 7}
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], state_at(recipe, 2).params)
    assert isinstance(loaded["params"]["logits"]["kernel"], np.ndarray)


def test_best_selected_after_the_restored_state_is_forgotten(run, recipe):
    """It belongs to steps that are now done anew, perhaps with other results."""
    saved = checkpoint.Checkpoints(run, {}, keep=1)
    saved.save(state_at(recipe, 1), checkpoint.Best(0.5, 1))
    saved.save_best(state_at(recipe, 4), {})
    saved.close()
    saved = checkpoint.Checkpoints(run, {}, keep=1)
    _, best = saved.restore(train_state.abstract(recipe, mesh.create()))
    assert best == checkpoint.Best() and folders(run.best) == []
    saved.save_best(state_at(recipe, 3), {})
    assert folders(run.best) == [3]


def test_exporting_leaves_a_save_in_progress_alone(run, recipe):
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    saved.save_best(state_at(recipe, 1), {})
    unfinished = run.best / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert checkpoint.load_for_export(run, "best", "ema")["step"] == 1
    assert unfinished.is_dir()


def test_damaged_checkpoint_is_one_line(run, recipe):
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    saved.save(state_at(recipe, 1), checkpoint.Best())
    saved.close()
    for path in (run.checkpoints / "1" / "state").rglob("*"):
        if path.is_file() and "ocdbt" in str(path):
            path.write_bytes(b"")
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    with pytest.raises(UserError, match="1 is damaged or of another version .* move that folder"):
        saved.restore(train_state.abstract(recipe, mesh.create()))


def test_half_written_checkpoint_is_not_one(run, recipe):
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    saved.save(state_at(recipe, 1), checkpoint.Best())
    saved.close()
    (run.checkpoints / "2.orbax-checkpoint-tmp").mkdir()
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    state, _ = saved.restore(train_state.abstract(recipe, mesh.create()))
    assert int(state.step) == 1


def test_full_disk_is_one_line(run, recipe, monkeypatch):
    saved = checkpoint.Checkpoints(run, {}, keep=2)

    def full(*arguments, **named):
        raise ValueError("RESOURCE_EXHAUSTED: a/b/c: No space left on device [os_error_code='28']")

    monkeypatch.setattr(saved._last, "save", full)
    expected = r"could not be written \(No space left on device\); .* make room"
    with pytest.raises(UserError, match=expected):
        saved.save(state_at(recipe, 1), checkpoint.Best())


def test_save_that_does_not_fit_is_not_begun(run, recipe, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    with pytest.raises(UserError, match="No space left on device"):
        saved.save(state_at(recipe, 1), checkpoint.Best())
    assert not list(run.checkpoints.iterdir())


@pytest.mark.parametrize(
    "which, weights, message",
    [
        ("best", "ema", "holds no checkpoint; train first"),
        ("first", "ema", "checkpoints are best and last"),
        ("last", "raw", "weights are ema and live"),
    ],
)
def test_missing_checkpoints_are_refused(run, which, weights, message):
    with pytest.raises(UserError, match=message):
        checkpoint.load_for_export(run, which, weights)
