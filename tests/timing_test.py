"""The shares of a run's time add up, whatever the clock says."""

import jax.numpy as jnp
import pytest

from score_jax import timing


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    return now


def wait(clock, seconds):
    clock[0] += seconds


def test_shares_of_an_interval(clock):
    timer = timing.Timer(batch_size=10)

    def attack():
        wait(clock, 3.0)
        return jnp.zeros(())

    timer.measure_attack(attack)
    assert timer.wants_first_step
    timer.first_step(4.0)
    assert not timer.wants_first_step
    timer.start(5)
    with timer.measuring("input"):
        wait(clock, 1.0)
    with timer.measuring("validation"):
        wait(clock, 2.0)
    with timer.measuring("checkpoint"):
        wait(clock, 1.0)
    wait(clock, 4.0)
    values = timer.interval(9)
    assert values == pytest.approx(
        {
            "perf/images_per_second": 4 * 10 / 8,
            "perf/input_fraction": 1 / 8,
            "perf/validation_fraction": 2 / 8,
            "perf/checkpoint_fraction": 1 / 8,
            "perf/attack_fraction": 0.75 * 0.5,
            "perf/update_fraction": 0.25 * 0.5,
        }
    )
    wait(clock, 2.0)
    assert timer.interval(10)["perf/input_fraction"] == 0


def test_without_an_attack_all_computing_is_update(clock):
    timer = timing.Timer(batch_size=10)
    timer.start(0)
    wait(clock, 2.0)
    values = timer.interval(4)
    assert not timer.wants_first_step
    assert "perf/attack_fraction" not in values and values["perf/update_fraction"] == 1
