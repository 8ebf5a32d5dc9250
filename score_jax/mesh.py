"""The device mesh and the two layouts in use: replicated, and split along the batch."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from score_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays live.

    Attributes:
      replicated: on every device, whole.
      batch: split along the first axis.
    """

    replicated: NamedSharding
    batch: NamedSharding

    @property
    def num_devices(self) -> int:
        return self.batch.mesh.size

    def put_batch(self, local: Any) -> Any:
        """Global arrays from this process's part of a batch (a tree of numpy arrays)."""
        return jax.tree.map(
            lambda part: jax.make_array_from_process_local_data(self.batch, np.asarray(part)),
            local,
        )

    def put_whole_batch(self, whole: Any) -> Any:
        """Global arrays from a batch that every process holds whole (a tree of numpy arrays)."""
        return jax.tree.map(
            lambda part: jax.make_array_from_callback(
                part.shape, self.batch, lambda index: part[index]
            ),
            whole,
        )

    def check_divides(self, batch_size: int, field: str) -> None:
        """Raises UserError where the devices cannot share a batch equally."""
        devices = self.num_devices
        if batch_size % devices:
            low = batch_size // devices * devices
            use = f"{low} or {low + devices}" if low else f"{devices}"
            raise UserError(
                f"{field}={batch_size} must be divisible by the {devices} devices; use {use}"
            )


def create(devices: list[jax.Device] | None = None) -> Layout:
    """A one-axis mesh, 'data', over all devices of all processes (or over the given ones)."""
    devices = devices or jax.devices()
    mesh = jax.make_mesh(
        (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )  # fmt: skip
    return Layout(
        replicated=NamedSharding(mesh, PartitionSpec()),
        batch=NamedSharding(mesh, PartitionSpec("data")),
    )


def has_accelerator() -> bool:
    """Is there a device file of a GPU or a TPU? JAX would tell too, and take the device for it."""
    return any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd", "accel*", "vfio/*"))
