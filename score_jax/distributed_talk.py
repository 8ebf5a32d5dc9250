"""What processes tell each other: through the coordination service, without their devices.

A step may be running on the devices: a collective beside it can meet the step's own ones in another
order in another process, and then none of them ends.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax.distributed_peers import GOES_ON, PeerFailure

LOGGER = logging.getLogger("score_jax.cluster")
# Keys of the coordination service: what was said in a round, and the last round that a process has
# read.
SAID, READ = "score_jax/said", "score_jax/read"
TELL_SECONDS = 30.0
SLICE_SECONDS = 5.0  # Ctrl-C is heard in between.
CLEAR_ROUNDS = 64
_BLOCK = 1024  # Text goes round in arrays of few sizes, so that few programs are compiled.


class Talk:
    """The rounds of one process: each comes to the same ones in the same order, on one thread.

    Args:
      client: of the coordination service, see `distributed_native.client`.
      process, count: this process, of how many.
    """

    def __init__(self, client: Any, process: int, count: int):
        self._client, self._process, self._count = client, process, count
        self._round = self._cleared = 0

    def from_primary(self, value: Any, what: str, seconds: float) -> Any:
        """The value of process 0; see `distributed.from_primary`."""
        key = self._begin()
        if self._process == 0:
            self._client.key_value_set(f"{key}/0", json.dumps(value))
        text = self._wait(f"{key}/0", what, seconds, lambda: [0])
        self._clear()
        return json.loads(text)

    def from_all(self, value: Any, what: str, seconds: float) -> list[Any]:
        """The values of all processes; see `distributed.from_all`."""
        key = self._begin()

        def missing() -> list[int]:
            here = {name.rpartition("/")[2] for name, _ in self._client.key_value_dir_get(key)}
            return [number for number in range(self._count) if str(number) not in here] or [0]

        self._client.key_value_set(f"{key}/{self._process}", json.dumps(value))
        if self._process == 0:  # It collects: of each process one question, however many there are.
            begin = time.monotonic()
            texts = [
                self._wait(f"{key}/{number}", what, seconds, missing, begin)
                for number in range(self._count)
            ]
            self._client.key_value_set(f"{key}/all", json.dumps(texts))
        else:
            texts = json.loads(self._wait(f"{key}/all", what, seconds, missing))
        self._clear()
        return [json.loads(text) for text in texts]

    def _begin(self) -> str:
        self._round += 1
        return f"{SAID}/{self._round}"

    def _wait(
        self, key: str, what: str, seconds: float, missing: Callable[[], list[int]],
        begin: float | None = None,
    ) -> str:  # fmt: skip
        begin = told = time.monotonic() if begin is None else begin
        pause = 1.0
        while True:
            left = begin + seconds - time.monotonic()
            try:
                milliseconds = int(1000 * max(0.05, min(pause, left)))
                return self._client.blocking_key_value_get(key, milliseconds)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            pause, now = min(2 * pause, SLICE_SECONDS), time.monotonic()
            if now - begin >= seconds:
                late, reason = missing(), f"{seconds:.0f} s"
                raise PeerFailure(
                    f"process {self._process} of {self._count}: {name(late)} did not {what} "
                    f"({reason}); {GOES_ON}",
                    late, f"it did not {what} for {reason}",
                )  # fmt: skip
            if now - told >= TELL_SECONDS:
                told = now
                LOGGER.info(
                    "process %d of %d: waiting for %s to %s (%.0f s)",
                    self._process, self._count, name(missing()), what, now - begin,
                )  # fmt: skip

    def _clear(self) -> None:
        """Now and then: process 0 removes what all have read."""
        if self._round % CLEAR_ROUNDS:
            return
        self._client.key_value_set(
            f"{READ}/{self._process}", str(self._round), allow_overwrite=True
        )
        if self._process == 0:
            read = [int(number) for _, number in self._client.key_value_dir_get(READ)]
            done = min(read) if len(read) == self._count else 0
            for number in range(self._cleared + 1, done + 1):
                self._client.key_value_delete(f"{SAID}/{number}")
            self._cleared = max(self._cleared, done)


def name(processes: list[int]) -> str:
    """Processes in a sentence; of many the first ones."""
    more = f" and {len(processes) - 8} more" if len(processes) > 8 else ""
    return f"process {', '.join(map(str, processes[:8]))}{more}"


def open_links() -> None:
    """The first collectives, at a moment when all processes are here.

    On CPUs JAX opens the links of a set of devices in its first collective, and waits 30 seconds
    for the others: one that is still compiling would be taken for lost.
    """
    if jax.default_backend() != "cpu":
        return
    multihost_utils.process_allgather(np.int32(0))
    devices = jax.devices()
    mesh = Mesh(np.array(devices), "all")
    ones = jax.make_array_from_callback(
        (len(devices),), NamedSharding(mesh, PartitionSpec("all")), lambda _: np.ones(1, np.int32)
    )
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(ones)
    assert int(total) == len(devices)


def by_devices(value: Any) -> list[Any]:
    """The values of all processes, where JAX shows no client of the service."""
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    block = np.zeros(-(-int(sizes.max()) // _BLOCK) * _BLOCK, np.uint8)
    block[: len(data)] = data
    blocks = multihost_utils.process_allgather(block)
    return [json.loads(part[:size].tobytes()) for part, size in zip(blocks, sizes, strict=True)]
