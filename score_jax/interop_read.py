"""Reading the field's files of weights: PyTorch's, safetensors, DeepMind's Haiku `.npy`.

Only tensors come out. `torch.load` runs with `weights_only`, and nothing that a file names is run.
"""

import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from score_jax import interop_haiku
from score_jax.interop_wrappings import split_constants, strip_prefixes, unwrap
from score_jax.types import UserError, lookup

COUNTER = "num_batches_tracked"
COUNTERS = (COUNTER, "n_averaged")  # The second: of torch.optim.swa_utils.AveragedModel.
KNOWN = "a .pt or .pth file, a .safetensors file, or a .npy of Haiku"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a file holds of a network.

    Attributes:
      state: its entries, without wrappers, counters of batches and averages, and input constants.
      constants: of input normalisation, 'mean' and 'std' with a value a channel, or empty.
      format: 'PyTorch', 'safetensors' or 'Haiku'.
      wrappings: names of the dicts around the entries, outermost first.
      prefix: what every name began with.
      dtypes: of the entries, by name, such as 'float16'.
    """

    state: dict[str, torch.Tensor]
    constants: dict[str, tuple[float, ...]]
    format: str
    wrappings: tuple[str, ...]
    prefix: str
    dtypes: tuple[str, ...]


def read(path: str | Path, weights: str = "ema") -> Stored:
    """Reads a local file of weights.

    Args:
      weights: where a file has two sets, 'ema' takes the averaged ones, 'live' the others.

    Raises:
      UserError: not such a file, damaged, one that would run code, or one without plain tensors.
    """
    lookup({"ema": 0, "live": 0}, "weights", weights)
    path = Path(path).expanduser()
    kind = _format(path)
    state, wrappings = unwrap(READERS[kind](path), weights, str(path))
    state = {name: value for name, value in state.items() if not name.endswith(COUNTERS)}
    tensors = {name: _plain(name, value, path) for name, value in state.items()}
    bare, constants = split_constants(tensors)
    bare, prefix = strip_prefixes(bare)
    if not bare:
        raise UserError(f"{path} holds no weights; give {KNOWN}.")
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in bare.values()})
    return Stored(
        state=bare, constants=constants, format=kind, wrappings=tuple(wrappings), prefix=prefix,
        dtypes=tuple(dtypes),
    )  # fmt: skip


def read_state_dict(path: str | Path, weights: str = "ema") -> dict[str, torch.Tensor]:
    """The entries of `read` alone.

    Raises:
      UserError: as `read`.
    """
    return read(path, weights).state


def _format(path: Path) -> str:
    """The format of a file, by its first bytes."""
    if re.match(r"[a-z0-9]+:/", str(path)):
        raise UserError(f"{path} is not a local file; download it first and give that.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give {KNOWN}, or a folder of ours as --artifact.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{path}: {reason}; give {KNOWN}.") from None
    if head.startswith(interop_haiku.MAGIC):
        return "Haiku"
    if len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 32:
        return "safetensors"
    if head.startswith(b"PK"):
        _check_archive(path)
    elif not head.startswith(b"\x80"):
        page = "; it begins like a web page: download it again" if head.lstrip()[:1] == b"<" else ""
        raise UserError(f"{path} is no checkpoint that is known{page}; give {KNOWN}.")
    return "PyTorch"


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is cut short or damaged ({error}); copy it again.") from None
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > path.stat().st_size:
        raise UserError(
            f"{path} unpacks to more than it holds, which `torch.save` never writes; save "
            "`model.state_dict()` and give that."
        )
    if any(re.search(r"(^|/)constants\.pkl$", member.filename) for member in members):
        raise UserError(
            f"{path} is a TorchScript program, not weights; save its `state_dict()` and give that."
        )


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # Of pickles' age: they are read or refused.
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged and unsafe files end in many exception types.
        text = " ".join(str(error).split())
        if asked := re.search(r"GLOBAL ([\w.]+)", text):
            reason = f"it asks for {asked.group(1)}; nothing of it was run"
        else:
            reason = text[:120] or repr(error)
    raise UserError(
        f"{path} is not a file of plain weights ({reason}); save `model.state_dict()` and give "
        "that."
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not readable: {error}; copy it again.") from None


READERS = {
    "PyTorch": _read_torch,
    "safetensors": _read_safetensors,
    "Haiku": interop_haiku.read,
}


def _plain(name: str, value: Any, path: Path) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        # A copy: the arrays that were read cannot be written to, which PyTorch would warn of.
        value = torch.from_numpy(np.array(value))
    plain = isinstance(value, torch.Tensor) and value.layout is torch.strided
    if not plain or value.is_quantized or value.device.type != "cpu":
        raise UserError(f"{name} of {path} is not a plain tensor; save `model.state_dict()`.")
    if not value.is_floating_point():
        raise UserError(f"{name} of {path} holds {value.dtype} values; weights are fractions.")
    return value.detach()


def as_floats(value: torch.Tensor) -> np.ndarray:
    """A tensor of any float type as f32."""
    return value.detach().cpu().to(torch.float32).numpy()


def describe_tensors(state: Mapping[str, torch.Tensor]) -> str:
    """How many entries there are, and the first few by name and shape."""
    some = [f"{name} {tuple(value.shape)}" for name, value in list(state.items())[:3]]
    return f"{len(state)} entries: {', '.join(some)}, ..."
