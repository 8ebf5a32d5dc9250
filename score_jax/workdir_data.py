"""What a run trains on: one that goes on has to find the same images and labels again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_jax.types import UserError

DIGITS = 12  # Of a fingerprint, for messages.


def noted(run: Mapping[str, Any], here: Mapping[str, str]) -> dict[str, str]:
    """Fingerprints of what a run was begun with, by set; none where they were not noted then.

    Args:
      run: its record; without a history it begins now.
      here: the fingerprints of what is there now.
    """
    return run.get("data_fingerprints", {} if run.get("history") else dict(here))


def check(path: Path, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Refuses to go on with other data than a run was begun with.

    Args:
      path: of the run's folder.
      there: what was `noted`.
      here: the fingerprints of what is there now.

    Raises:
      UserError: one of them is another; the line names the first.
    """
    for name in sorted({*there, *here}) if there else ():
        old, new = (each.get(name, "none")[:DIGITS] for each in (there, here))
        if old != new:
            raise UserError(
                f"workdir {path} holds a run that was begun with another {name} (fingerprint "
                f"{old} there, {new} here); give back what it was begun with (see "
                "--config.data.dir), or use a new --workdir"
            )
