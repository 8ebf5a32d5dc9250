"""One code path from a laptop to a pod: several processes, other devices, kills. All of it slow."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kill_pod, pod_parity

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

# A run that goes on with another number of devices after each quarter, beside one on one device.
DEVICES = """
import json, sys
import jax
from pathlib import Path
from score_jax import mesh, train, train_loop
from score_jax.data import pipeline
from tests.helpers import digits_config

folder, *overrides = sys.argv[1:]
config = digits_config(*overrides)
order = []
original_batches, original_stop = pipeline.train_batches, train_loop.StopRequest

def batches(config, start, count, **given):
    for number, batch in enumerate(original_batches(config, start, count, **given), start):
        order.append((number, batch["labels"].tolist(), int(batch["images"].sum())))
        yield batch

class StopAfter(original_stop):
    turns = 10**9
    def poll(self):
        StopAfter.turns -= 1
        return StopAfter.turns < 0

pipeline.train_batches, train_loop.StopRequest = batches, StopAfter

def run(name, devices, turns=10**9):
    StopAfter.turns = turns
    order.clear()
    try:
        train.train(config, f"{folder}/{name}", mesh.create(jax.devices()[:devices]))
    except KeyboardInterrupt:
        pass
    return dict((number, rest) for number, *rest in order)

whole, seen = run("whole", 1), {}
for devices in (1, 2, 4, 8):
    seen |= run("pieces", devices, 5 if devices < 8 else 10**9)
assert seen == whole, "another order"
losses = [
    [json.loads(line)["train/loss"] for line in Path(f"{folder}/{name}/metrics.jsonl").open()
     if "train/loss" in line]
    for name in ("whole", "pieces")
]
assert len(losses[0]) == 20 and len(losses[1]) == 20, losses
print(json.dumps([max(abs(a - b) for a, b in zip(*losses)), len(seen)]))
"""

# What two processes put on their devices, gathered again, against the batch of the whole run.
ORDER = """
import sys
import numpy as np
from jax.experimental import multihost_utils
from score_jax import distributed, mesh
from score_jax.data import pipeline
from tests.helpers import digits_config

coordinator, count, index, *overrides = sys.argv[1:]
config = digits_config(*overrides)
with distributed.start(coordinator=coordinator, num_processes=int(count), process_id=int(index)):
    layout = mesh.create(fsdp=config.mesh.fsdp)
    for storage in ("memory", "records", "memmap", "device"):
        config.data.storage = storage
        data = pipeline.open_training_data(config)
        held = pipeline.place_resident(data, layout) if storage == "device" else None
        for step, local in enumerate(pipeline.train_batches(config, 0, 8)):
            assert len(local["generated"]) == config.data.batch_size // int(count)
            placed = layout.put_batch(local)
            batch = held.batch(placed) if held else placed
            batch = multihost_utils.process_allgather(batch, tiled=True)
            whole = pipeline.batch_at(config, step)
            for name in whole:
                np.testing.assert_array_equal(batch[name], whole[name])
    print("the same order")
"""


def python(script: str, *arguments: str, devices: int) -> subprocess.Popen:
    environment = dict(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices), PYTHONPATH=str(ROOT))
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, env=os.environ | environment,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_run_goes_on_with_other_numbers_of_devices(data_dir, tmp_path):
    overrides = (
        f"data.dir={data_dir}", "num_epochs=1", "steps_per_epoch=20", "data.batch_size=64",
        "attack.statistics=running", "log.every_steps=1", "log.attack_share=false",
    )  # fmt: skip
    run = python(DEVICES, str(tmp_path), *overrides, devices=8)
    out, errors = run.communicate(timeout=400)
    assert run.returncode == 0, errors[-3000:]
    difference, batches = json.loads(out.splitlines()[-1])
    assert difference < 1e-5 and batches == 20


@pytest.mark.parametrize("count, fsdp", [(2, 1), (4, 1), (2, 2)])
def test_the_order_of_the_data_is_the_same_with_any_number_of_processes(count, fsdp, data_dir):
    coordinator = f"127.0.0.1:{kill_pod.free_port()}"
    overrides = (f"data.dir={data_dir}", f"mesh.fsdp={fsdp}")
    processes = [
        python(ORDER, coordinator, str(count), str(index), *overrides, devices=2)
        for index in range(count)
    ]
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0 and "the same order" in out, errors[-3000:]


def test_every_form_of_a_run_ends_alike(data_dir, tmp_path):
    """Statistics of groups, each in one device: no sum over the batch takes another order."""
    options = argparse.Namespace(
        recipe="configs/digits_score.py:smoke", data_dir=data_dir, steps=20,
        override=["attack.statistics=running", "batchnorm.groups=4"],
    )  # fmt: skip
    pod_parity.train("1", tmp_path / "1", options)
    one, one_losses = pod_parity.end_of(tmp_path / "1")
    for form in ("2", "4", "fsdp"):
        pod_parity.train(form, tmp_path / form, options)
        other, losses = pod_parity.end_of(tmp_path / form)
        assert max(abs(a - b) for a, b in zip(losses, one_losses, strict=True)) < 1e-5, form
        assert max(abs(other[name] - one[name]).max() for name in one) < 1e-5, form


def test_a_killed_process_ends_the_run_which_goes_on_with_the_same_bits(data_dir, tmp_path):
    kill_pod.Pod(tmp_path / "whole", data_dir, 2).finish()
    for victim, step in ((1, 8), (0, 40)):
        pod = kill_pod.Pod(tmp_path / "run", data_dir, 2)
        seconds = kill_pod.kill_one(pod, victim, lambda: kill_pod.steps(tmp_path / "run") >= step)  # noqa: B023
        assert seconds is not None
    kill_pod.Pod(tmp_path / "run", data_dir, 2).finish()
    assert kill_pod.state_of(tmp_path / "run") == kill_pod.state_of(tmp_path / "whole")
