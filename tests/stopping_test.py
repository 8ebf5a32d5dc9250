"""A stop that is asked for: heard at once, answered between two turns, alike in all processes."""

import os
import re
import signal

import pytest

from score_jax.stopping import StopRequest
from tests.pods import Pod

SIGNALS = [signal.SIGTERM, signal.SIGINT]
ASKING = [*SIGNALS, signal.SIGHUP]


@pytest.mark.parametrize("number", ASKING)
def test_the_first_signal_asks_and_a_second_interrupt_interrupts(number):
    before = [signal.getsignal(each) for each in ASKING]
    with StopRequest() as stop:
        assert not stop.poll()
        os.kill(os.getpid(), number)
        assert stop.poll() and stop.poll_waiting()
        for again in (signal.SIGTERM, signal.SIGHUP):  # The save goes on.
            os.kill(os.getpid(), again)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()  # The interrupt comes here at the latest.
    assert [signal.getsignal(each) for each in ASKING] == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.poll()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("index", [0, 1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(index, number):
    with Pod("forever") as pod:
        pod.wait_for("step 4")
        pod.processes[index].send_signal(number)
        ended = pod.end()
    assert [end.code for end in ended.values()] == [130, 130]
    stopped = [re.search(r"stopped (\d+)", end.out)[1] for end in ended.values()]
    assert stopped[0] == stopped[1]
    for end in ended.values():
        assert end.errors.count("SIGTERM: saving at the next step") == 1
        # Nothing but that: the second line is the one that says it is connected.
        assert len(end.errors.splitlines()) == 4, end.errors


@pytest.mark.slow
@pytest.mark.parametrize("late", ["inf", "8"])
def test_a_stop_is_heard_while_waiting_for_data_where_all_can_stop_alike(late):
    """All wait for data that never come; or one alone, which has to go on when they do."""
    with Pod("starved", LATE=late) as pod:
        pod.wait_for("waiting")
        pod.processes[1].send_signal(signal.SIGTERM)
        ended = pod.end()
    assert [end.code for end in ended.values()] == [130, 130]
    stopped = [int(re.search(r"stopped (\d+)", end.out)[1]) for end in ended.values()]
    assert stopped[0] == stopped[1] and (stopped[0] == 10) == (late == "inf")


@pytest.mark.slow
def test_a_second_interrupt_ends_all_at_once():
    with Pod("deaf") as pod:
        pod.wait_for("running")
        pod.processes[1].send_signal(signal.SIGINT)
        pod.processes[1].stdout.readline()
        pod.processes[1].send_signal(signal.SIGINT)
        ended = pod.end()
    assert [end.code for end in ended.values()] == [130, 130]
    assert max(end.seconds for end in ended.values()) < 20
    assert "process 0 of 2: process 1 on" in ended[0].errors
