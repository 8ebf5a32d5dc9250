"""Small damages of files, as disks, networks and forgers make them."""

import numpy as np

EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000)


def _place(content: bytearray, rng: np.random.Generator, size: int = 1) -> int:
    """Anywhere, but half the time near the start or the end, where headers are."""
    last = max(0, len(content) - size)
    if rng.random() < 0.5:
        return int(rng.integers(last + 1))
    near = int(rng.integers(min(512, last + 1)))
    return near if rng.random() < 0.5 else last - near


def flip_bits(content, rng):
    for _ in range(int(rng.integers(1, 9))):
        content[_place(content, rng)] ^= 1 << int(rng.integers(8))


def truncate(content, rng):
    del content[_place(content, rng) :]


def remove(content, rng):
    start = _place(content, rng)
    del content[start : start + int(rng.integers(1, 2000))]


def insert(content, rng):
    start = _place(content, rng)
    content[start:start] = rng.bytes(int(rng.integers(1, 200)))


def append(content, rng):
    content += rng.choice([b"\0" * 600, b"\x1f\x8b", b"PK\x05\x06" + bytes(18), rng.bytes(50)])


def splice(content, rng):
    size = int(rng.integers(1, 3000))
    source, target = _place(content, rng, size), _place(content, rng, size)
    content[target : target + size] = content[source : source + size]


def repeat(content, rng):
    size = int(rng.integers(1, 3000))
    source = _place(content, rng, size)
    content[source:source] = content[source : source + size]


def blank(content, rng):
    start, size = _place(content, rng), int(rng.integers(1, 600))
    size = min(size, len(content) - start)
    content[start : start + size] = bytes([int(rng.choice([0, 255]))]) * size


def number(content, rng):
    """A number of four bytes, in either order."""
    if len(content) >= 4:
        value = int(rng.choice(EXTREMES)).to_bytes(4, rng.choice(["little", "big"]))
        start = _place(content, rng, 4)
        content[start : start + 4] = value


def digit(content, rng):
    """A digit of what is written as text, such as a shape or a size of a member."""
    places = [i for i, byte in enumerate(content[:4096]) if 48 <= byte <= 57]
    if places:
        content[int(rng.choice(places))] = int(rng.integers(48, 58))


def swap(content, rng):
    first, second = _place(content, rng), _place(content, rng)
    content[first], content[second] = content[second], content[first]


MUTATIONS = (
    flip_bits, flip_bits, truncate, remove, insert, append, splice, repeat, blank, number, number,
    digit, swap,
)  # fmt: skip


def mutate(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The names of one to three damages, and `content` with them."""
    changed, names = bytearray(content), []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        change = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        if changed:
            change(changed, rng)
        names.append(change.__name__)
    return "+".join(names), bytes(changed)
