"""HLO text as computations and instructions; what they mean is told in `hlo_costs`."""

import functools
import re
from dataclasses import dataclass, field

# `%name = TYPE opcode(`; TYPE has no blank unless it is a tuple, which ends with a parenthesis.
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|[^ (]\S*) ([a-z][\w\-]*)\(")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERANDS_END = re.compile(r"\)(?:, [a-z_]+=|\s*$)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLEES = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line.

    Attributes:
      shape: its type as text, such as 'f32[8,16]{1,0:T(8,128)}' or a tuple of such.
      tail: everything after the opening parenthesis: operands, attributes, metadata.
    """

    name: str
    shape: str
    opcode: str
    tail: str
    is_root: bool

    def _split(self) -> int:
        end = _OPERANDS_END.search(self.tail)
        return end.start() if end else len(self.tail)

    @property
    def argument(self) -> str:
        """The text between the parentheses: the number of a parameter, the value of a constant."""
        return self.tail[: self._split()]

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return _NAME.findall(self.argument)

    def attribute(self, name: str) -> str:
        """Such as 'b01f_01io->b01f' for dim_labels; '' where it has none."""
        start = self.tail.find(f", {name}=")
        if start < 0:
            return ""
        start += len(name) + 3
        if self.tail[start] == "{":
            depth = 0
            for end in range(start, len(self.tail)):
                depth += {"{": 1, "}": -1}.get(self.tail[end], 0)
                if depth == 0:
                    return self.tail[start : end + 1]
        return re.split(r", [a-z_]+=|\s", self.tail[start:], maxsplit=1)[0].lstrip("%")

    @property
    def callees(self) -> list[str]:
        """The computations that it runs."""
        found = _CALLEES.findall(self.tail)
        for group in _BRANCHES.findall(self.tail):
            found += _NAME.findall(group) or [name.strip() for name in group.split(",")]
        return found

    @property
    def estimated_cycles(self) -> int:
        """As a TPU's compiler writes beside a fusion; else 0."""
        found = _CYCLES.search(self.tail)
        return int(found.group(1)) if found else 0

    @property
    def source(self) -> str:
        """Where in the traced function it comes from; '' unless told."""
        found = _SOURCE.search(self.tail)
        return found.group(1) if found else ""


@dataclass(slots=True)
class Computation:
    """Instructions in their order, and by name."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    by_name: dict[str, Instruction] = field(default_factory=dict)

    def shape_of(self, name: str) -> str:
        """The type of an instruction's result."""
        return self.by_name[name].shape

    @property
    def root(self) -> Instruction:
        """What the computation gives back."""
        return next(
            (each for each in reversed(self.instructions) if each.is_root), self.instructions[-1]
        )

    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        return {
            int(each.argument): each for each in self.instructions if each.opcode == "parameter"
        }


@dataclass(frozen=True)
class Module:
    """A whole program."""

    entry: str
    computations: dict[str, Computation]


def parse(text: str) -> Module:
    """Reads the text of an optimized module.

    Raises:
      ValueError: it has no entry.
    """
    computations, current, entry = {}, None, ""
    for line in text.splitlines():
        if current is not None and line[:1] == " ":
            if found := _LINE.match(line):
                root, name, shape, opcode = found.groups()
                each = Instruction(name, shape, opcode, line[found.end() :], bool(root))
                current.instructions.append(each)
                current.by_name[name] = each
        elif line[:1] == "}":
            current = None
        elif header := _HEADER.match(line):
            current = computations[header.group(2)] = Computation(header.group(2))
            entry = header.group(2) if header.group(1) else entry
    if not entry:
        raise ValueError("this is no HLO module: it has no ENTRY")
    return Module(entry, computations)


@dataclass(frozen=True, slots=True)
class Shape:
    """An array's type.

    Attributes:
      dims: its sizes; bytes: its size in memory, with the padding of a tiled layout.
      is_near: in the fast memory of the chip (a TPU's VMEM), not in the main memory.
    """

    dtype: str
    dims: tuple[int, ...]
    bytes: int
    is_near: bool


_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\(([1-9]\d*)\)")
_WIDTH = re.compile(r"(\d+)")


@functools.lru_cache(maxsize=65536)
def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type; of a tuple each."""
    return tuple(_shape(*found.groups()) for found in _ARRAY.finditer(text))


def _shape(dtype: str, dims: str, layout: str | None) -> Shape:
    sizes = tuple(int(size) for size in dims.split(",") if size)
    order, _, tiling = (layout or "").partition(":")
    elements = 1
    for size in _padded(sizes, order, tiling):
        elements *= size
    width = _WIDTH.search(dtype)
    bits = int(width.group(1)) if width else {"pred": 8}.get(dtype, 0)
    return Shape(dtype, sizes, -(-elements * bits // 8), bool(_SPACE.search(tiling)))


def _padded(sizes: tuple[int, ...], order: str, tiling: str) -> list[int]:
    """The sizes, those along a tile as multiples of it."""
    padded, tile = list(sizes), _TILE.search(tiling)
    minor_first = [int(number) for number in order.split(",") if number]
    if not tile or len(minor_first) != len(sizes):
        return padded
    for axis, side in zip(minor_first, reversed(tile.group(1).split(",")), strict=False):
        padded[axis] = -(-sizes[axis] // int(side)) * int(side)
    return padded
