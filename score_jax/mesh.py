"""The device mesh and where arrays lie on it: whole, split along the batch, or sharded states."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_jax.types import UserError

# A batch is split over both axes; parameters and what goes with them are sharded along the second
# and whole along the first (hybrid sharding: gathered among near devices, reduced over all).
AXES = ("data", "fsdp")
# Smaller arrays are whole on every device: splitting them saves nothing.
SMALLEST_SHARDED = 4096


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
    def mesh(self) -> Mesh:
        return self.batch.mesh

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    @property
    def fsdp(self) -> int:
        """How many devices share one copy of the state; 1: each has a whole one."""
        return self.mesh.shape["fsdp"]

    @property
    def microbatches(self) -> NamedSharding:
        """Of arrays [microbatches, examples, ...]: each microbatch lies on all devices."""
        return NamedSharding(self.mesh, PartitionSpec(None, AXES))

    def state(self, shapes: Any) -> Any:
        """The shardings of parameters, or of a tree of such arrays: averages, optimizer states.

        Every array is split along its longest axis that the devices of 'fsdp' divide; small ones
        and those without such an axis are whole.

        Args:
          shapes: a tree of whatever has a shape.
        """

        def place(leaf):
            longest = max(
                (axis for axis, size in enumerate(leaf.shape) if size % self.fsdp == 0),
                key=lambda axis: (leaf.shape[axis], axis),
                default=None,
            )
            if self.fsdp == 1 or longest is None or leaf.size < SMALLEST_SHARDED:
                return self.replicated
            return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, "fsdp"))

        return jax.tree.map(place, shapes)

    def whole(self, tree: Any) -> Any:
        """Inside a compiled function: the tree gathered on every device."""
        if self.fsdp == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.replicated)

    def sharded(self, tree: Any) -> Any:
        """Inside a compiled function: the tree, alike on every device, laid out as by `state`.

        First whole, so that the compiler sums gradients over the devices before it splits them,
        and does not compute them split from activations that it would have to gather.
        """
        if self.fsdp == 1:
            return tree
        return jax.lax.with_sharding_constraint(self.whole(tree), self.state(tree))

    def gather(self, tree: Any) -> Any:
        """The tree as `replicated` arrays, for programs that take whole weights, as evaluations do.

        Of every process, or of none: the devices of all of them take part. Nothing is done, and
        nothing copied, where each device has a whole state already.
        """
        return tree if self.fsdp == 1 else self._gather(tree)

    @functools.cached_property
    def _gather(self):
        return jax.jit(lambda tree: tree, out_shardings=self.replicated)

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


def create(devices: Sequence[Any] | None = None, fsdp: int = 1) -> Layout:
    """A mesh over all devices of all processes, or over the given ones.

    Those of one process stand together, in the order of the processes: the part of a batch that a
    process reads is then contiguous, and the same whatever the machine's wires are.

    Args:
      devices: also of a topology that is only described, for compiling.
      fsdp: devices that share one copy of the state.

    Raises:
      UserError: `fsdp` does not divide the devices.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: device.process_index)
    if len(devices) % fsdp:
        divisors = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
        raise UserError(
            f"config.mesh.fsdp={fsdp} must divide the {len(devices)} devices; use one of "
            f"{', '.join(map(str, divisors))}"
        )
    shape = (len(devices) // fsdp, fsdp)
    mesh = Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 2)
    return Layout(
        replicated=NamedSharding(mesh, PartitionSpec()),
        batch=NamedSharding(mesh, PartitionSpec(AXES)),
    )


def has_accelerator() -> bool:
    """Is there a device file of a GPU or a TPU? JAX would tell too, and take the device for it."""
    return any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd", "accel*", "vfio/*"))
