"""Reads a compiled program: the text that `jax.stages.Compiled.as_text()` gives.

Loops are multiplied out, which XLA's own `cost_analysis()` does not do. One pass over the lines, so
that the tens of megabytes of a deep network take seconds. It knows the dialects of CPU, GPU and
TPU: products inside fusions and library calls, asynchronous collectives, tiled layouts.
"""

from dataclasses import dataclass

from score_jax import hlo_costs
from score_jax.hlo_text import Instruction, Module, parse

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A while loop of the program.

    Attributes:
      name: where it comes from, such as 'jit(train_step)/while'.
      trips: how often its body runs; is_known tells whether the program says so, else it is 1.
      has_products: whether convolutions or dots are in it, at any depth.
      outer: the loop that it is inside of.
    """

    name: str
    trips: int
    is_known: bool
    has_products: bool
    outer: "Loop | None" = None

    @property
    def nest(self) -> tuple["Loop", ...]:
        """The loops around and this one, the outermost first."""
        return (*(self.outer.nest if self.outer else ()), self)


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One communication between devices.

    Attributes:
      kind: of `COLLECTIVES`.
      bytes: what each device holds of it at the most, before or after, in one execution.
      group: how many devices take part in one; 0: all of them.
      times: executions in one run of the program.
      loops: it is inside of these, the outermost first.
      source: where in the traced function it comes from.
    """

    kind: str
    bytes: int
    group: int
    times: int
    loops: tuple[Loop, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class Product:
    """One convolution or matrix product.

    Attributes:
      flops: of one execution on one device, two for each multiply-add; positions that fall on
        padding or on the holes of a dilation do not count.
      dtype: of the factors, such as 'f32'.
      precision: 'default', 'high' or 'highest', as the program says.
      times, loops: as of `Collective`.
    """

    flops: int
    dtype: str
    precision: str
    times: int
    loops: tuple[Loop, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one run of a compiled program does on one device.

    Attributes:
      loops: every loop, in the order of the program.
      collectives, products: as they stand; multiply by `times`.
      bytes: read from and written to main memory by all instructions, each on its own.
      cycles: clock cycles by the compiler's own estimate of each instruction, which a TPU program
        carries; 0 elsewhere. Communication and copies have none.
    """

    loops: tuple[Loop, ...]
    collectives: tuple[Collective, ...]
    products: tuple[Product, ...]
    bytes: int
    cycles: int

    @property
    def flops(self) -> int:
        """Of all products of one run."""
        return sum(product.flops * product.times for product in self.products)


def collectives(text: str) -> tuple[Collective, ...]:
    """The communications of a compiled program."""
    return read(text).collectives


def attack_loops(program: Program, num_steps: int) -> tuple[Loop, ...]:
    """The loops that are an attack of so many steps: the innermost ones that run the network."""
    around = {loop.outer for loop in program.loops if loop.has_products}
    return tuple(
        loop
        for loop in program.loops
        if loop.has_products and loop.trips == num_steps and loop not in around
    )


def read(text: str) -> Program:
    """What one run of a compiled program does.

    Raises:
      ValueError: the text is not that of an HLO module.
    """
    return _Reader(parse(text)).read()


class _Reader:
    """Walks from the entry through everything that runs."""

    def __init__(self, module: Module):
        self._module = module
        self._loops: list[Loop] = []
        self._collectives: list[Collective] = []
        self._products: list[Product] = []
        self._seen: set[tuple[str, str, tuple[Loop, ...]]] = set()
        self._with_products: dict[str, bool] = {}
        self._bytes = self._cycles = 0

    def read(self) -> Program:
        self._walk(self._module.entry, (), 1)
        return Program(
            loops=tuple(self._loops),
            collectives=tuple(self._collectives),
            products=tuple(self._products),
            bytes=self._bytes,
            cycles=self._cycles,
        )

    def _walk(self, name: str, loops: tuple[Loop, ...], times: int) -> None:
        """A computation whose instructions run one after the other."""
        computation = self._module.computations[name]
        for instruction in computation.instructions:
            opcode = instruction.opcode
            if opcode == "while":
                self._walk_loop(computation, instruction, loops, times)
            elif opcode in ("call", "conditional"):
                # Of a conditional's branches the dearest runs at the most; all of them count.
                for callee in instruction.callees:
                    self._walk(callee, loops, times)
            else:
                self._count(computation, instruction, loops, times)
                size = hlo_costs.traffic(self._module, computation, instruction)
                self._bytes += size * times
                self._cycles += instruction.estimated_cycles * times

    def _walk_loop(self, computation, instruction, loops, times) -> None:
        trips = hlo_costs.trip_count(self._module, computation, instruction)
        body = instruction.attribute("body")
        loop = Loop(
            name=instruction.source or instruction.name,
            trips=1 if trips is None else trips,
            is_known=trips is not None,
            has_products=self._has_products(body),
            outer=loops[-1] if loops else None,
        )
        self._loops.append(loop)
        self._walk(body, (*loops, loop), times * loop.trips)

    def _count(self, computation, instruction, loops, times) -> None:
        """An instruction and what is fused into it."""
        if kind := _collective_kind(instruction):
            self._communicate(computation, instruction, kind, loops, times)
        elif flops := hlo_costs.flops(computation, instruction):
            dtype, precision = hlo_costs.precision(computation, instruction)
            self._products.append(
                Product(
                    flops=flops, dtype=dtype, precision=precision, times=times, loops=loops
                )
            )  # fmt: skip
        if instruction.opcode in ("fusion", "async-start"):
            for callee in instruction.callees:
                inner = self._module.computations[callee]
                for each in inner.instructions:
                    self._count(inner, each, loops, times)

    def _communicate(self, computation, instruction, kind, loops, times) -> None:
        # A TPU spreads an asynchronous collective over several fusions, each with a copy of it.
        if chain := hlo_costs.chain(instruction):
            if (kind, chain, loops) in self._seen:
                return
            self._seen.add((kind, chain, loops))
        # On a TPU a sum of which each device keeps a part is a fusion of this name.
        if computation.name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        given = sum(
            hlo_costs.size(computation.shape_of(operand)) for operand in instruction.operands
        )
        taken = hlo_costs.size(instruction.shape)
        if instruction.opcode.endswith("-start"):
            # Its result holds what it was given beside what it makes.
            taken = taken if kind == "all-reduce" else taken - given
        self._collectives.append(
            Collective(
                kind=kind,
                bytes=max(given, taken),
                group=hlo_costs.group_size(instruction),
                times=times,
                loops=loops,
                source=instruction.source,
            )
        )

    def _has_products(self, name: str) -> bool:
        if name not in self._with_products:
            self._with_products[name] = any(
                hlo_costs.is_product(each) or any(map(self._has_products, each.callees))
                for each in self._module.computations[name].instructions
            )
        return self._with_products[name]


def _collective_kind(instruction: Instruction) -> str:
    """Of `COLLECTIVES`; '' for anything else, and for the end of one that was counted."""
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else ""
