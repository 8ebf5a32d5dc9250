"""A clean stop: Ctrl-C and SIGTERM ask, the loop answers after its step.

In a run of several processes SIGTERM belongs to JAX's preemption service, which listens in C++
(a handler of Python's would take its place), tells all processes, and names one turn at which all
of them stop. SIGINT is passed on to it.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from jax.experimental import multihost_utils

from score_jax import distributed

# JAX's preemption service needs a moment from the notice to the turn that it names.
SETTLE_SECONDS = 3.0


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM is Ctrl-C: it stops children, whose shell may have had them ignore SIGINT.

    In the main thread; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """While entered, SIGINT, SIGTERM and SIGHUP only ask, see `poll`; a second SIGINT interrupts.

    A scheduler may send its SIGTERM twice, a closed terminal SIGHUP beside it: neither may cut
    short the save that the first one asked for. Where SIGHUP is ignored (nohup) it stays so.
    """

    _turn = 0  # Of all requests of this process: the service must never see a turn twice.

    def __init__(self):
        self._asked = self._agreed = self._is_ahead = False
        self._previous: dict[int, object] = {}

    def poll(self) -> bool:
        """Stop now? The same answer in all processes, which call it equally often.

        Any turn will do: of training, of a validation. From a signal to the answer it is one or two
        turns; once true it stays so.

        Raises:
          PeerFailure: another process does not come to the stop.
        """
        if not distributed.is_several():
            return self._asked
        if not self._is_ahead:
            StopRequest._turn += 1
        self._is_ahead = False
        return self._reached()

    def poll_waiting(self) -> bool:
        """While waiting for what the next turn needs, such as data: will its `poll` say stop?

        Any number of times. Where all processes wait at the same turn they all stop there; where
        another one is beyond it already, this one has to go on as soon as it can.
        """
        if not distributed.is_several():
            return self._asked
        notice = distributed.stop_notice()
        # Asked before all have agreed on a turn, the service would put it after this one.
        if self._agreed or notice is None or time.monotonic() < notice + SETTLE_SECONDS:
            return self._agreed
        if not self._is_ahead:
            StopRequest._turn += 1
            self._is_ahead = True
        return self._reached()

    def _reached(self) -> bool:
        if not self._agreed:
            self._agreed = multihost_utils.reached_preemption_sync_point(StopRequest._turn)
            if self._agreed:
                distributed.agree_to_stop()
        return self._agreed

    def __enter__(self) -> "StopRequest":
        # Python allows handlers in the main thread only; elsewhere a run is stopped by its owner.
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            if not distributed.is_several():
                numbers.append(signal.SIGTERM)
            for number in numbers:
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._asked = True
        if distributed.is_several():
            os.kill(os.getpid(), signal.SIGTERM)
