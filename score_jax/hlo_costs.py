"""What single HLO instructions cost: products, memory traffic, trips of a loop, partners."""

import functools
import math
import re

from score_jax.hlo_text import Computation, Instruction, Module, Shape, shapes

# Names of one result, or of no work at run time.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "while", "call",
    "conditional", "partition-id", "replica-id", "iota", "opt-barrier", "add-dependency", "domain",
}  # fmt: skip
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CONTRACTED = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_CHAIN = re.compile(r'chain_id="(\d+)"')
_WINDOW = re.compile(r"(\w+)=([\w\-]+)")
# The library calls of a GPU: which of (operand 0, operand 1, result) are input, kernel and output.
_LIBRARY_CONVOLUTIONS = {
    "__cudnn$convForward": (0, 1, 2),
    "__cudnn$convBiasActivationForward": (0, 1, 2),
    "__cudnn$convForwardGraph": (0, 1, 2),
    "__cudnn$convBackwardInput": (2, 1, 0),
    "__cudnn$convBackwardFilter": (0, 2, 1),
}
_LIBRARY_PRODUCTS = ("__cublas$", "__onednn$matmul")


def size(shape: str) -> int:
    """Bytes of an array's type, or of a tuple's arrays together."""
    return sum(each.bytes for each in shapes(shape))


def is_product(instruction: Instruction) -> bool:
    """Whether it is a convolution or a matrix product, also as a call of a library."""
    if instruction.opcode in ("convolution", "dot"):
        return True
    target = _target(instruction)
    return target in _LIBRARY_CONVOLUTIONS or target.startswith(_LIBRARY_PRODUCTS)


def _target(instruction: Instruction) -> str:
    if instruction.opcode != "custom-call":
        return ""
    return instruction.attribute("custom_call_target").strip('"')


def flops(computation: Computation, instruction: Instruction) -> int:
    """Of one execution of a product; 0 for anything else. Elementwise work does not count."""
    if not is_product(instruction):
        return 0
    arrays = [shapes(computation.shape_of(name))[0] for name in instruction.operands[:2]]
    arrays.append(shapes(instruction.shape)[0])
    if instruction.opcode == "dot":
        contracted = _numbers(instruction.attribute("lhs_contracting_dims"))
        return _dot(arrays[0], arrays[2], contracted)
    if instruction.opcode == "convolution":
        return _convolution(instruction, *arrays)
    places = _LIBRARY_CONVOLUTIONS.get(_target(instruction))
    if places:
        return _convolution(instruction, *(arrays[place] for place in places))
    found = _CONTRACTED.search(instruction.tail)
    contracted = _numbers(found.group(1)) if found else (len(arrays[0].dims) - 1,)
    return _dot(arrays[0], arrays[2], contracted)


def precision(computation: Computation, instruction: Instruction) -> tuple[str, str]:
    """The type of a product's factors, and 'default', 'high' or 'highest'."""
    dtype = shapes(computation.shape_of(instruction.operands[0]))[0].dtype
    words = instruction.attribute("operand_precision")
    return dtype, next((word for word in ("highest", "high") if word in words), "default")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _dot(left: Shape, result: Shape, contracted: tuple[int, ...]) -> int:
    return 2 * math.prod(result.dims) * math.prod(left.dims[axis] for axis in contracted)


def _convolution(instruction: Instruction, left: Shape, kernel: Shape, result: Shape) -> int:
    """As XLA's cost analysis counts it: only what meets a real element of the input."""
    labels, _, result_labels = instruction.attribute("dim_labels").partition("->")
    left_labels, _, kernel_labels = labels.partition("_")
    window = dict(_WINDOW.findall(instruction.attribute("window")))
    window = {name: value.split("x") for name, value in window.items()}
    feature_groups = int(instruction.attribute("feature_group_count") or 1)
    batch_groups = int(instruction.attribute("batch_group_count") or 1)
    positions = 1
    for axis, digit in enumerate(sorted(set(kernel_labels) - {"i", "o"}, key=int)):

        def of(name, default, axis=axis):
            return window[name][axis] if name in window else default

        low = int(re.match(r"-?\d+", of("pad", "0_0")).group())
        positions *= _valid(
            left.dims[left_labels.index(digit)],
            int(of("size", "1")),
            result.dims[result_labels.index(digit)],
            int(of("stride", "1")),
            low,
            int(of("lhs_dilate", "1")),
            int(of("rhs_dilate", "1")),
        )
    in_features = left.dims[left_labels.index("f")] // feature_groups
    out_features = result.dims[result_labels.index("f")]
    batch = left.dims[left_labels.index("b")] // batch_groups
    return 2 * positions * in_features * out_features * batch


