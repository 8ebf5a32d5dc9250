"""The training job: resuming, stopping, devices, compilations, selection."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from score_jax import checkpoint, mesh, recipes, train, train_state, train_step, workdir
from score_jax.data import pipeline
from score_jax.types import UserError
from tests.helpers import digits_config

REPOSITORY = Path(__file__).parent.parent
# Small and quick, yet with several checkpoints, validations and log lines.
OVERRIDES = (
    "num_epochs=4", "steps_per_epoch=6", "data.batch_size=32", "log.every_steps=4",
    "log.attack_share=false", "validation.attack.num_steps=2",
)  # fmt: skip


def command(folder: Path, data_dir: str) -> list[str]:
    flags = [f"--config.{override}" for override in OVERRIDES]
    return [
        sys.executable, "-m", "score_jax", "train", "--config=configs/digits_score.py:smoke",
        f"--workdir={folder}", f"--data_dir={data_dir}", *flags,
    ]  # fmt: skip


def start(folder: Path, data_dir: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(folder, data_dir), cwd=REPOSITORY, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip


def finish(folder: Path, data_dir: str) -> None:
    process = start(folder, data_dir)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def metric_lines(folder: Path) -> list[dict]:
    """The lines of a run, without what clocks say."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "time" and "perf/" not in name}
        for line in lines
    ]


def final_state(folder: Path):
    """Every array of the last checkpoint, and what is saved about it."""
    run = recipes.build(workdir.find_workdir(folder).read_config())
    checkpoints = checkpoint.Checkpoints(workdir.find_workdir(folder), {}, keep=2)
    restored = checkpoints.restore(train_state.abstract(run.recipe, mesh.create()))
    checkpoints.close()
    return jax.device_get(restored.state), restored.best


def assert_same_run(folder: Path, other: Path) -> None:
    (state, best), (other_state, other_best) = final_state(folder), final_state(other)
    assert int(state.step) == 24 and best == other_best
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert metric_lines(folder) == metric_lines(other)


