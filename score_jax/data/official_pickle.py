"""CIFAR's files and their like: pickles of images and labels, read without running them."""

from typing import Any

import numpy as np

from score_jax import restricted_pickle
from score_jax.restricted_pickle import Array
from score_jax.types import UserError


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
        batch = restricted_pickle.loads(content, encoding="bytes")
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
    if not isinstance(data, Array):
        raise ValueError("its 'data' is not an array")
    if data.values.dtype != np.uint8:
        name = data.values.dtype.str[1:]
        raise ValueError(f"its 'data' has values of type {name!r} where uint8 was expected")
    return data.values


def _labels(labels: Any, key: str) -> np.ndarray:
    if isinstance(labels, Array):
        if labels.values.dtype.kind not in "iu":
            name = labels.values.dtype.str[1:]
            raise ValueError(f"its {key!r} has labels of type {name!r}, not integers")
        return labels.values.astype(np.int64)
    if not isinstance(labels, list):
        raise ValueError(f"its {key!r} is neither a list nor an array")
    if any(type(label) is not int or abs(label) > 1 << 30 for label in labels):
        raise ValueError(f"its {key!r} has labels that are not integers")
    return np.array(labels, np.int64)
