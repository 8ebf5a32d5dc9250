"""Saved runs. The one importer of Orbax.

A checkpoint is the whole run between two steps: the train state, and beside it the config and the
best score so far. Which images come next is a function of the step, so the step is the position in
the data. Orbax writes to a temporary folder and renames: a killed save leaves no checkpoint.
"""

import dataclasses
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from score_jax.train_state import TrainState
from score_jax.types import UserError
from score_jax.workdir import Workdir

INFERENCE = ("params", "ema_params", "batch_stats")


@dataclasses.dataclass(frozen=True)
class Best:
    """The selected step and its validation accuracy."""

    score: float = -1.0
    step: int = -1


def _manager(folder: Path, keep: int | None) -> ocp.CheckpointManager:
    """`keep=None` only reads: a run may be saving in the same folder."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=keep is not None,
        read_only=keep is None,
    )
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _storage_failure(error: Exception) -> str | None:
    """What the storage refused, in a few words, out of TensorStore's long message; else None."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
    return next((os.strerror(code) for code in codes if os.strerror(code) in str(error)), None)


def _check_room(folder: Path, state: Any) -> None:
    """Refuses to begin a save that cannot end; TensorStore's threads fail noisily half-way."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed} bytes into {free}")


class Checkpoints:
    """The checkpoints of one run: the last few, and the best by validation accuracy."""

    def __init__(self, workdir: Workdir, config: dict[str, Any], keep: int):
        self._config = config
        self._last = _manager(workdir.checkpoints, keep)
        self._best = _manager(workdir.best, 1)

    def restore(self, abstract: TrainState) -> tuple[TrainState, Best] | None:
        """The newest state, laid out as `abstract`, and the best so far; None in a fresh run."""
        step = self._last.latest_step()
        # Selected after the state that the run goes on from: it is not part of what follows.
        for later in [s for s in self._best.all_steps() if step is None or s > step]:
            self._best.delete(later)
        if step is None:
            return None
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        try:
            restored = self._last.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(abstract, restore_args=arguments),
                    about=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise UserError(
                f"checkpoint {self._last.directory}/{step} is damaged or of another version "
                f"({' '.join(str(error).split())[:150]}); move that folder away: the same command "
                "then goes on from the one before"
            ) from error
        best = Best(**restored.about["best"])
        return restored.state, best if best.step in self._best.all_steps() else Best()

    def save(self, state: TrainState, best: Best) -> None:
        """Saves the whole run at its step; a step that is saved already stays as it is."""
        self._write(self._last, int(state.step), state, {"best": dataclasses.asdict(best)})

    def save_best(self, state: TrainState, accuracies: dict[str, float]) -> None:
        """Saves what inference needs, and drops the previous best of this run."""
        parts = {name: getattr(state, name) for name in INFERENCE}
        self._write(self._best, int(state.step), parts, {"accuracies": accuracies})

    def _write(self, manager, step, state, about):
        if step in manager.all_steps():
            return
        try:
            _check_room(manager.directory, state)
            is_saved = manager.save(
                step,
                force=True,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    about=ocp.args.JsonSave({**about, "config": self._config}),
                ),
            )
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore's are ValueErrors.
            reason = _storage_failure(error)
            if reason is None:
                raise
            raise UserError(
                f"checkpoint {manager.directory}/{step} could not be written ({reason}); the "
                "earlier ones are whole: make room, then give the same command again"
            ) from error
        if not is_saved:
            raise RuntimeError(f"Orbax skipped checkpoint {manager.directory}/{step}")

    def close(self) -> None:
        self._last.close()
        self._best.close()


def latest_step(folder: str | os.PathLike[str]) -> int | None:
    """The newest checkpoint of the run in a folder; None where there is none, or no run."""
    path = Workdir(Path(folder).expanduser().absolute()).checkpoints
    return max(ocp.utils.checkpoint_steps(path), default=None) if path.is_dir() else None


def load_for_export(workdir: Workdir, which: str, weights: str) -> dict[str, Any]:
    """The network of a finished or running run, on the host.

    Args:
      workdir: of the run.
      which: 'best' or 'last'.
      weights: 'ema' or 'live'.

    Returns:
      params, batch_stats (nested dicts of numpy arrays), step, accuracies (empty for 'last'), and
      config (as saved).

    Raises:
      UserError: no such checkpoint.
    """
    folders = {"best": workdir.best, "last": workdir.checkpoints}
    if which not in folders or weights not in ("ema", "live"):
        raise UserError(
            f"--checkpoint={which} --weights={weights}: checkpoints are best and last, weights "
            "are ema and live"
        )
    folder = folders[which]
    manager = _manager(folder, None) if folder.is_dir() else None
    step = manager.latest_step() if manager else None
    if step is None:
        raise UserError(
            f"{folder} holds no checkpoint; train first: score-jax train --workdir={workdir.path}"
        )
    saved = manager.item_metadata(step)["state"].tree
    # As numpy, so that a run saved on many devices loads on one.
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.PyTreeRestore(restore_args=as_numpy), about=ocp.args.JsonRestore()
        ),
    )
    manager.close()
    return {
        "params": restored.state["ema_params" if weights == "ema" else "params"],
        "batch_stats": restored.state["batch_stats"],
        "step": step,
        "accuracies": restored.about.get("accuracies", {}),
        "config": restored.about["config"],
    }
