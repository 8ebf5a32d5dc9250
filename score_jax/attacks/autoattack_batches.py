"""Batches of chosen images through compiled programs, over all devices, in few sizes."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core
import numpy as np
from jax.tree_util import Partial

from score_jax import mesh
from score_jax.types import Array, UserError

SMALLEST_RUNG = 16


def ladder(batch_size: int, num_devices: int) -> tuple[int, ...]:
    """The sizes that batches are filled up to, ascending: batch_size, its half, its quarter, ...

    Each is a multiple of the number of devices, and each may cost a compilation of every attack.
    """
    rungs, size = set(), batch_size
    while True:
        rungs.add(-(-size // num_devices) * num_devices)
        if size <= SMALLEST_RUNG:
            return tuple(sorted(rungs))
        size = -(-size // 2)


def with_weights(logits_fn: Callable[[Array], Array], shape: tuple[int, ...]) -> Partial:
    """logits_fn on images of one shape, with the arrays that it closes over as arguments.

    As constants they would be compiled into every program.

    Raises:
      UserError: logits_fn cannot be traced for this shape.
    """
    closed, _ = traced(logits_fn, shape)
    # Compiled programs keep `apply` for ever: it must not hold the arrays.
    jaxpr = closed.jaxpr

    def apply(constants, images):
        closed = jax.extend.core.ClosedJaxpr(jaxpr, constants)
        return jax.extend.core.jaxpr_as_fun(closed)(images)[0]

    return Partial(apply, closed.consts)


def traced(logits_fn: Callable[[Array], Array], shape: tuple[int, ...]) -> tuple[Any, Any]:
    """(jaxpr of logits_fn on images f32 of a shape, the shapes that it returns).

    Raises:
      UserError: it cannot be traced.
    """
    if isinstance(logits_fn, jax.stages.Wrapped):
        # A jitted function would keep the arrays that it closes over to itself.
        logits_fn = getattr(logits_fn, "__wrapped__", logits_fn)
    try:
        example = jax.ShapeDtypeStruct(shape, np.float32)
        return jax.make_jaxpr(logits_fn, return_shape=True)(example)
    except Exception as error:  # Of any kind: the function is the caller's.
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"logits_fn is no function that jax.jit can trace for {shape[0]} images: "
            f"{type(error).__name__}: {reason} For PyTorch models there is score-jax autoattack."
        ) from error


class Batches:
    """The images f32[n, h, w, c] and labels i32[n] of one evaluation, and how to compute on some.

    Every process holds all of them; batches are split over the devices of all processes.
    """

    def __init__(
        self,
        logits_fn: Callable[[Array], Array],
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
    ) -> None:
        """logits_fn: a `Partial` travels as it is: a call with other weights compiles nothing."""
        self.layout = mesh.create()
        self.images, self.labels = images, labels
        self._logits_fn, self._batch_size = logits_fn, batch_size
        self.rungs = ladder(min(batch_size, len(images)), self.layout.num_devices)
        self.largest = self.rungs[-1]
        self._placed: dict[int, Partial] = {}
        self._weights: dict[int, tuple[Any, Array]] = {}

    def fit(self, count: int) -> None:
        """Makes the sizes those of a new program over `count` images, in equal batches.

        Those of a `Partial` stay, so that they come again in the next call.
        """
        if not isinstance(self._logits_fn, Partial):
            size = -(-count // -(-count // self._batch_size))
            self.rungs = ladder(size, self.layout.num_devices)

    def run(
        self, program: Callable[..., Any], indices: np.ndarray, *scalars: Any,
        given: tuple[np.ndarray, ...] = (), largest: bool = False,
    ) -> Any:  # fmt: skip
        """What `program` returns for the images `indices`: a tree of arrays [len(indices), ...].

        Args:
          program: (logits_fn, images, labels, indices i32[b], *given, *scalars) -> a tree of
            arrays [b, ...]; of `compile`.
          scalars: the same for every batch.
          given: further arrays [n, ...] over all images.
          largest: fill up to the first and largest size, so that one program answers for every
            image.
        """
        scalars = jax.device_put(scalars, self.layout.replicated)
        results = []
        for part, filled in self._parts(indices, largest):
            batch = (self.images, self.labels, np.arange(len(self.labels), dtype=np.int32), *given)
            placed = self.layout.put_whole_batch([array[filled] for array in batch])
            result = program(self._on_devices(len(filled)), *placed, *scalars)
            results.append(_first(len(part), result))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *results)

    def logits(self, indices: np.ndarray, images: np.ndarray | None = None) -> np.ndarray:
        """f[len(indices), k] of the clean images, or of others in their places, [n, h, w, c]."""
        given = (self.images if images is None else images,)
        return self.run(self.compile(_logits), indices, given=given, largest=True)

    def logits_of_few(self) -> np.ndarray:
        """f[m, k] of the first images in the smallest batch."""
        few = np.arange(min(self.rungs[0], len(self.labels)))
        return self.run(self.compile(_logits), few, given=(self.images,))

    def compile(self, program: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        """The jitted program with some arguments fixed: the same one for the same arguments."""
        return _compiled(program, self.layout, tuple(sorted(settings.items())))

    def _parts(self, indices, largest) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(the indices that count, those of the batch), the latter filled up with copies."""
        rungs = (self.largest,) if largest else self.rungs
        for start in range(0, len(indices), rungs[-1]):
            part = indices[start : start + rungs[-1]]
            yield part, np.resize(part, next(rung for rung in rungs if rung >= len(part)))

    def _on_devices(self, rung: int) -> Partial:
        if rung not in self._placed:
            logits_fn = self._logits_fn
            if not isinstance(logits_fn, Partial):
                logits_fn = with_weights(logits_fn, (rung, *self.images.shape[1:]))
            self._placed[rung] = jax.tree.map(self._place, logits_fn)
        return self._placed[rung]

    def _place(self, weight: Any) -> Array:
        # Once for all sizes. The original is kept, so that no other array takes its id.
        if id(weight) not in self._weights:
            self._weights[id(weight)] = weight, jax.device_put(weight, self.layout.replicated)
        return self._weights[id(weight)][1]


def _first(count: int, result: Any) -> Any:
    return jax.tree.map(lambda array: np.asarray(array)[:count], result)


def _logits(logits_fn, images, labels, indices, shown):
    del images, labels, indices
    return logits_fn(shown)


@functools.lru_cache(maxsize=16)
def _compiled(program, layout, settings):
    # Replicated results: every process reads them whole.
    return jax.jit(functools.partial(program, **dict(settings)), out_shardings=layout.replicated)
