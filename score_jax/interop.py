"""Our parameter trees as PyTorch state_dicts in the field's names, and back.

`interop_names` says how a module of ours is called there; the leaves follow from their kind.
Only values move: no code of a stored file is run.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from score_jax.interop_names import ALIASES, NAMES, UNUSED
from score_jax.interop_read import COUNTER, as_floats, read_state_dict
from score_jax.interop_wrappings import split_constants, strip_prefixes
from score_jax.types import BatchStats, Params, UserError, nearest

__all__ = [
    "Match", "from_state_dict", "match", "module_names", "read_state_dict", "rules",
    "to_state_dict", "to_trees",
]  # fmt: skip

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def rules(model_name: str) -> tuple[tuple[str, str], ...]:
    """The lines of `interop_names.NAMES` for a model."""
    for pattern, lines in NAMES.items():
        if re.fullmatch(pattern, model_name):
            return lines
    known = ", ".join(pattern.replace(r"\d+", "N") for pattern in NAMES)
    raise UserError(f"no PyTorch names for model {model_name!r}; known: {known}.")


def _torch_module(model_name: str, path: str) -> tuple[int, int, int, str]:
    """The stored name of one of our modules, behind its place in the stored order."""
    lines = rules(model_name)
    # The stem, the blocks in order, the rest.
    num_stem = next((place for place, (ours, _) in enumerate(lines) if "{g}" in ours), 0)
    for place, (ours, theirs) in enumerate(lines):
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
            state[f"{name.removesuffix('running_var')}{COUNTER}"] = torch.tensor(0)
    return state


@dataclass(frozen=True, kw_only=True)
class Match:
    """How the entries of a file fit a model.

    Attributes:
      found: our kind and path, our leaf and the stored entry, by the model's stored names.
      renamed: other spellings in the file, by the model's stored names.
      unused: entries of modules that the public classes never call.
      missing, unexpected, reshaped: what does not fit.
    """

    found: dict[str, tuple[str, str, Any, torch.Tensor]]
    renamed: dict[str, str]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def problems(self) -> str:
        """What does not fit, counted and the first three by name; '' where all does."""
        told = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.reshaped),
            )
            if names
        )
        like = nearest(self.missing[0], self.unexpected) if self.missing else None
        return f"{told} (is {like} its {self.missing[0]}?)" if like else told


def match(
    model_name: str, state: Mapping[str, torch.Tensor], template: tuple[Params, BatchStats]
) -> Match:
    """Compares names and shapes, without reading a value.

    Args:
      state: entries without wrappers, counters and input constants, as `interop_read.read` gives.
      template: trees of anything with a shape, such as `jax.eval_shape(classifier.init, key)`.
    """
    expected = {name: entry for name, *entry in _ordered(model_name, *template)}
    renamed = {}
    for name in state.keys() - expected.keys():
        for there, here in ALIASES:
            ours = name.replace(there, here)
            if ours in expected and ours not in state:
                renamed[ours] = name
    found, missing, reshaped = {}, [], []
    for name, (kind, path, leaf) in expected.items():
        stored = renamed.get(name, name)
        if stored not in state:
            missing.append(name)
            continue
        shape = tuple(_to_torch_layout(np.empty(leaf.shape, bool)).shape)
        if tuple(state[stored].shape) != shape:
            there = tuple(state[stored].shape)
            reshaped.append(f"{stored} is {there}, the model has {shape}")
        found[name] = kind, path, leaf, state[stored]
    extra = [name for name in state if name not in {*expected, *renamed.values()}]
    return Match(
        found=found,
        renamed=renamed,
        unused=tuple(name for name in extra if name.startswith(UNUSED)),
        missing=tuple(missing),
        unexpected=tuple(name for name in extra if not name.startswith(UNUSED)),
        reshaped=tuple(reshaped),
    )


def from_state_dict(
    model_name: str,
    state_dict: Mapping[str, torch.Tensor],
    template: tuple[Params, BatchStats],
) -> tuple[Params, BatchStats]:
    """The inverse of `to_state_dict`: nested dicts of numpy f32 arrays.

    Wrapper prefixes (`module.`, `module.0.`), BatchNorm's counters and stored input constants are
    accepted and dropped; whoever must not lose the constants reads with `interop_read.read`.

    Args:
      template: trees of anything with a shape, such as `jax.eval_shape(classifier.init, key)`.

    Raises:
      UserError: missing, unexpected or differently shaped entries, the first few by name.
    """
    state = {name: value for name, value in state_dict.items() if not name.endswith(COUNTER)}
    state, _ = strip_prefixes(split_constants(state)[0])
    return to_trees(model_name, match(model_name, state, template))


def to_trees(model_name: str, matched: Match) -> tuple[Params, BatchStats]:
    """The parameters and statistics of a match, as nested dicts of numpy f32 arrays.

    Raises:
      UserError: the match is not complete.
    """
    if matched.problems:
        raise UserError(f"the state_dict does not fit {model_name!r}: {matched.problems}.")
    trees: dict[str, dict] = {"params": {}, "batch_stats": {}}
    for kind, path, _, value in matched.found.values():
        *parents, last = path.split("/")
        tree = trees[kind]
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[last] = np.ascontiguousarray(_from_torch_layout(as_floats(value)))
    return trees["params"], trees["batch_stats"]
