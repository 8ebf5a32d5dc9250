"""Training from every storage: the same bits, and a run may go on from another."""

import threading
import weakref

import jax
import numpy as np
import pytest

from score_jax import mesh, recipes, train, train_loop
from score_jax.data import pipeline, sources
from score_jax.data.waiting import Waiting
from score_jax.stopping import StopRequest
from tests.helpers import digits_config
from tests.train_test import OVERRIDES, assert_same_run


class StopAfter(StopRequest):
    """Asks for a stop after so many turns."""

    turns = 10**9
    held = ()

    def poll(self) -> bool:
        assert not any(source() for source in self.held)  # On the devices alone.
        StopAfter.turns -= 1
        return StopAfter.turns < 0


@pytest.mark.slow
def test_a_run_goes_on_from_another_storage_with_the_same_bits(data_dir, tmp_path, monkeypatch):
    placed, place = [], pipeline.place_resident

    def placing(data, layout):
        placed.append(weakref.ref(data.sources[0]))
        return place(data, layout)

    config = digits_config(*OVERRIDES, f"data.dir={data_dir}", "data.storage=memory")
    assert train.train(config, str(tmp_path / "whole"))["steps"] == 24
    monkeypatch.setattr(train_loop, "StopRequest", StopAfter)
    monkeypatch.setattr(pipeline, "place_resident", placing)
    monkeypatch.setattr(StopAfter, "held", placed)
    for storage, turns in (("records", 8), ("device", 10**9)):
        config.data.storage = storage
        StopAfter.turns = turns
        try:
            train.train(config, str(tmp_path / "pieces"))
        except KeyboardInterrupt:
            assert storage == "records"
    assert len(placed) == 1
    assert_same_run(tmp_path / "whole", tmp_path / "pieces")


@pytest.mark.parametrize("storage", ["memory", "device"])
def test_batches_are_on_the_devices_before_they_are_asked_for(storage, data_dir, monkeypatch):
    config = digits_config(*OVERRIDES, f"data.dir={data_dir}", f"data.storage={storage}")
    layout = mesh.create()
    loop = train_loop.Loop(
        config, recipes.build(config), layout, place=None, checkpoints=None, watchdog=None,
        keys=[None, None], data=pipeline.open_training_data(config),
    )  # fmt: skip
    monkeypatch.delattr(sources, "train_source")  # Opened once, and held once.
    placed, is_placed = [], threading.Event()
    put = layout.put_batch

    def put_batch(local):
        placed.append(threading.current_thread().name)
        if len(placed) == 2:
            is_placed.set()
        return put(local)

    object.__setattr__(layout, "put_batch", put_batch)
    batches = Waiting(loop._batches(0))
    try:
        assert is_placed.wait(30)  # Nobody has taken one.
        batch = batches.take(lambda: False)
    finally:
        assert batches.close()
    assert set(placed) == {"batches"}
    assert all(isinstance(value, jax.Array) for value in batch.values())
    assert {value.sharding for value in batch.values()} == {layout.batch}
    # Of the device's storage only rows are sent.
    assert ("rows" in batch) == (storage == "device")
    assert np.asarray(batch["generated"]).shape == (32,)
