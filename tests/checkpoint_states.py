"""A small train state, each of its numbers a function of the step, for tests of checkpoints."""

from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from score_jax.metrics import Mean
from score_jax.train_state import TrainState

SIZE = 64  # Rows of the kernel: splits over 8 devices.


def layout(devices: int = 4, spec: PartitionSpec | None = None) -> NamedSharding:
    """The first devices, as one axis `fsdp`; without `spec` each holds everything."""
    mesh = jax.make_mesh((devices,), ("fsdp",), devices=jax.devices()[:devices])
    return NamedSharding(mesh, spec or PartitionSpec())


def numbers(step: int, rows: int = SIZE) -> TrainState:
    """The state after `step`, as numpy arrays."""
    random = np.random.default_rng(step)
    params = {"logits": {"kernel": random.normal(size=(rows, 16)).astype(np.float32)}}
    return TrainState(
        step=np.int32(step),
        params=params,
        batch_stats={"batchnorm_0": {"mean": random.normal(size=3).astype(np.float32)}},
        ema_params=jax.tree.map(lambda leaf: leaf / 2, params),
        opt_state=({"trace": jax.tree.map(lambda leaf: -leaf, params)}, ()),
        sums={"train/loss": Mean(np.float32(step), np.float32(1))},
    )


def shardings(tree: TrainState, sharding: NamedSharding) -> TrainState:
    """Matrices are laid out as asked, everything else is replicated."""
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: sharding if np.ndim(leaf) == 2 else whole, tree)


def state_at(step: int, sharding: NamedSharding | None = None, rows: int = SIZE) -> TrainState:
    tree = numbers(step, rows)
    return jax.device_put(tree, shardings(tree, sharding or layout()))


def abstract(sharding: NamedSharding | None = None, rows: int = SIZE) -> TrainState:
    tree = numbers(0, rows)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        shardings(tree, sharding or layout()),
    )


def assert_is(state: TrainState, step: int, rows: int = SIZE) -> None:
    """Bit for bit the state after `step`."""
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), numbers(step, rows))


def folders(path: Path) -> list[int]:
    return sorted(int(entry.name) for entry in path.iterdir() if entry.name.isdigit())
