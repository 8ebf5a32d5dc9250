"""From what a program does and what chips can do to times: bounds, and the compiler's own count."""

import dataclasses
import time

import jax
import jax.numpy as jnp

from score_jax.evaluation import Judge
from score_jax.hlo import Collective, Product, Program
from score_jax.topologies import Chip, Slice

PRECISIONS = {"float32": "highest", "tf32": "default", "bfloat16": "default"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one step.

    Attributes:
      compute: of all products at the chip's peak for their precision.
      memory: of all traffic with main memory at its bandwidth, every operand and result counted.
      links: of all communication, bandwidth and latency, one after the other.
      scheduled: by the compiler's estimate of each instruction, with `links`; 0: it tells none.
    """

    compute: float
    memory: float
    links: float
    scheduled: float

    @property
    def roofline(self) -> float:
        """Whatever takes longest, as if the rest ran beside it."""
        return max(self.compute, self.memory, self.links)

    @property
    def limit(self) -> str:
        """What that is: 'compute', 'memory' or 'links'."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))

    @property
    def step(self) -> float:
        """The one number: what the compiler counts where it counts, else the roofline."""
        return self.scheduled or self.roofline


def estimate(program: Program, place: Slice, num_devices: int) -> Estimate:
    """Of one run of a program on a slice."""
    chip = place.chip
    links = sum(
        each.times * place.seconds(each.kind, each.bytes, each.group or num_devices)
        for each in program.collectives
    )
    return Estimate(
        compute=sum(
            each.flops * each.times / chip.peak(each.dtype, each.precision)
            for each in program.products
        ),
        memory=program.bytes / chip.bandwidth,
        links=links,
        scheduled=program.cycles / chip.clock + links if chip.clock and program.cycles else 0.0,
    )


def by_policy(program: Program, attack: str, train: str, num_steps: int) -> Program:
    """The program with its float32 products at the precision that the recipe asks for.

    A GPU's program does not tell which of its library calls may use TF32.

    Args:
      attack, train: of config.precision.
      num_steps: of the attack; what is in such a loop is the attack's.
    """

    def place(product: Product) -> Product:
        in_attack = any(loop.trips == num_steps for loop in product.loops)
        wanted = PRECISIONS[attack if in_attack else train]
        return dataclasses.replace(product, precision=wanted)

    return dataclasses.replace(program, products=tuple(map(place, program.products)))


def validation_passes(judge: Judge, num_images: int) -> int:
    """Forward-equivalents of one validation over so many images, in image passes."""
    steps = judge.attack.num_steps if isinstance(judge, Judge) else judge.num_steps
    return num_images * (2 * steps + 2)


def inside(collectives: tuple[Collective, ...], loops) -> tuple[list[Collective], list[Collective]]:
    """Those within the given loops, and the others."""
    parts: tuple[list[Collective], list[Collective]] = [], []
    for each in collectives:
        parts[not any(loop in loops for loop in each.loops)].append(each)
    return parts


def measure(kind: str, memory: float) -> Chip:
    """The rates of this machine's own device, from one product and one copy: about a second.

    All virtual devices of a CPU share them; what is measured is one alone.
    """
    side = 1024 if kind == "cpu" else 8192
    peaks = {}
    for dtype in ("f32", "bf16"):
        factor = jnp.ones((side, side), {"f32": jnp.float32, "bf16": jnp.bfloat16}[dtype])
        for precision in ("default", "highest"):
            multiply = jax.jit(lambda a, p=precision: jnp.dot(a, a, precision=p))
            peaks[dtype, precision] = 2 * side**3 / _best(multiply, factor)
        peaks[dtype, "high"] = peaks[dtype, "highest"]
    block = jnp.ones(2**25, jnp.float32)
    return Chip(
        kind=kind, memory=memory, bandwidth=2 * block.nbytes / _best(jax.jit(jnp.negative), block),
        peaks=peaks,
    )  # fmt: skip


def _best(function, argument) -> float:
    jax.block_until_ready(function(argument))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(function(argument))
        seconds.append(time.perf_counter() - start)
    return min(seconds)
