"""The checkpoints of a run as models in memory are what exporting them one by one would give."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from score_jax import checkpoint, export, export_series, models, workdir
from score_jax import config as config_module
from score_jax.types import UserError
from tests.checkpoint_states import numbers
from tests.helpers import digits_config

MODEL = dict(name="cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.0,), std=(1.0,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The best at step 2, the last at step 3."""
    config = digits_config()
    with config.unlocked():
        config.model.name = "cnn-3"
    folder = tmp_path_factory.mktemp("series") / "run"
    run = workdir.open_workdir(folder, config, ["test"])
    saved = checkpoint.Checkpoints(run, config_module.to_dict(config), keep=2)
    for step in (2, 3):
        params, batch_stats = models.create(**MODEL).init(jax.random.key(step))
        halves = jax.tree.map(lambda leaf: leaf / 2, params)
        state = dataclasses.replace(
            jax.device_put(numbers(step)), params=params, ema_params=halves, batch_stats=batch_stats
        )
        if step == 2:
            saved.save_best(state, {"val/clean_accuracy": 0.5})
        saved.save(state, checkpoint.Best(0.5, 2), is_validated=True)
    saved.close()
    return run


@pytest.mark.parametrize("weights", ["ema", "live"])
def test_each_is_what_export_would_write(run, weights, monkeypatch):
    monkeypatch.setattr(export, "program", lambda *_: b"")  # Takes long to compile.
    monkeypatch.setattr(export, "_write_torch", lambda *_: False)
    found = list(export_series.artifacts(run.path, "all", weights))
    assert [artifact.spec["checkpoint"] for artifact in found] == ["step 2 (best)", "step 3 (last)"]
    assert found[0].classifier is found[1].classifier  # Compiled once for all.
    for artifact, which in zip(found, ("best", "last"), strict=True):
        folder = export.export(run.path, which, weights)
        exported = export.load(folder)
        same = jax.tree.map(np.array_equal, artifact.params, exported.params)
        assert jax.tree.all(same)
        spec = json.loads((folder / "model.json").read_text())
        for field in ("dataset", "eps", "norm", "step", "weights", "validation", "model"):
            assert artifact.spec[field] == spec[field], field
        file = "model.safetensors"
        assert artifact.spec["sha256"][file] == spec["sha256"][file]


def test_a_choice_that_is_not_there_is_refused(run):
    with pytest.raises(UserError, match="--checkpoints=7: '7' is not there"):
        next(export_series.artifacts(run.path, "7"))
