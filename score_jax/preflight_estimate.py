"""From what a program does and what chips can do to times: bounds, and the compiler's own count."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.evaluation import Judge
from score_jax.hlo import Collective, Product, Program, attack_loops
from score_jax.topologies import Chip, Slice

REPEATS = 10
PRECISIONS = {"float32": "highest", "tf32": "default", "bfloat16": "default"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one step.

    Attributes:
      compute: of all products at the chip's peak for their precision.
      links: of all communication, bandwidth and latency, one after the other.
      once: main memory, where what the step is given and gives back is moved once and all between
        stays on the chip.
      memory: the same where every operand and every result of each instruction is moved; an upper
        estimate, as caches and fast memory keep some of them.
      scheduled: by the compiler's estimate of each instruction, with `links`; 0: it tells none.
    """

    compute: float
    links: float
    once: float
    memory: float
    scheduled: float

    @property
    def roofline(self) -> float:
        """A lower bound: whatever takes longest at the least, as if the rest ran beside it."""
        return max(self.compute, self.links, self.once)

    @property
    def limit(self) -> str:
        """What that is: 'compute', 'links' or 'once'."""
        return max(("compute", "links", "once"), key=lambda name: getattr(self, name))

    @property
    def in_turn(self) -> float:
        """Products at their peak, all traffic and communication, one after the other."""
        return self.compute + self.memory + self.links

    @property
    def step(self) -> float:
        """The one number: what the compiler counts where it counts, else the lower bound."""
        return self.scheduled or self.roofline


def estimate(program: Program, place: Slice, num_devices: int, given: float = 0) -> Estimate:
    """Of one run of a program on a slice.

    Args:
      given: bytes on a device of what the step is given and gives back.
    """
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
        links=links,
        once=given / chip.bandwidth,
        memory=program.bytes / chip.bandwidth,
        scheduled=program.cycles / chip.clock + links if chip.clock and program.cycles else 0.0,
    )


def by_policy(program: Program, attack: str, train: str, num_steps: int) -> Program:
    """The program with its float32 products at the precision that the recipe asks for.

    A GPU's program does not tell which of its library calls may use TF32.

    Args:
      attack, train: of config.precision.
      num_steps: of the attack.
    """
    attacks = set(attack_loops(program, num_steps))

    def place(product: Product) -> Product:
        in_attack = any(loop in attacks for loop in product.loops)
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


def measure(kind: str, memory: float, num_devices: int) -> Chip:
    """The rates of one of this machine's devices, from products and copies: about a second.

    Args:
      memory: bytes that one device may have.
      num_devices: how many there are; those of a CPU share its cores and its memory.
    """
    sharers = num_devices if kind == "cpu" else 1
    side = 1024 if kind == "cpu" else 8192
    peaks = {}
    for dtype in ("f32", "bf16"):
        factor = jnp.ones((side, side), {"f32": jnp.float32, "bf16": jnp.bfloat16}[dtype])
        # A CPU has one precision: two measurements of it would only differ by chance.
        for precision in ("highest",) if kind == "cpu" else ("default", "highest"):
            multiply = jax.jit(lambda a, p=precision: jnp.dot(a, a, precision=p))
            seconds = _best(lambda multiply=multiply, factor=factor: multiply(factor))
            peaks[dtype, precision] = 2 * side**3 / seconds / sharers
        peaks[dtype, "high"] = peaks[dtype, "highest"]
        peaks.setdefault((dtype, "default"), peaks[dtype, "highest"])
    return Chip(kind=kind, memory=memory, bandwidth=_copied() / sharers, peaks=peaks)


def _copied() -> float:
    """Bytes/s, read and written, in place: pages that are new to the process take much longer."""
    block = jnp.ones(2**25, jnp.float32)
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def copy():
        nonlocal block
        block = negate(block)
        return block

    return 2 * block.nbytes / _best(copy)


def _best(function: Callable[[], jax.Array]) -> float:
    """Seconds of the quickest of several runs: whatever else runs here only slows them."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds)
