"""Permutations in constant memory: bijective, uniform, and the same bits for ever."""

import hashlib
import tracemalloc

import numpy as np
import pytest

from score_jax.data import permutation
from score_jax.data.permutation import ROUNDS, bits, endless, permute, row

STREAM = 9
HUNDRED_MILLION = 100_000_000


def keys(*counters):
    return bits(ROUNDS, 0, STREAM, *counters)


def chi_squared(observed, cells):
    """In deviations of its distribution from its mean, for equally likely cells."""
    found = np.bincount(observed, minlength=cells)
    expected = len(observed) / cells
    value = ((found - expected) ** 2 / expected).sum()
    return (value - (cells - 1)) / np.sqrt(2 * (cells - 1))


@pytest.mark.parametrize(
    "size", [*range(1, 40), 63, 64, 65, 99, 100, 101, 1000, 4097, 65536, 99991]
)
def test_every_integer_comes_once(size):
    for key in range(2):
        found = permute(np.arange(size), size, keys(key))
        assert found.dtype == np.int64
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_any_part_is_what_it_is_in_the_whole():
    whole = permute(np.arange(5000), 5000, keys())
    some = np.array([4999, 0, 17, 17, 2500])
    np.testing.assert_array_equal(permute(some, 5000, keys()), whole[some])


def test_all_permutations_of_a_few_integers_are_equally_likely():
    several = np.stack([permute(np.arange(5), 5, keys(key)) for key in range(1200)])
    code = several[:, :3] @ [25, 5, 1]  # The first three places tell 60 cases apart.
    cases = np.unique(code, return_inverse=True)[1]
    assert cases.max() + 1 == 60
    assert abs(chi_squared(cases, 60)) < 4


def test_odd_permutations_come_too():
    def is_odd(permutation):
        left, cycles = set(range(len(permutation))), 0
        while left:
            at, cycles = min(left), cycles + 1
            while at in left:
                left.remove(at)
                at = int(permutation[at])
        return (len(permutation) - cycles) % 2

    for size in (9, 25):  # Squares of odd numbers.
        odd = sum(is_odd(permute(np.arange(size), size, keys(key))) for key in range(100))
        assert 25 < odd < 75


def test_a_large_permutation_is_uniform_wherever_one_looks():
    size, count = HUNDRED_MILLION, 200_000
    for start in (0, size // 2, size - count):
        found = permute(np.arange(start, start + count), size, keys(start))
        assert len(np.unique(found)) == count
        assert abs(chi_squared(found * 1000 // size, 1000)) < 4
        assert abs(chi_squared(found % 1000, 1000)) < 4
        # Neighbours are independent: pairs of places, of gaps, and of parities.
        pair = (found[:-1] * 30 // size) * 30 + found[1:] * 30 // size
        assert abs(chi_squared(pair, 900)) < 4
        gap = (found[1:] - found[:-1]) % size
        assert abs(chi_squared(gap * 1000 // size, 1000)) < 4


def test_one_permutation_says_nothing_of_the_next():
    size, count = HUNDRED_MILLION, 100_000
    one, two = (permute(np.arange(count), size, keys(number)) for number in (0, 1))
    assert abs(chi_squared((two - one) % size * 1000 // size, 1000)) < 4
    assert len(np.intersect1d(one, two)) < 200  # 100 are expected.


def test_a_row_is_one_permutation_after_the_other():
    whole = endless(0, 50, 7, 3, STREAM, 5)
    for start in range(0, 49, 7):
        np.testing.assert_array_equal(np.sort(whole[start : start + 7]), np.arange(7))
    assert len({tuple(whole[start : start + 7]) for start in range(0, 49, 7)}) > 4
    for start in range(45):
        np.testing.assert_array_equal(endless(start, 5, 7, 3, STREAM, 5), whole[start : start + 5])
    assert endless(3, 0, 7, 3, STREAM).shape == (0,)


def test_a_row_asks_each_permutation_for_its_part():
    asked = []

    def part_of(number, positions):
        asked.append((number, positions.tolist()))
        return positions

    assert row(8, 9, 5, part_of).tolist() == [3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert asked == [(1, [3, 4]), (2, [0, 1, 2, 3, 4]), (3, [0, 1])]


def test_memory_does_not_grow_with_the_size():
    endless(0, 1024, 10**6, 0, STREAM)  # What NumPy allocates once.
    tracemalloc.start()
    found = endless(12345 * 10**6, 1024, HUNDRED_MILLION, 0, STREAM)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.max() < HUNDRED_MILLION and peak < 1 << 20


def test_the_bits_never_change():
    found = [endless(10**k, 100, 10**k + 7, k, STREAM, k) for k in range(1, 10)]
    digest = hashlib.sha256(np.concatenate(found).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "2b7941091f51abde"


def test_a_stored_permutation_is_uniform_and_cannot_be_changed():
    firsts = np.array([permutation.stored(4, seed, STREAM)[0] for seed in range(4000)])
    assert abs(chi_squared(firsts, 4)) < 4
    with pytest.raises(ValueError, match="read-only"):
        permutation.stored(4, 0, STREAM)[0] = 1
