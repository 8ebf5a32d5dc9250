"""DeepMind's Haiku checkpoints, `.npy` files of (params, state), under PyTorch's names.

The names follow from the modules of google-deepmind/deepmind-research,
adversarial_robustness/jax/model_zoo.py, and from Haiku's rules; BatchNorm's running statistics are
the debiased averages of its ExponentialMovingAverage.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import restricted_pickle
from score_jax.types import UserError

MAGIC = b"\x93NUMPY"
_LEAVES = {"w": "weight", "b": "bias", "scale": "weight", "offset": "bias"}
_STATISTICS = {"mean_ema": "running_mean", "var_ema": "running_var"}


def read(path: Path) -> dict[str, np.ndarray]:
    """The network of a file as a PyTorch state_dict of WideResNet, in arrays.

    Raises:
      UserError: not such a file, damaged, or asking for anything but arrays.
    """
    try:
        params, state = _pair(restricted_pickle.loads(_content(path)))
        arrays = {**dict(_params(params)), **dict(_statistics(state))}
        # One array under many names is many arrays once they are copied.
        if sum(values.nbytes for values in arrays.values()) > path.stat().st_size:
            raise ValueError("it unpacks to more than it holds")
        return arrays
    except UserError:
        raise
    except Exception as error:  # The unpickler raises almost any type on damaged input.
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"{path} is not a Haiku checkpoint ({reason}; nothing of it was run); give a file that "
            "holds (params, state), dicts of arrays."
        ) from None


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in header:
            raise ValueError(f"version {version} of the format")
        _, _, dtype = header[version](file)
        if dtype != np.dtype(object):
            raise ValueError(f"a plain array of {dtype}")
        return file.read()


def _pair(loaded: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """(params, state), however NumPy wrapped them."""
    if isinstance(loaded, restricted_pickle.Array):
        loaded = loaded.values.tolist()  # A pair, or the one element of an array without axes.
    if isinstance(loaded, Mapping) and {"params", "state"} <= loaded.keys():
        loaded = loaded["params"], loaded["state"]
    if not isinstance(loaded, list | tuple) or len(loaded) != 2:
        raise ValueError("it holds no pair of params and state")
    for part in loaded:
        if not isinstance(part, Mapping) or not all(isinstance(v, Mapping) for v in part.values()):
            raise ValueError("its params and state are not dicts of modules")
    return loaded[0], loaded[1]


def _params(params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for module, leaves in params.items():
        for leaf, value in leaves.items():
            yield f"{_module(module)}.{_LEAVES.get(leaf, leaf)}", _layout(leaf, value)


def _statistics(state: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for module, leaves in state.items():
        module, _, average = module.rpartition("/~/")
        if average not in _STATISTICS or "average" not in leaves:
            raise ValueError(f"its state {module}/~/{average} is not a moving average")
        values = _layout("average", leaves["average"])
        yield f"{_module(module)}.{_STATISTICS[average]}", values


def _module(path: str) -> str:
    """`wide_res_net/~/resnet_lay_0_block_1/~/conv_0` as `layer.0.block.1.conv_0`."""
    name = path.partition("/~/")[2] or path
    return re.sub(r"^resnet_lay_(\d+)_block_(\d+)/~/", r"layer.\1.block.\2.", name)


def _layout(leaf: str, value: Any) -> np.ndarray:
    """HWIO as OIHW, [in, out] as [out, in], and what is one value a channel as a vector."""
    if not isinstance(value, restricted_pickle.Array) or value.values.dtype == object:
        raise ValueError("a leaf that is no array of numbers")
    if leaf != "w":
        return value.values.reshape(-1)
    return value.values.transpose({4: (3, 2, 0, 1), 2: (1, 0)}[value.values.ndim])
