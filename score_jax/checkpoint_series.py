"""Every checkpoint that a run has kept: which there are, and the network of each.

For measurements over training. Nothing is moved or written here: the run may be going on.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_jax import checkpoint_choice, checkpoint_store
from score_jax.types import UserError
from score_jax.workdir import Workdir

LOGGER = logging.getLogger("score_jax")
WORDS = ("all", "best", "last")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A checkpoint of a run.

    Attributes:
      folder: its own, below checkpoints/ or checkpoints_best/.
      is_best: whether it is the one that validation selected.
      is_last: whether there is none later.
    """

    step: int
    folder: Path
    is_best: bool
    is_last: bool

    @property
    def name(self) -> str:
        """'step 138 (best, last)'."""
        words = [word for word, holds in (("best", self.is_best), ("last", self.is_last)) if holds]
        return f"step {self.step}" + (f" ({', '.join(words)})" if words else "")


def kept(workdir: Workdir) -> list[Kept]:
    """The checkpoints of a run, the best among them, each step once, in rising order."""
    folders = {step: workdir.checkpoints for step in checkpoint_store.steps(workdir.checkpoints)}
    best = max(checkpoint_store.steps(workdir.best), default=None)
    if best is not None:
        folders[best] = workdir.best  # Smaller: it has no state of the optimizer.
    return [
        Kept(
            step=step,
            folder=folder / str(step),
            is_best=step == best,
            is_last=step == max(folders),
        )
        for step, folder in sorted(folders.items())
    ]


def choose(workdir: Workdir, words: str) -> list[Kept]:
    """The checkpoints that a person names.

    Args:
      words: 'all', or any of 'best', 'last' and steps, comma separated.

    Raises:
      UserError: one of them is no word for a checkpoint, or is not kept.
    """
    found = kept(workdir)
    if not found:
        raise UserError(
            f"{workdir.checkpoints} holds no checkpoint; train first: score-jax train "
            f"--workdir={workdir.path}"
        )
    chosen = set()
    for word in (word.strip() for word in words.split(",")):
        fitting = _fitting(found, word)
        if not fitting:
            raise UserError(
                f"--checkpoints={words}: {word!r} is not there; give all, best, last or steps of "
                f"{', '.join(str(one.step) for one in found)}"
            )
        chosen |= {one.step for one in fitting}
    return [one for one in found if one.step in chosen]


def _fitting(found: Sequence[Kept], word: str) -> list[Kept]:
    return [
        one
        for one in found
        if word == "all"
        or (word == "best" and one.is_best)
        or (word == "last" and one.is_last)
        or word == str(one.step)
    ]


def network(folder: Path, weights: str) -> dict[str, Any]:
    """The network of the checkpoint in a folder, on the host; see `checkpoint.load_for_export`.

    Raises:
      UserError: it is damaged, or gone.
    """
    state, about, damage = {}, {}, None
    try:
        damage = checkpoint_choice.find_damage(folder)
        if not damage:
            state, about = checkpoint_choice.read(folder)
    except Exception:  # Of a folder that goes away meanwhile nearly everything is raised.
        if folder.is_dir():
            raise
    if not folder.is_dir():  # A run that goes on removes old ones.
        raise UserError(f"checkpoint {folder} is gone")
    if damage:
        raise UserError(f"checkpoint {folder} is damaged: {damage}")
    return {
        "params": state["ema_params" if weights == "ema" else "params"],
        "batch_stats": state["batch_stats"],
        "step": int(folder.name),
        "accuracies": about.get("accuracies", {}),
        "config": about["config"],
    }


def networks(chosen: Sequence[Kept], weights: str) -> Iterator[tuple[Kept, dict[str, Any]]]:
    """Each checkpoint with its `network`, read when it is asked for; damaged ones are left out.

    Args:
      weights: 'ema' or 'live'.

    Raises:
      UserError: all of them are damaged.
    """
    damaged = []
    for one in chosen:
        try:
            found = network(one.folder, weights)
        except UserError as error:
            damaged.append(str(error))
            LOGGER.warning("%s; it is left out", error)
            continue
        yield one, found
    if len(damaged) == len(chosen):
        raise UserError(f"no checkpoint is left to measure: {damaged[-1]}")
