"""Which checkpoint a run goes on from: the newest that is whole. Damaged ones are set aside.

Everything here is done by process 0 alone; `checkpoint.py` tells the others.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from score_jax import checkpoint_digests, checkpoint_store
from score_jax.types import UserError

LOGGER = logging.getLogger("score_jax")
DAMAGED = "damaged"
BEFORE = "before"  # Best ones of a run whose checkpoints are gone.


def newest_whole(folder: Path, abstract: Any) -> int | None:
    """The newest step that is as it was saved; None in the folder of a fresh run.

    Newer ones that are damaged are moved to `damaged/`, with a line each.

    Args:
      folder: checkpoints, `<step>/` each.
      abstract: shapes of the state that is to be restored.

    Raises:
      UserError: only damaged ones, or the state of another version or config.
    """
    for step in reversed(checkpoint_store.steps(folder)):
        if is_set_aside(folder, step):
            continue
        mismatch = find_mismatch(folder / str(step), abstract)
        if mismatch:
            raise UserError(
                f"checkpoint {folder / str(step)} is of another version or config: {mismatch}; go "
                "on with the score_jax that wrote it, or begin anew in another --workdir"
            )
        return step
    aside = folder / DAMAGED
    if aside.is_dir() and any(aside.iterdir()):
        raise UserError(
            f"no checkpoint in {folder} is whole: what is damaged lies in {aside}; to begin anew, "
            "give another --workdir or move that folder away"
        )
    return None


def is_set_aside(folder: Path, step: int) -> bool:
    """Moves a damaged step to `damaged/`, with a line that says what is wrong with it."""
    damage = find_damage(folder / str(step))
    if damage is None:
        return False
    place = set_aside(folder, step, DAMAGED)
    LOGGER.warning("checkpoint %s is damaged: %s; moved to %s", folder / str(step), damage, place)
    return True


def set_aside(folder: Path, step: int, name: str) -> Path:
    """Moves a step to the folder `name` beside it, under a name that is free; returns its place."""
    aside = folder / name
    aside.mkdir(exist_ok=True)
    taken = {path.name for path in aside.iterdir()}
    names = (f"{step}.{n}" if n else str(step) for n in range(len(taken) + 1))
    place = aside / next(name for name in names if name not in taken)
    return (folder / str(step)).rename(place)


def find_damage(folder: Path) -> str | None:
    """What is wrong with which file of a step, in a few words; None where it is whole.

    One without digests is whole where it reads back and holds numbers.
    """
    if checkpoint_digests.are_in(folder):
        return checkpoint_digests.find_damage(folder)
    try:
        state, _ = read(folder)
    except Exception as error:  # Orbax and TensorStore raise nearly everything.
        return f"it cannot be read ({' '.join(str(error).split())[:150]})"
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            return f"{_name(path)} holds NaN or infinite values"
    return None


def find_mismatch(folder: Path, abstract: Any) -> str | None:
    """How a saved state differs from the shapes of `abstract`; None where it does not."""
    saved = _metadata(folder)
    found, wanted = (
        {_name(path): (tuple(leaf.shape), np.dtype(leaf.dtype)) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (saved, abstract))
    )
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            return f"it lacks {name}"
        if name not in wanted:
            return f"it has {name}, which this run has not"
        if found[name] != wanted[name]:
            (shape, dtype), (own_shape, own_dtype) = found[name], wanted[name]
            return f"{name} is {dtype}{list(shape)}, in this run {own_dtype}{list(own_shape)}"
    return None


def read(folder: Path) -> tuple[Any, dict[str, Any]]:
    """(state as numpy arrays, what is saved about it) of a step; read by this process alone.

    Raises:
      Exception: it cannot be read; Orbax and TensorStore raise nearly everything.
    """
    checkpoint_store.drop_late_callbacks()
    # As numpy, so that a run saved on many devices loads on one.
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _metadata(folder))
    state = ocp.PyTreeCheckpointHandler().restore(
        folder / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy)
    )
    return state, ocp.JsonCheckpointHandler().restore(folder / "about")


def _metadata(folder: Path) -> Any:
    return ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
