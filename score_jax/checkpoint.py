"""Saved runs. Only this module and its `checkpoint_*` import Orbax.

A checkpoint is the whole run between two steps: the train state, and beside it the config and the
best score so far. Which images come next is a function of the step, so the step is the position in
the data. Saves go on in the background, are committed as a whole, and are verified when read.
"""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from score_jax import checkpoint_choice, checkpoint_series, checkpoint_store, distributed
from score_jax.checkpoint_store import Store
from score_jax.train_state import TrainState
from score_jax.types import UserError
from score_jax.workdir import Workdir

LOGGER = logging.getLogger("score_jax")
INFERENCE = ("params", "ema_params", "batch_stats")


@dataclasses.dataclass(frozen=True)
class Best:
    """The selected step and its validation accuracy."""

    score: float = -1.0
    step: int = -1


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on from.

    Attributes:
      state: laid out as asked for.
      best: so far.
      is_validated: whether the validation that is due at this step was done before the save.
    """

    state: TrainState
    best: Best
    is_validated: bool


class Checkpoints:
    """The checkpoints of one run: the last few, a series, and the best by validation accuracy.

    Every method but `check` is called by all processes together.
    """

    def __init__(self, workdir: Workdir, config: dict[str, Any], keep: int, keep_every: int = 0):
        """Of the steps that are multiples of `keep_every` none is removed; 0: of all but `keep`."""
        self._config = config
        self._best = Store(workdir.best, 1)
        # A checkpoint names its best: that one is on the disk before it.
        self._last = Store(workdir.checkpoints, keep, keep_every, before_commit=self._best.join)

    def restore(self, abstract: TrainState) -> Restored | None:
        """The newest whole state, laid out as `abstract`; None in a fresh run.

        What killed saves left is removed, damaged checkpoints are set aside with a line, and so
        is the best one where nothing is left of the run that it belongs to.

        Raises:
          UserError: only damaged checkpoints, or of another version or config.
        """
        step = self._agree_on_step(abstract)
        self._last.reload()
        self._best.reload()
        restored = None
        if step is not None:
            state, about = self._last.restore(step, abstract)
            best = self._still_there(Best(**about["best"]))
            restored = Restored(state, best, about.get("is_validated", True))
            # Selected after the state that the run goes on from: it is not part of what follows.
            self._best.remove_after(step)
        return restored

    def _still_there(self, best: Best) -> Best:
        if best.step == Best().step or best.step in self._best.steps():
            return best
        if distributed.is_primary():
            LOGGER.warning(
                "the best checkpoint so far, step %d with a validation accuracy of %.2f%%, is lost "
                "(no whole one in %s); the selection begins anew: the next validation will be the "
                "best, whatever its accuracy", best.step, 100 * best.score, self._best.folder,
            )  # fmt: skip
        return Best()

    def _agree_on_step(self, abstract: TrainState) -> int | None:
        """The step that process 0 finds whole, on all processes."""
        found: dict[str, Any] = {"step": None, "error": None}
        if distributed.is_primary():
            try:
                found["step"] = self._choose(abstract)
            except UserError as error:
                found["error"] = str(error)
            except OSError as error:
                found["error"] = f"{error.filename}: {error.strerror}; give this user its rights"
        # Reading all of a checkpoint takes its time; a collective might not wait that long.
        distributed.barrier("verified checkpoint", timeout_seconds=3600)
        found = distributed.from_primary(found)
        if found["error"]:
            raise UserError(found["error"])
        return found["step"]

    def _choose(self, abstract: TrainState) -> int | None:
        last, best = self._last.folder, self._best.folder
        checkpoint_store.remove_unfinished(last)
        checkpoint_store.remove_unfinished(best)
        step = checkpoint_choice.newest_whole(last, abstract)
        for selected in checkpoint_store.steps(best):
            if not checkpoint_choice.is_set_aside(best, selected) and step is None:
                place = checkpoint_choice.set_aside(best, selected, checkpoint_choice.BEFORE)
                LOGGER.warning(
                    "there is no checkpoint in %s: the run begins anew, and its best so far is "
                    "moved from %s to %s", last, best / str(selected), place,
                )  # fmt: skip
        return step

    def save(self, state: TrainState, best: Best, *, is_validated: bool) -> None:
        """Begins to save the whole run at its step; a step that is saved already stays as it is.

        Returns when the arrays are copied: they may be donated.

        Args:
          state: of the run.
          best: so far.
          is_validated: whether the validation that is due at this step is done.

        Raises:
          UserError: the storage refused this save or an earlier one.
        """
        about = {"best": dataclasses.asdict(best), "is_validated": is_validated}
        self._last.save(int(state.step), state, {**about, "config": self._config})

    def save_best(self, state: TrainState, accuracies: dict[str, float]) -> None:
        """Begins to save what inference needs, in place of the previous best of this run.

        Raises:
          UserError: the storage refused this save or an earlier one.
        """
        parts = {name: getattr(state, name) for name in INFERENCE}
        about = {"accuracies": accuracies, "config": self._config}
        self._best.save(int(state.step), parts, about)

    def check(self) -> None:
        """Raises what a save met in the background, once; costs nothing, never waits."""
        self._best.check()
        self._last.check()

    def wait(self) -> None:
        """Waits until every save is on the disk.

        Raises:
          UserError: the storage refused one.
        """
        self._best.wait()
        self._last.wait()

    def close(self) -> None:
        """Waits; a failure that nobody was told is a line of the log."""
        self._last.close()
        self._best.close()


def latest_step(folder: str | os.PathLike[str]) -> int | None:
    """The newest checkpoint of the run in a folder; None where there is none, or no run."""
    path = Workdir(Path(folder).expanduser().absolute()).checkpoints
    return max(checkpoint_store.steps(path), default=None)


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
      UserError: no such checkpoint, or a damaged one.
    """
    folders = {"best": workdir.best, "last": workdir.checkpoints}
    if which not in folders or weights not in ("ema", "live"):
        raise UserError(
            f"--checkpoint={which} --weights={weights}: checkpoints are best and last, weights "
            "are ema and live"
        )
    folder = folders[which]
    step = max(checkpoint_store.steps(folder), default=None)
    if step is None:
        raise UserError(
            f"{folder} holds no checkpoint; train first: score-jax train --workdir={workdir.path}"
        )
    try:
        return checkpoint_series.network(folder / str(step), weights)
    except UserError as error:
        remedy = "give --checkpoint=last"
        if which == "last":
            remedy = "the command that trained it goes on from the one before"
        raise UserError(f"{error}; {remedy}") from None
