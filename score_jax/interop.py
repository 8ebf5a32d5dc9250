"""Our parameter trees as PyTorch state_dicts in the field's names, and back.

`interop_names` says how a module of ours is called there; the leaves follow from their kind.
Only values move: no code of a stored file is run.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from score_jax.interop_names import NAMES
from score_jax.types import BatchStats, Params, UserError

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"
# Input constants, which some versions of the public classes store and ours keep in the spec.
_INPUT_CONSTANTS = ("mean", "std", "mu", "sigma")


def _rules(model_name: str) -> tuple[tuple[str, str], ...]:
    for pattern, rules in NAMES.items():
        if re.fullmatch(pattern, model_name):
            return rules
    known = ", ".join(pattern.replace(r"\d+", "N") for pattern in NAMES)
    raise UserError(f"no PyTorch names for model {model_name!r}; known: {known}.")


def _torch_module(model_name: str, path: str) -> tuple[int, int, int, str]:
    """The stored name of one of our modules, behind its place in the stored order."""
    rules = _rules(model_name)
    # The stem, the blocks in order, the rest.
    num_stem = next((place for place, (ours, _) in enumerate(rules) if "{g}" in ours), 0)
    for place, (ours, theirs) in enumerate(rules):
        pattern = ours.replace("{g}", r"(?P<g>\d+)").replace("{i}", r"(?P<i>\d+)")
        if match := re.fullmatch(pattern, path):
            found = {name: int(value) for name, value in match.groupdict().items()}
            group, block = found.get("g", -1), found.get("i", -1)
            name = theirs.format(g=group, g1=group + 1, i=block)
            section = 0 if place < num_stem else 2 if group < 0 else 1
            return (section, group, block * 100 + place, name)
    raise UserError(f"model {model_name!r} has no PyTorch name for {path!r}.")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _ordered(model_name: str, params: Params, batch_stats: BatchStats) -> Iterator[tuple]:
    """(stored name, kind, our path, leaf) for every leaf, in the stored order."""
    kinds = ("params", params), ("batch_stats", batch_stats)
    rank = {name: place for place, name in enumerate(("kernel", "scale", "bias", "mean", "var"))}
    found = []
    for kind, tree in kinds:
        for path, leaf in _flatten(tree):
            module, _, last = path.rpartition("/")
            place = _torch_module(model_name, module)
            found.append((place, rank[last], f"{place[-1]}.{_LEAVES[last]}", kind, path, leaf))
    for _, _, name, kind, path, leaf in sorted(found, key=lambda entry: entry[:2]):
        yield name, kind, path, leaf


def module_names(model_name: str, params: Params, batch_stats: BatchStats) -> dict[str, str]:
    """Our module paths and their stored names, in the stored order.

    Raises:
      UserError: the model has no PyTorch form.
    """
    return {
        path.rpartition("/")[0]: name.rpartition(".")[0]
        for name, _, path, _ in _ordered(model_name, params, batch_stats)
    }


def _to_torch_layout(values: np.ndarray) -> np.ndarray:
    """HWIO to OIHW, [in, out] to [out, in]; vectors as they are.

    Features are flattened channels first on both sides, so that rows need no reordering.
    """
    return values.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[values.ndim])


def _from_torch_layout(values: np.ndarray) -> np.ndarray:
    return values.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[values.ndim])


def to_state_dict(
    model_name: str, params: Params, batch_stats: BatchStats
) -> dict[str, torch.Tensor]:
    """The weights under the stored names, in the stored order, as contiguous f32 tensors.

    BatchNorm's counters are 0: nothing in evaluation reads them.

    Raises:
      UserError: the model has no PyTorch form.
    """
    state = {}
    for name, _, path, leaf in _ordered(model_name, params, batch_stats):
        values = np.array(_to_torch_layout(np.asarray(leaf, np.float32)), order="C")
        state[name] = torch.from_numpy(values)
        if path.endswith("/var"):
            state[f"{name.removesuffix('running_var')}{_COUNTER}"] = torch.tensor(0)
    return state


def _strip_wrappers(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Without the `module.` of DataParallel and the `0.` of a Sequential around the network."""
    state = dict(state_dict)
    for prefix in ("module.", "0."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def from_state_dict(
    model_name: str,
    state_dict: Mapping[str, torch.Tensor],
    template: tuple[Params, BatchStats],
) -> tuple[Params, BatchStats]:
    """The inverse of `to_state_dict`: nested dicts of numpy f32 arrays.

    Wrapper prefixes (`module.`, `module.0.`), BatchNorm counters and stored input constants are
    accepted and dropped.

    Args:
      template: trees of anything with a shape, such as `jax.eval_shape(classifier.init, key)`.

    Raises:
      UserError: missing, unexpected or differently shaped entries, the first few by name.
    """
    state = {
        name: value
        for name, value in _strip_wrappers(state_dict).items()
        if not name.endswith(_COUNTER) and name not in _INPUT_CONSTANTS
    }
    trees: dict[str, dict] = {"params": {}, "batch_stats": {}}
    missing, reshaped = [], []
    for name, kind, path, leaf in _ordered(model_name, *template):
        if name not in state:
            missing.append(name)
            continue
        values = state.pop(name).detach().cpu().to(torch.float32).numpy()
        ours = _from_torch_layout(values) if values.ndim == len(leaf.shape) else values
        if ours.shape != tuple(leaf.shape):
            expected = tuple(_to_torch_layout(np.empty(leaf.shape, bool)).shape)
            reshaped.append(f"{name} is {tuple(values.shape)}, the model has {expected}")
            continue
        *parents, last = path.split("/")
        tree = trees[kind]
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[last] = np.ascontiguousarray(ours)
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", list(state)),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise UserError(f"the state_dict does not fit {model_name!r}: {'; '.join(problems)}.")
    return trees["params"], trees["batch_stats"]


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a local `.pt` file, unpacked from the field's usual wrappings.

    Takes `model_state_dict` (the SCORE code's averaged weights) or `state_dict` where the file has
    one. Read with `weights_only=True`: a file that would run code is refused.

    Raises:
      UserError: no such file, not a file of plain tensors, or no state_dict in it.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a .pt file of weights.") from None
    except Exception as error:  # Damaged and unsafe files end in many exception types.
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else repr(error)
        raise UserError(f"{path} is not a file of plain weights ({reason}).") from None
    for wrapping in ("model_state_dict", "state_dict"):
        if isinstance(loaded, Mapping) and wrapping in loaded:
            loaded = loaded[wrapping]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise UserError(f"{path} holds no state_dict; save `model.state_dict()` and give that.")
    return dict(loaded)
