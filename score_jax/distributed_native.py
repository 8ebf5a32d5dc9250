"""What JAX's distributed runtime knows but does not offer: each function here is guarded.

Where a name is gone, the run goes on as JAX alone would have it: a dead process then ends the
others by an abort in C++ instead of by one line.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

# The key under which JAX's preemption service tells all processes of a SIGTERM.
NOTICE = "RECEIVED_PREEMPTION_NOTICE"
_KEPT: list[Any] = []  # Callbacks that C++ holds.


@contextlib.contextmanager
def telling_of_losses(callback: Callable[..., None]) -> Iterator[None]:
    """Inside, `jax.distributed.initialize` makes a client that calls back instead of aborting.

    The client's `missed_heartbeat_callback` is what JAX has for it, but initialize does not pass
    one. In jaxlib 0.10 the C++ side then fails to convert the status for Python (std::bad_cast on
    a thread of its own), so the callback is also called where C++ would end the process for that.
    """
    try:
        from jax._src.lib import _jax

        make = _jax.get_distributed_runtime_client
        if "missed_heartbeat_callback" not in (make.__doc__ or ""):
            raise AttributeError
    except (ImportError, AttributeError):
        yield
        return

    def make_watched(*arguments: Any, **named: Any) -> Any:
        return make(*arguments, **named, missed_heartbeat_callback=callback)

    if not _on_bad_cast(callback):
        yield
        return
    _jax.get_distributed_runtime_client = make_watched
    try:
        yield
    finally:
        _jax.get_distributed_runtime_client = make


def _on_bad_cast(callback: Callable[..., None]) -> bool:
    """Calls back where an uncaught std::bad_cast is about to end the process; False: cannot."""
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        set_handler = library._ZSt13set_terminatePFvvE
        exception_type = library.__cxa_current_exception_type
    except (OSError, AttributeError):
        return False
    handler_type = ctypes.CFUNCTYPE(None)
    set_handler.argtypes, set_handler.restype = [handler_type], ctypes.c_void_p
    exception_type.restype = ctypes.c_void_p

    def handler() -> None:
        info = exception_type()  # A std::type_info: the pointer to its methods, then its name.
        if info and ctypes.cast(info, ctypes.POINTER(ctypes.c_char_p))[1] == b"St8bad_cast":
            callback()
        ctypes.cast(before, handler_type)()

    _KEPT.append(handler_type(handler))
    before = set_handler(_KEPT[-1])
    return True


def client() -> Any:
    """The client of the coordination service, which knows barriers and keys; None without one."""
    try:
        from jax._src.distributed import global_state
    except ImportError:
        return None
    return getattr(global_state, "client", None)


def without_chatter() -> None:
    """Gloo greets each process on C++'s standard output, which is where results are printed.

    Python's output gets a descriptor of its own, and the first one leads nowhere.
    """
    if sys.stdout is not sys.__stdout__ or sys.stdout.fileno() != 1:
        return
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w", buffering=1, encoding=sys.stdout.encoding)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = sys.__stdout__ = own
