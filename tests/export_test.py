"""Artifacts: what is written can be read, and what was tampered with is refused."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

from score_jax import artifact as artifacts
from score_jax import checkpoint as checkpoints
from score_jax import export, models, torch_models, workdir
from score_jax.types import UserError
from tests.helpers import digits_config

torch.set_num_threads(1)
MODEL = dict(name="cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.3,), std=(0.4,))
INFO = dict(dataset="digits", eps=0.1, norm="linf", step=7)
FILES = {"model.json", "model.safetensors", "model.stablehlo", "model_robustbench.pt"}


def weights(seed=0):
    params, batch_stats = models.create(**MODEL).init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    # Small enough that no ReLU is dead.
    noisy = jax.tree.map(lambda leaf: leaf + rng.uniform(0, 0.1, leaf.shape), batch_stats)
    return params, jax.tree.map(np.float32, noisy)


def save(folder, seed=0, **changes):
    params, batch_stats = weights(seed)
    arguments = dict(model=MODEL, params=params, batch_stats=batch_stats, info=INFO)
    return export.save_artifact(folder, **{**arguments, **changes})


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture
def copied(original, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    for file in original.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edit(folder, change):
    spec = json.loads((folder / "model.json").read_text())
    change(spec)
    (folder / "model.json").write_text(json.dumps(spec))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).uniform(0, 1, (6, 8, 8, 1)).astype(np.float32)


def test_weights_come_back_bit_for_bit(original):
    loaded = export.load(original)
    params, batch_stats = weights()
    same = jax.tree.map(np.array_equal, (loaded.params, loaded.batch_stats), (params, batch_stats))
    assert jax.tree.all(same)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)


def test_the_run_folder_is_accepted_too(original):
    assert export.load(original.parent).path == original


def test_the_spec_says_what_the_files_are(original):
    spec = export.load(original).spec
    assert {file.name for file in original.iterdir()} == FILES
    assert spec["model"] == json.loads(json.dumps(MODEL))
    assert (spec["dataset"], spec["eps"], spec["norm"], spec["step"]) == ("digits", 0.1, "linf", 7)
    assert spec["num_parameters"] == 56_554
    assert spec["sha256"] == {name: artifacts.sha256(original / name) for name in spec["sha256"]}
    assert set(spec["sha256"]) == FILES - {"model.json"}
    assert spec["versions"]["jax"] == jax.__version__
    assert spec["program"]["readable_until"] > "2026"


def test_the_program_takes_any_batch_and_has_gradients(original, images):
    loaded = export.load(original)
    logits = export.logits_fn(loaded)
    exported = jax.export.deserialize((original / "model.stablehlo").read_bytes())
    variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    for count in (1, 4):
        given = exported.call(variables, images[:count])
        np.testing.assert_allclose(given, logits(images[:count]), atol=1e-6)
    slope = jax.grad(lambda x: exported.call(variables, x)[:, 3].sum())(images)
    expected = jax.grad(lambda x: logits(x)[:, 3].sum())(images)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_the_program_holds_no_weights(original):
    small = (original / "model.stablehlo").stat().st_size
    assert small < (original / "model.safetensors").stat().st_size / 4


def test_the_torch_file_gives_the_same_logits(original, images):
    state = torch.load(original / "model_robustbench.pt", weights_only=True)
    network = torch_models.create(**MODEL)
    network.load_state_dict(state, strict=True)
    theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = export.logits_fn(export.load(original))(images)
    assert np.ptp(theirs) > 1e-2
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_without_torch_the_rest_is_written(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    folder = save(tmp_path / "export")
    assert {file.name for file in folder.iterdir()} == FILES - {"model_robustbench.pt"}
    assert capsys.readouterr().out.count("score-jax[torch]") == 1
    assert "model_robustbench.pt" not in export.load(folder).spec["sha256"]


def test_a_flipped_byte_is_found(copied):
    file = copied / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    expected = json.loads((copied / "model.json").read_text())["sha256"][file.name][:12]
    found = artifacts.sha256(file)[:12]
    with pytest.raises(UserError, match=f"model.safetensors is damaged.*{found}.*{expected}"):
        export.load(copied)


def test_not_a_number_is_refused_even_with_a_fitting_hash(copied):
    file = copied / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    tensors["params/logits/bias"][2] = np.nan
    file.write_bytes(safetensors.numpy.save(tensors))
    edit(copied, lambda spec: spec["sha256"].update({file.name: artifacts.sha256(file)}))
    with pytest.raises(UserError, match="params/logits/bias of .* holds NaN"):
        export.load(copied)


def test_not_a_number_is_not_exported(tmp_path):
    params, _ = weights()
    params["conv_0"]["kernel"] = params["conv_0"]["kernel"].at[0].set(np.inf)
    with pytest.raises(UserError, match="params/conv_0/kernel of the weights holds NaN or inf"):
        save(tmp_path / "export", params=params)
    assert not list(tmp_path.iterdir())


def test_another_class_count_is_refused(copied):
    edit(copied, lambda spec: spec["model"].update(num_classes=7))
    with pytest.raises(UserError, match=r"logits/bias is float32\[10\], the model has .*\[7\]"):
        export.load(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(format="pickle"), "does not describe a score_jax artifact"),
        (lambda spec: spec.update(format_version=2), "format_version 2, this program reads 1"),
        (lambda spec: spec["model"].pop("std"), "lacks model.std"),
        (lambda spec: spec.pop("sha256"), "lacks 'model' or the sha256"),
        (lambda spec: spec["model"].update(name="vit"), "unknown config.model.name 'vit'"),
    ],
)
def test_a_spec_of_something_else_is_refused(copied, change, message):
    edit(copied, change)
    with pytest.raises(UserError, match=message):
        export.load(copied)


def test_a_spec_that_is_not_json_is_refused(copied):
    (copied / "model.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        export.load(copied)


def test_missing_files_are_named(copied, tmp_path):
    with pytest.raises(UserError, match="holds no model.json; run `score-jax export"):
        export.load(tmp_path / "nothing")
    (copied / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors is not readable"):
        export.load(copied)


def test_a_new_export_replaces_the_old_one_whole(copied):
    save(copied, seed=1)
    loaded = export.load(copied)
    np.testing.assert_array_equal(
        loaded.params["conv_0"]["kernel"], weights(1)[0]["conv_0"]["kernel"]
    )
    assert [entry.name for entry in copied.parent.iterdir()] == ["export"]


def test_files_of_others_are_left_alone(copied):
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds 'notes.txt', not written by export"):
        save(copied, seed=1)
    assert (copied / "notes.txt").read_text() == "mine"
    assert export.load(copied).spec["step"] == 7


def test_a_failed_replacement_keeps_the_old_export(copied, monkeypatch):
    rename = Path.rename

    def fail(self, target):
        if self.name == "new":
            raise OSError("disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk is gone"):
        save(copied, seed=1)
    np.testing.assert_array_equal(
        export.load(copied).params["conv_0"]["kernel"], weights(0)[0]["conv_0"]["kernel"]
    )


def test_a_run_is_exported_from_its_checkpoint(tmp_path, monkeypatch):
    config = digits_config()
    run = workdir.open_workdir(tmp_path / "run", config, ["train"])
    params, batch_stats = weights()
    asked, images = [], {"labelled": {"digits": 1310}, "generated": {"made": 40}}
    run.record(training_images=images)

    def load_for_export(where, which, kind):
        asked.append((where.path, which, kind))
        return dict(
            params=params, batch_stats=batch_stats, step=12,
            accuracies={"clean": 0.75, "broken": float("nan")},
            config=json.loads(json.dumps(config.to_dict())),
        )  # fmt: skip

    monkeypatch.setattr(checkpoints, "load_for_export", load_for_export)
    folder = export.export(run.path, checkpoint="last", weights="live")
    assert folder == run.path / "export"
    assert asked == [(run.path, "last", "live")]
    spec = export.load(run.path).spec
    assert (spec["weights"], spec["checkpoint"], spec["step"]) == ("live", "last", 12)
    assert spec["validation"] == {"clean": 0.75}
    assert spec["training_images"] == images
    assert spec["model"]["mean"] == [0.3059]
    assert spec["config"]["seed"] == config.seed


@pytest.mark.parametrize("arguments", [dict(checkpoint="bset"), dict(weights="emma")])
def test_a_mistyped_choice_is_answered(tmp_path, arguments):
    with pytest.raises(UserError, match="did you mean '(best|ema)'"):
        export.export(tmp_path, **arguments)
