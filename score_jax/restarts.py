"""Restarts that lead nowhere: a pod that starts again for ever costs money and trains nothing."""

import json

from score_jax.types import UserError
from score_jax.workdir import Workdir

MOST = 10
# How a start ends that somebody asked to end, or that ended because it was refused here.
EXPECTED = ("stopped", "finished", "refused")


def begin(place: Workdir, step: int) -> None:
    """Notes where a start goes on from, in process 0.

    Raises:
      UserError: the last `MOST` starts went on from this step too and ended, unasked, before a
        later checkpoint. The next start after that is let through: something was mended.
    """
    history = json.loads(place.run.read_text())["history"]
    fruitless = 0
    for entry in reversed(history[:-1]):
        if entry.get("from_step") != step or entry.get("outcome") in EXPECTED:
            break
        fruitless += 1
    history[-1]["from_step"] = step
    place.record(history=history)
    if fruitless >= MOST:
        history[-1]["outcome"] = "refused"
        place.record(history=history)
        raise UserError(
            f"{fruitless} starts in a row went on from step {step} and ended before a new "
            f"checkpoint; the end of each is in {place.logs}: mend that, or lower "
            "config.checkpoint.every_minutes, and give the same command again"
        )
