"""Reads the pickles that datasets come in without running anything that they name.

Python's unpickler calls whatever a file asks for. Here the five names that NumPy arrays need are
bound to small stand-ins of our own, every other name is refused, and the opcodes are checked
before the first of them runs, so that a forged file ends in an error and not in code or in
memory that it asked for.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from score_jax.types import UserError

# What writing dicts, lists, integers, strings and arrays needs; nothing that makes instances.
ALLOWED_OPCODES = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT SETITEM SETITEMS DICT "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)


class _Array:
    """What `numpy._reconstruct` makes: filled by `__setstate__`, then turned into an array."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise ValueError("an array without plain bytes as its content")
        values = np.frombuffer(content, dtype.type)
        self.array = values.reshape(shape, order="F" if column_major else "C")


class _Dtype:
    """What `numpy.dtype` makes: only uint8, int32 and int64 are let through."""

    __slots__ = ("type",)

    def __init__(self, name: Any, align: Any = 0, copy: Any = 0):
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if name not in ("u1", "i4", "i8"):
            raise ValueError(f"values of type {name!r} where integers ('u1') were expected")
        self.type = f"<{name}"

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            raise ValueError("values with their highest byte first")


class _Reconstruct:
    """`numpy._reconstruct`; an instance without a `__dict__`, so that no file can alter it."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> _Array:
        if kind != NDARRAY or shape != (0,):
            raise ValueError("an array that is not made in NumPy's way")
        return _Array()


class _Encode:
    """`_codecs.encode`, as Python 3 writes bytes into old pickles: only from latin1."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        return text.encode("latin1")


NDARRAY = "numpy.ndarray"  # Mentioned as an argument, never called.
KNOWN_NAMES = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return KNOWN_NAMES[module, name]


def _check_opcodes(content: bytes) -> None:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in ALLOWED_OPCODES:
            raise pickle.UnpicklingError(f"it holds the instruction {opcode.name}")
        # The unpickler's memo is as long as the largest index, whatever the file holds.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
            raise pickle.UnpicklingError(f"it numbers a value {argument}")


def load_batch(
    content: bytes, where: str, labels_key: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """The `data` array (uint8, shape as written) and the labels int64[n] of one file.

    The labels are a list, as in CIFAR's files, or an array, as NumPy's users write it.

    Raises:
      UserError: the file is not a pickle of images and labels, or names anything beyond that.
    """
    remedy = "take it from the official archive again"
    try:
        _check_opcodes(content)
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        named = {
            key.decode("ascii") if isinstance(key, bytes) else key: value
            for key, value in batch.items()
        }
        return _images(named["data"]), _labels(named[labels_key], labels_key)
    except KeyError as error:
        raise UserError(f"{where} has no entry {error}; {remedy}") from None
    except (MemoryError, RecursionError):
        raise UserError(f"{where} asks for more memory than its size allows; {remedy}") from None
    except Exception as error:  # The unpickler raises almost any type on damaged input.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} does not hold images: {reason[:200]}; {remedy}") from None


def _images(data: Any) -> np.ndarray:
    if not isinstance(data, _Array):
        raise ValueError("its 'data' is not an array")
    if data.array.dtype != np.uint8:
        name = data.array.dtype.str[1:]
        raise ValueError(f"its 'data' has values of type {name!r} where uint8 was expected")
    return data.array


def _labels(labels: Any, key: str) -> np.ndarray:
    if isinstance(labels, _Array):
        return labels.array.astype(np.int64)
    if not isinstance(labels, list):
        raise ValueError(f"its {key!r} is neither a list nor an array")
    if any(type(label) is not int or abs(label) > 1 << 30 for label in labels):
        raise ValueError(f"its {key!r} has labels that are not integers")
    return np.array(labels, np.int64)
