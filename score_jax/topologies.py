"""Chips, what they can do at the most, and TPU slices that are only described, for compiling.

Peaks are the makers' own numbers, for dense products. Sources:
  TPU: https://cloud.google.com/tpu/docs/v5e (and v3, v4, v5p, v6e): compute, memory bandwidth,
    half of the 'bidirectional inter-chip interconnect'; of v3 the 'all-reduce bandwidth per Pod',
    340 TB/s over 1024 chips. Clocks follow from the peak and the number of matrix units.
    Memory is what libtpu 0.0.42 lets a program have: the limit that it names when one is too large.
  A torus carries a ring both ways in every axis; about a microsecond a hop:
    https://jax-ml.github.io/scaling-book/tpus
  GPU: NVIDIA's data sheets of A100, H100, H200, L4, L40S, RTX 3090, RTX 4090, without sparsity.
"""

import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from score_jax.types import UserError, lookup, nearest

T, G = 1e12, 1e9
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What one device of JAX can do at the most; the two cores of a chip may be two devices.

    Attributes:
      kind: as JAX calls it.
      memory: bytes that a program may have; 0: unknown.
      bandwidth: of that memory, bytes/s.
      peaks: FLOP/s of products by the type of the factors and the precision of the program.
      link: bytes/s to all its neighbours together, one way; 0: unknown.
      latency: seconds that a collective takes at the least: a hop, or on GPUs the whole of it.
      clock: Hz, for the cycles that a TPU's compiler estimates; 0: it does not.
    """

    kind: str
    memory: float
    bandwidth: float
    peaks: Mapping[tuple[str, str], float]
    link: float = 0.0
    latency: float = 0.0
    clock: float = 0.0

    def peak(self, dtype: str, precision: str) -> float:
        """FLOP/s of such products; those of a type that is not known run as float32's."""
        return self.peaks.get((dtype, precision)) or self.peaks["f32", precision]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Connected devices.

    Attributes:
      name: such as 'v5e:4x4', or what the devices here are.
      sides: chips along each axis of the mesh of wires; empty: all wires are alike.
      has_rings: along each axis, whether the last chip is connected with the first.
      num_chips: chips; there may be more devices.
    """

    name: str
    chip: Chip
    num_chips: int
    sides: tuple[int, ...] = ()
    has_rings: tuple[bool, ...] = ()

    def seconds(self, kind: str, size: float, group: int) -> float:
        """A lower bound of the time of a collective over so many devices, each with `size` bytes.

        Without the wire between last and first, half of the bandwidth of an axis counts.
        """
        if not self.chip.link or group < 2:
            return 0.0
        share, hops = 1.0, 1
        if self.sides:
            real = [axis for axis, side in enumerate(self.sides) if side > 1]
            halves = [1.0 if self.has_rings[axis] else 0.5 for axis in real]
            if group < math.prod(self.sides):  # Neighbours along one axis.
                share, hops = min(halves) / len(self.sides), group // 2
            else:
                share = sum(halves) / len(self.sides)
                hops = sum(
                    self.sides[axis] // 2 if self.has_rings[axis] else self.sides[axis] - 1
                    for axis in real
                )
        phases = 2 if kind == "all-reduce" else 1
        moved = size if kind == "collective-permute" else size * (group - 1) / group
        return phases * (moved / (self.chip.link * share) + hops * self.chip.latency)


def _tpu(kind: str, gibibytes: float, bandwidth: float, bf16: float, link: float, clock: float):
    """A TPU multiplies bfloat16; float32 is cut in 3 parts, whose products are 6 or 3 passes."""
    passes = {"default": 1, "high": 3, "highest": 6}
    peaks = {("f32", precision): bf16 * T / count for precision, count in passes.items()}
    peaks |= {("bf16", precision): bf16 * T for precision in passes}
    return Chip(
        kind=kind, memory=gibibytes * _GIB, bandwidth=bandwidth * G, peaks=peaks, link=link * G,
        latency=1e-6, clock=clock * G,
    )  # fmt: skip


def _gpu(kind: str, gigabytes: float, bandwidth: float, bf16: float, tf32: float, f32: float, link):
    peaks = {("f32", "default"): tf32 * T, ("f32", "high"): f32 * T, ("f32", "highest"): f32 * T}
    peaks |= {(half, p): bf16 * T for half in ("bf16", "f16") for p in ("default", "high")}
    peaks |= {(half, "highest"): bf16 * T for half in ("bf16", "f16")}
    return Chip(
        kind=kind, memory=gigabytes * G, bandwidth=bandwidth * G, peaks=peaks, link=link * G,
        latency=10e-6,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Generation:
    """A kind of TPU: its device, how its slices look, and the options that libtpu wants."""

    chip: Chip
    axes: int
    shapes: tuple[str, ...]
    options: Mapping[str, Any]
    ring: int  # An axis of this length, or of a multiple of it, is a ring.
    type_name: str = ""  # Of TPU_ACCELERATOR_TYPE, where it is another.
    counts_cores: bool = False  # There: two a chip.


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
)  # fmt: skip

GENERATIONS = {
    "v3": _Generation(
        # One of the two cores of a chip: half of its compute, memory and links.
        chip=_tpu("TPU v3", 15.48, 450, 61.5, 166, 0.94), axes=2, ring=16, counts_cores=True,
        shapes=("2x2", "4x4", "4x8", "8x8", "8x16", "16x16"), options={},
    ),
    "v4": _Generation(
        chip=_tpu("TPU v4", 30.75, 1228, 275, 300, 1.05), axes=3, shapes=_CUBES, ring=4,
        # The two cores of a chip as one device, as they are on a TPU VM.
        options={"chip_config_name": "megacore"}, counts_cores=True,
    ),
    "v5e": _Generation(
        chip=_tpu("TPU v5 lite", 15.75, 819, 197, 200, 1.5), axes=2, shapes=_FLAT, ring=16,
        options={}, type_name="v5litepod",
    ),
    "v5p": _Generation(
        chip=_tpu("TPU v5", 95.74, 2765, 459, 600, 1.75), axes=3, shapes=_CUBES, ring=4,
        options={}, counts_cores=True,
    ),
    "v6e": _Generation(
        chip=_tpu("TPU v6 lite", 31.25, 1638, 918, 400, 1.75), axes=2, shapes=_FLAT, ring=16,
        options={},
    ),
}  # fmt: skip

GPUS = {
    chip.kind: chip
    for chip in (
        # kind, GB, GB/s, TFLOP/s of bf16, tf32 and plain float32, GB/s to other GPUs one way
        _gpu("A100-SXM4-40GB", 40, 1555, 312, 156, 19.5, 300),
        _gpu("A100-SXM4-80GB", 80, 2039, 312, 156, 19.5, 300),
        _gpu("A100-PCIE-40GB", 40, 1555, 312, 156, 19.5, 32),
        _gpu("A100 80GB PCIe", 80, 1935, 312, 156, 19.5, 32),
        _gpu("H100 80GB HBM3", 80, 3350, 989, 495, 67, 450),
        _gpu("H100 PCIe", 80, 2000, 756, 378, 51, 64),
        _gpu("H200", 141, 4800, 989, 495, 67, 450),
        _gpu("L4", 24, 300, 121, 60, 30.3, 32),
        _gpu("L40S", 48, 864, 362, 183, 91.6, 32),
        _gpu("GeForce RTX 3090", 24, 936, 71, 35.6, 35.6, 32),
        _gpu("GeForce RTX 4090", 24, 1008, 165, 82.6, 82.6, 32),
    )
}


def gpu(kind: str) -> Chip | None:
    """The GPU that JAX calls so, such as 'NVIDIA H100 80GB HBM3'; None where it is not known."""
    words = kind.removeprefix("NVIDIA ")
    return GPUS.get(words)


def _parse(text: str) -> tuple[str, tuple[int, ...]]:
    """Generation and sides of 'v5e:4x4'.

    Raises:
      UserError: no such chip or form. libtpu ends the process at some that it does not know.
    """
    name, _, form = text.lower().partition(":")
    forms = "; ".join(
        f"{known}:{entry.shapes[0]} to {known}:{entry.shapes[-1]}"
        for known, entry in GENERATIONS.items()
    )
    if name not in GENERATIONS:
        close = nearest(name, GENERATIONS)
        hint = f"did you mean {close}? " if close else ""
        raise UserError(f"--topology={text}: unknown chip {name!r}; {hint}known: {forms}")
    generation = lookup(GENERATIONS, "chip", name)
    if form not in generation.shapes:
        known = ", ".join(generation.shapes)
        raise UserError(
            f"--topology={text}: {name} slices have the forms {known}; "
            f"write {name}:{generation.shapes[3]}"
        )
    return name, tuple(map(int, form.split("x")))


def other_forms(place: Slice) -> list[tuple[str, int]]:
    """Names and chips of the slices of the same generation, the smallest first."""
    name = place.name.partition(":")[0]
    if name not in GENERATIONS:
        return []
    shapes = GENERATIONS[name].shapes
    return [(f"{name}:{form}", math.prod(map(int, form.split("x")))) for form in shapes]


def describe(text: str) -> tuple[Slice, Sequence[Any]]:
    """A TPU slice and its devices, for compiling on a machine that has none.

    Raises:
      UserError: no such slice, or libtpu is not installed.
    """
    name, sides = _parse(text)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which any Linux machine can have; "
            f"pip install 'jax[tpu]=={jax.__version__}' takes the one that fits this jax"
        )
    generation = GENERATIONS[name]
    chips = math.prod(sides)
    # libtpu would ask the cloud what machine this is, and wait for whoever else compiles.
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": _type(name, chips), "TPU_WORKER_HOSTNAMES": "localhost",
    }  # fmt: skip
    for variable, value in quiet.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    options = dict(generation.options)
    if chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{'x'.join(map(str, sides))}", **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = re.split(r"[\n.]", str(error), maxsplit=1)[0]
        raise UserError(
            f"--topology={text}: libtpu {_version()} does not describe it: {reason}; try another "
            "form or version"
        ) from error
    rings = tuple(side % generation.ring == 0 for side in sides)
    if generation.axes == 3:  # Of whole cubes, or not at all.
        rings = (all(rings),) * 3
    place = Slice(
        name=text.lower(), chip=generation.chip, num_chips=chips, sides=sides, has_rings=rings
    )
    return place, devices


def _type(name: str, chips: int) -> str:
    """What Google calls a slice, such as 'v5litepod-4' or 'v3-8'; libtpu complains of others."""
    generation = GENERATIONS[name]
    return f"{generation.type_name or name}-{chips * (2 if generation.counts_cores else 1)}"


def _version() -> str:
    return importlib.metadata.version("libtpu")