@pytest.fixture(scope="session")
def uninterrupted(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(folder, data_dir)
    return folder


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            if any(line["step"] >= step for line in metric_lines(folder)):
                return
        except (FileNotFoundError, ValueError):
            pass  # Not begun, or in the middle of a line.
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError(f"step {step} was never reached")


@pytest.mark.parametrize(
    "steps, number",
    [
        pytest.param((4, 16), signal.SIGKILL, id="kill", marks=pytest.mark.slow),
        pytest.param((8,), signal.SIGINT, id="ctrl-c"),
    ],
)
def test_interrupted_run_ends_bitwise_like_an_uninterrupted_one(
    steps, number, uninterrupted, data_dir, tmp_path
):
    folder = tmp_path / "run"
    for step in steps:
        process = start(folder, data_dir)
        wait_for_step(folder, step, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        if number == signal.SIGINT and process.returncode != 0:
            assert process.returncode == 130
            assert "stopped and saved at step" in errors and "Traceback" not in errors
    finish(folder, data_dir)
    assert_same_run(folder, uninterrupted)


def test_finished_run_does_nothing_more(uninterrupted, data_dir):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    finish(uninterrupted, data_dir)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_run_folder_tells_what_happened(uninterrupted):
    lines = metric_lines(uninterrupted)
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == [4, 8, 12, 16, 20, 24]
    validations = [line for line in lines if "val/pgd2_accuracy" in line]
    assert [line["step"] for line in validations] == [6, 12, 18, 24]
    expected = {"train/loss", "train/clean_accuracy", "train/adv_accuracy", "train/learning_rate"}
    assert expected <= lines[0].keys()
    assert lines[0]["data/labelled_epochs"] == pytest.approx(4 * 32 / 1310)
    run = json.loads((uninterrupted / "run.json").read_text())
    assert [len(digest) for digest in run["data_fingerprints"].values()] == [64]
    assert run["training_images"] == {"labelled": {"digits": 1310}, "generated": {}}
    assert run["history"][0]["outcome"] == "finished" and run["history"][0]["step"] == 24


def test_best_is_the_latest_of_the_best_validations(uninterrupted):
    values = [(line["val/pgd2_accuracy"], line["step"]) for line in metric_lines(uninterrupted)
              if "val/pgd2_accuracy" in line]  # fmt: skip
    score, step = max(values)
    _, best = final_state(uninterrupted)
    assert (best.score, best.step) == (pytest.approx(score), step)
    saved = checkpoint.load_for_export(workdir.find_workdir(uninterrupted), "best", "ema")
    assert saved["step"] == step
    assert saved["accuracies"]["val/pgd2_accuracy"] == pytest.approx(score)
    live = checkpoint.load_for_export(workdir.find_workdir(uninterrupted), "best", "live")
    assert np.any(saved["params"]["logits"]["kernel"] != live["params"]["logits"]["kernel"])


def test_whole_run_traces_the_step_once(data_dir, tmp_path, monkeypatch):
    traced = []
    original = train_step.train_step

    def counted(*arguments):
        traced.append(1)
        return original(*arguments)

    monkeypatch.setattr(train_step, "train_step", counted)
    opened, open_data = [], pipeline.open_training_data
    monkeypatch.setattr(
        pipeline, "open_training_data", lambda config: opened.append(1) or open_data(config)
    )
    config = digits_config(*OVERRIDES, f"data.dir={data_dir}")
    facts = train.train(config, str(tmp_path / "run"))
    assert facts["steps"] == 24 and len(traced) == len(opened) == 1


def test_state_is_donated(data_dir):
    config = digits_config(*OVERRIDES, f"data.dir={data_dir}")
    run, layout = recipes.build(config), mesh.create()
    key = jax.device_put(jax.random.key(0), layout.replicated)
    state = train_state.create(run.recipe, key, layout)
    batch = next(iter(pipeline.train_batches(config, 0, 1)))
    local = layout.put_batch({name: batch[name] for name in ("images", "labels", "generated")})
    train_step.compile_step(run.recipe, layout)(state, local, key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_loss_that_is_no_number_ends_the_run_and_names_the_steps(data_dir, tmp_path):
    config = digits_config(
        *OVERRIDES, f"data.dir={data_dir}", "schedule.learning_rate=1e30", "log.every_steps=2"
    )
    broken = r"the (update|gradient|loss) .* in step \d+ .*; there is no checkpoint yet; in a new"
    with pytest.raises(UserError, match=broken):
        train.train(config, str(tmp_path / "run"))
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not list((tmp_path / "run" / "checkpoints_best").iterdir())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in lines and "Infinity" not in lines


def test_weights_that_are_no_numbers_are_never_saved(data_dir, tmp_path):
    """Also where no line of the log falls between the step that broke them and the save."""
    config = digits_config(
        *OVERRIDES, f"data.dir={data_dir}", "schedule.learning_rate=1e30", "log.every_steps=100"
    )
    with pytest.raises(UserError, match=r" in step [0-5] .*; there is no checkpoint yet; in a new"):
        train.train(config, str(tmp_path / "run"))
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not list((tmp_path / "run" / "checkpoints_best").iterdir())


def test_natural_training_has_no_attack_and_no_adversarial_metrics(data_dir, tmp_path):
    from score_jax import config as config_lib

    config = config_lib.load(
        "configs/digits_natural.py:smoke", (*OVERRIDES, f"data.dir={data_dir}")
    )
    train.train(config, str(tmp_path / "run"))
    lines = metric_lines(tmp_path / "run")
    assert not any("train/adv_accuracy" in line for line in lines)
    assert any("val/pgd2_accuracy" in line for line in lines)


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.batch_size=30", "data.batch_size=30 must be divisible by the 4 devices; use 28"),
        ("model.name=cnn-4", "unknown config.model.name 'cnn-4'"),
        ("objective.name=skore", "unknown config.objective.name"),
        ("data.name=digit", "did you mean 'digits'"),
        ("objective.smoothing=unifrom", "did you mean 'uniform'"),
        ("objective.label_smoothing=1.5", r"label_smoothing=1.5 must lie in \[0, 1\)"),
        ("batchnorm.update_order=()", "records none of the forward passes of objective 'score'"),
        ("data.dir=/nowhere", "not prepared in /nowhere"),
        ("data.generated=cifar10_ddpm", "holds no generated images for data.name=digits"),
    ],
)
def test_mistakes_write_nothing(override, message, data_dir, tmp_path):
    config = digits_config(*OVERRIDES, f"data.dir={data_dir}", override)
    with pytest.raises(UserError, match=message):
        train.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
