"""Waiting for a batch without being deaf: slow storage must not keep a run from being saved."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

POLL_SECONDS = 0.2


class Stopped(Exception):
    """The wait was given up because the run was asked to stop."""


class Waiting:
    """An iterator that is read on a thread, one element ahead of whoever takes them.

    The thread is a daemon: a read that never ends does not keep the process alive.
    """

    def __init__(self, source: Iterator[Any]):
        self._source = source
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="batches", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for element in self._source:
                self._put("element", element)
                if self._closed.is_set():
                    break
            else:
                self._put("end", None)
        except BaseException as error:  # Raised where the element is taken.
            self._put("error", error)
        finally:
            close = getattr(self._source, "close", None)
            if close:
                close()

    def _put(self, kind: str, value: Any) -> None:
        while not self._closed.is_set():
            try:
                self._ready.put((kind, value), timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue

    def take(self, is_stopped: Callable[[], bool]) -> Any:
        """The next element.

        Raises:
          Stopped: `is_stopped()` became true before one came.
          StopIteration: there is none.
        """
        while True:
            try:
                kind, value = self._ready.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if is_stopped():
                    raise Stopped from None
                continue
            if kind == "end":
                raise StopIteration
            if kind == "error":
                raise value
            return value

    def close(self) -> bool:
        """Ends the thread; False where it is stuck in a read."""
        self._closed.set()
        self._thread.join(timeout=2.0)
        return not self._thread.is_alive()