@functools.lru_cache(maxsize=4096)
def _valid(
    side: int, kernel: int, result: int, stride: int, low: int, dilation: int, spread: int
) -> int:
    """How many (place of the result, place in the kernel) meet an element of the input."""
    count = 0
    for place in range(kernel):
        for out in range(result):
            at = out * stride - low + place * spread
            count += at % dilation == 0 and 0 <= at // dilation < side
    return count


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often a loop's body runs; None where the program does not tell.

    XLA writes it beside the loop on CPU and GPU. A TPU's program has the condition: the counter,
    which begins at a constant and grows by 1, is below another constant.
    """
    if found := _TRIPS.search(loop.tail):
        return int(found.group(1))
    condition = module.computations.get(loop.attribute("condition"))
    if condition is None:
        return None
    compare, place = condition.root, condition
    names = list(compare.operands)
    if compare.opcode == "fusion":  # Its operands are those of the comparison, in some order.
        place = module.computations[compare.callees[0]]
        inner, parameters = place.root, place.parameters()
        outer = {each.name: names[number] for number, each in parameters.items()}
        if inner.opcode != "compare":
            return None
        names, compare = [outer.get(name, "") for name in inner.operands], inner
    if compare.opcode != "compare" or len(names) != 2 or not all(names):
        return None
    direction = compare.attribute("direction")
    if direction == "GT":
        names, direction = names[::-1], "LT"
    start, limit = (_constant_at_start(condition, computation, loop, name) for name in names)
    if direction not in ("LT", "LE") or start is None or limit is None:
        return None
    return max(limit - start + (direction == "LE"), 0)


def _constant_at_start(
    condition: Computation, computation: Computation, loop: Instruction, name: str
) -> int | None:
    """What a value of the condition is at the first test; None where it is no constant."""
    each = condition.by_name[name]
    if each.opcode == "get-tuple-element":
        initial = computation.by_name.get(loop.operands[0])
        if initial is None or initial.opcode != "tuple":
            return None
        number = int(each.attribute("index"))
        return _constant(computation, initial.operands[number])
    return _constant(condition, name)


def _constant(computation: Computation, name: str) -> int | None:
    """The whole number that an instruction gives, seen through copies."""
    while name in computation.by_name:
        each = computation.by_name[name]
        if each.opcode == "constant":
            found = re.fullmatch(r"-?\d+", each.argument.strip())
            return int(found.group()) if found else None
        if each.opcode not in ("copy", "bitcast", "copy-start", "copy-done", "convert"):
            return None
        name = each.operands[0]
    return None


def traffic(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that one execution reads from and writes to main memory.

    Every operand and result counts whole, unless it lies in the fast memory of the chip, or is only
    sliced or updated in place. What a later instruction finds in a cache counts again: an upper
    estimate.
    """
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return 0
    if _target(instruction) == "AllocateBuffer":
        return 0
    results = _far(instruction.shape)
    if opcode.endswith("-start"):
        return results  # What it was given is among its results.
    operands = [_far(computation.shape_of(name)) for name in instruction.operands]
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * results
    if opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if opcode == "fusion":
        return _fusion_traffic(module.computations[instruction.callees[0]], operands, results)
    return results + sum(operands)


def _far(shape: str) -> int:
    return sum(each.bytes for each in shapes(shape) if not each.is_near)


def _fusion_traffic(fused: Computation, operands: list[int], results: int) -> int:
    parameters = fused.parameters()
    names = {each.name: number for number, each in parameters.items()}
    sliced: dict[int, int] = {}
    whole: set[int] = set()
    for each in fused.instructions:
        for position, operand in enumerate(each.operands):
            number = names.get(operand)
            if number is None:
                continue
            if each.opcode == "dynamic-slice" and position == 0:
                sliced[number] = sliced.get(number, 0) + size(each.shape)
            elif each.opcode == "dynamic-update-slice" and position == 0:
                update = size(fused.shape_of(each.operands[1]))
                sliced[number] = sliced.get(number, 0) + update
                if each.is_root:
                    results = min(results, update)
            else:
                whole.add(number)
    total = results
    for number, bytes_ in enumerate(operands):
        part = sliced.get(number) if number not in whole else None
        total += bytes_ if part is None else min(part, bytes_)
    return total


def chain(instruction: Instruction) -> str:
    """What the copies of one asynchronous collective of a TPU share; '' where there are none."""
    found = _CHAIN.search(instruction.tail)
    return f"{found.group(1)} {instruction.attribute('channel_id')}" if found else ""


def group_size(instruction: Instruction) -> int:
    """How many devices take part in each group of a collective; 0: all of them."""
    if pairs := instruction.attribute("source_target_pairs"):
        return 2 if pairs != "{}" else 0
    start = instruction.tail.find("replica_groups=")
    if start < 0:
        return 0
    text = instruction.tail[start + len("replica_groups=") :]
    if text.startswith("{{"):
        return text[2 : text.index("}")].count(",") + 1
    if found := re.match(r"\[(\d+),(\d+)\]<=", text):  # Groups, and devices in each.
        return int(found.group(2))
    if found := re.match(r"(?:@?mesh)?\[([^\]]*)\] ?\{([^}]*)\}", text):
        sides = {name: int(side) for name, side in re.findall(r"'(\w+)'=(\d+)", found.group(1))}
        return math.prod(sides[name] for name in re.findall(r"'(\w+)'", found.group(2)))
    return 0
