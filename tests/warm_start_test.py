"""Training begins with given weights, and goes on without their file."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from score_jax import (
    checkpoint,
    config,
    export,
    mesh,
    models,
    recipes,
    train,
    train_state,
    warm_start,
)
from score_jax.data import sources
from score_jax.types import UserError
from score_jax.workdir import find_workdir
from tests.helpers import digits_config

SPEC = sources.DATASETS["digits"]
MODEL = dict(
    name="cnn-3", num_classes=10, image_shape=SPEC.image_shape, mean=SPEC.mean, std=SPEC.std
)
OVERRIDES = (
    "num_epochs=2", "steps_per_epoch=3", "data.batch_size=32", "log.attack_share=false",
    "attack.num_steps=1", "validation.attack.num_steps=1",
)  # fmt: skip


def weights(seed):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(models.create(**MODEL).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.uniform(0.01, 0.1, leaf.shape).astype(np.float32), shapes)


def save(folder, seed=0, **changes):
    model = {**MODEL, **changes}
    params, batch_stats = weights(seed)
    if changes.get("num_classes"):
        classifier = models.create(**model)
        params, batch_stats = jax.tree.map(np.asarray, classifier.init(jax.random.key(0)))
    info = dict(dataset="digits", eps=0.2, norm="linf", origin={"file": "a.pt"})
    return export.save_artifact(
        folder / "export", model=model, params=params, batch_stats=batch_stats, info=info
    )


@pytest.fixture
def start(tmp_path):
    return save(tmp_path / "start")


def config_of(data_dir, *overrides):
    return digits_config(*OVERRIDES, f"data.dir={data_dir}", *overrides)


def run_json(folder):
    return json.loads((folder / "run.json").read_text())


def test_the_first_state_is_the_artifact(start, data_dir):
    settings = config_of(data_dir, f"init_from={start}")
    run, layout = recipes.build(settings), mesh.create()
    key = jax.device_put(jax.random.key(0), layout.replicated)
    loaded = warm_start.load(settings)
    given = loaded.params, loaded.batch_stats
    state = train_state.create(run.recipe, key, layout, given)
    params, batch_stats = weights(0)
    for ours, theirs in (
        (state.params, params), (state.ema_params, params), (state.batch_stats, batch_stats),
    ):  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert int(state.step) == 0
    # A step gives its buffers away, each once.
    addresses = [leaf.addressable_shards[0].data.unsafe_buffer_pointer()
                 for leaf in jax.tree.leaves((state.params, state.ema_params))]  # fmt: skip
    assert len(set(addresses)) == len(addresses)


@pytest.mark.slow
def test_a_run_begins_there_and_goes_on_without_the_file(start, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(train_state, "create", spy := Spy(train_state.create))
    settings = config_of(data_dir, f"init_from={start}", "schedule.learning_rate=0.001")
    monkeypatch.setattr(train.Loop, "_due", stop_after(3, original=train.Loop._due))
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train.train(settings, str(folder))
    jax.tree.map(np.testing.assert_array_equal, spy.weights, weights(0))
    facts = run_json(folder)["init_from"]
    assert facts["path"] == str(start) and facts["origin"] == {"file": "a.pt"}
    assert len(facts["sha256"]) == 64
    monkeypatch.undo()
    shutil.rmtree(start)
    assert train.train(settings, str(folder))["steps"] == 6
    assert run_json(folder)["init_from"] == facts
    saved = checkpoint.load_for_export(find_workdir(folder), "last", "live")
    # So small a rate leaves the weights where they were, far from PyTorch's initialisation.
    np.testing.assert_allclose(
        saved["params"]["conv_1"]["kernel"], weights(0)[0]["conv_1"]["kernel"], atol=0.01
    )
    assert saved["config"]["init_from"] == str(start)


class Spy:
    def __init__(self, original):
        self.original, self.weights = original, None

    def __call__(self, recipe, key, layout, weights=None):
        self.weights = weights
        return self.original(recipe, key, layout, weights)


def stop_after(limit, original):
    """`Loop._due` that asks to stop once, as Ctrl-C does, when a step is reached."""
    reached = []

    def due(self, step, every_epochs):
        if step == limit and not reached:
            reached.append(step)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step, every_epochs)

    return due


def test_weights_that_changed_before_the_first_checkpoint_are_refused(
    start, data_dir, tmp_path, monkeypatch
):
    settings = config_of(data_dir, f"init_from={start}")
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train.Loop, "run", None)  # Killed before the first step.
        with pytest.raises(TypeError):
            train.train(settings, str(folder))
    shutil.rmtree(start)
    save(start.parent, seed=1)
    with pytest.raises(UserError, match="was changed since this run began"):
        train.train(settings, str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_classes=7), "has num_classes 7, this run has 10"),
        (dict(mean=(0.5,)), r"has mean \[0.5\], this run has \(0.3059,\)"),
    ],
)
def test_another_network_is_refused_before_anything_is_written(
    changes, message, data_dir, tmp_path
):
    other = save(tmp_path / "other", **changes)
    with pytest.raises(UserError, match=message):
        train.train(config_of(data_dir, f"init_from={other}"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_another_architecture_is_refused(start, data_dir, tmp_path):
    settings = config_of(data_dir, f"init_from={start}", "model.name=wrn-10-1-relu")
    with pytest.raises(UserError, match="has name cnn-3, this run has wrn-10-1-relu"):
        train.train(settings, str(tmp_path / "run"))


def test_what_is_no_artifact_is_refused(data_dir, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match="is a file; make an artifact of it first: score-jax imp"):
        warm_start.load(config_of(data_dir, f"init_from={tmp_path / 'model.pt'}"))
    with pytest.raises(UserError, match="holds no model.json"):
        warm_start.load(config_of(data_dir, f"init_from={tmp_path / 'none'}"))


def test_the_log_shows_where_a_run_begins_and_what_it_forgets(data_dir):
    settings = config_of(data_dir, "init_from=runs/a", "batchnorm.first_step_momentum=1.0")
    assert 'init_from="runs/a"' in "\n".join(config.describe(settings))
    warnings = "\n".join(config.validate(settings))
    assert "first_step_momentum=1.0 forgets the running statistics" in warnings
    kept = config_of(data_dir, "init_from=runs/a", "batchnorm.first_step_momentum=None")
    assert "forgets" not in "\n".join(config.validate(kept))
