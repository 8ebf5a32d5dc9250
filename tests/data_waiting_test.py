"""Waiting for batches: in order, with their errors, and never deaf."""

import threading
import time

import pytest

from score_jax.data.waiting import Stopped, Waiting


def never():
    return False


def test_elements_come_in_order_and_then_the_end():
    waiting = Waiting(iter(range(5)))
    assert [waiting.take(never) for _ in range(5)] == list(range(5))
    with pytest.raises(StopIteration):
        waiting.take(never)
    assert waiting.close()


def test_an_error_of_the_source_is_raised_where_its_element_is_taken():
    def source():
        yield 1
        raise OSError("no such file")

    waiting = Waiting(source())
    assert waiting.take(never) == 1
    with pytest.raises(OSError, match="no such file"):
        waiting.take(never)


def test_a_stop_ends_the_wait_for_storage_that_does_not_answer():
    release = threading.Event()

    def source():
        yield 1
        release.wait(60)
        yield 2

    waiting = Waiting(source())
    assert waiting.take(never) == 1
    begin = time.monotonic()
    asked = iter([False, True])
    with pytest.raises(Stopped):
        waiting.take(lambda: next(asked))
    assert time.monotonic() - begin < 10
    assert not waiting.close()  # The thread is in the read still.
    release.set()


def test_at_most_one_element_is_read_ahead_and_the_source_is_closed():
    read, closed = [], []

    def source():
        try:
            for number in range(100):
                read.append(number)
                yield number
        finally:
            closed.append(True)

    waiting = Waiting(source())
    assert waiting.take(never) == 0
    time.sleep(0.3)
    assert len(read) <= 3  # One taken, one ready, one in the thread's hand.
    assert waiting.close() and closed == [True]
