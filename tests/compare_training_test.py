"""Our training step and the PyTorch one of benchmarks/, step by step."""

import dataclasses

import pytest
import torch

from benchmarks import training_parity

torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.parametrize("objective, first_momentum", [("score", None), ("trades", 1.0)])
def test_five_steps_in_float64_are_the_same(objective, first_momentum, monkeypatch):
    real = training_parity.build

    def build(*arguments):
        run = real(*arguments)
        recipe = dataclasses.replace(run.recipe, first_step_momentum=first_momentum)
        return dataclasses.replace(run, recipe=recipe)

    monkeypatch.setattr(training_parity, "build", build)
    rows = training_parity.measure(objective=objective, num_steps=5, batch_size=16, random=True)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["loss_jax"] != rows[4]["loss_jax"]
    for row in rows:
        assert row["loss_jax"] == pytest.approx(row["loss_torch"], abs=1e-9)
        assert max(row["params"], row["ema_params"], row["batch_stats"]) < 1e-9
    lines = list(training_parity.describe(rows))
    assert len(lines) == 6 and lines[1].split()[0] == "0"


def test_another_batchnorm_would_be_seen(monkeypatch):
    """Recording the attack's passes too, as a slip in either program would."""
    trainer = training_parity.TorchTrainer
    monkeypatch.setattr(trainer, "record", lambda self, on: None)
    rows = training_parity.measure(num_steps=2, batch_size=16, random=True)
    assert rows[0]["batch_stats"] > 1e-4
