"""What a measurement found, and how it is kept: words, a table, numbers, arrays and pictures.

The files of a folder of findings are all that a report reads: NAME.json says in words and numbers
what was found and which pictures belong to it, NAME_PICTURE.svg and .png.
"""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from score_jax.report_table import align
from score_jax.types import UserError
from score_jax.workdir import library_versions, write_json_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "pictures need matplotlib: pip install 'score_jax[plots]'"


@dataclass(frozen=True)
class Picture:
    """A caption, and how to draw it; nothing is drawn without matplotlib."""

    caption: str
    draw: Callable[[], "Figure"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing measured.

    Attributes:
      name: stem of its files; letters, digits, '-', '_' and '.'.
      title: heading of its section.
      summary: sentences that answer what was asked, numbers in them.
      facts: everything, for JSON: finite numbers, None where there is none. With 'model_sha256'
        where a model was measured: a report leaves out what an earlier export was found to be.
      table: rows of text, the head first; () for none.
      pictures: name -> picture.
      arrays: kept as NAME.npz, numbers of single examples.
    """

    name: str
    title: str
    summary: Sequence[str]
    facts: Mapping[str, Any]
    table: Sequence[Sequence[str]] = ()
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def write(folder: Path, what: str, finding: Finding, seconds: float) -> str:
    """Writes the files of a finding; returns what to print. JSON comes last, and names the others.

    Everything is drawn before anything is written; what an earlier finding of that name has drawn
    and this one has not is removed.

    Raises:
      UserError: the folder cannot be written.
    """
    figures = _draw(finding)
    drawn = {name: finding.pictures[name].caption for name in figures}
    result = folder / f"{finding.name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _captions(result) - drawn.keys():
            for form in ("svg", "png"):
                (folder / f"{finding.name}_{name}.{form}").unlink(missing_ok=True)
        for name, forms in figures.items():
            for form, content in forms.items():
                place = folder / f"{finding.name}_{name}.{form}"
                _write_bytes(place, lambda file, content=content: file.write(content))
        facts = {
            "analysis": what,
            "seconds": seconds,
            "title": finding.title,
            "summary": list(finding.summary),
            "table": [list(row) for row in finding.table],
            "pictures": drawn,
            **finding.facts,
            "versions": library_versions(),
        }
        if finding.arrays:
            facts["arrays"] = f"{finding.name}.npz"
            _write_bytes(folder / facts["arrays"], lambda file: np.savez(file, **finding.arrays))
        write_json_atomic(result, facts)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{folder} cannot be written ({reason}); give another --out") from None
    lines = [finding.title, *(align(finding.table) if finding.table else ()), *finding.summary]
    paths = [str(result), *(str(folder / f"{finding.name}_{name}.png") for name in drawn)]
    if finding.pictures and not drawn:
        paths.append(INSTALL)
    return "\n".join([*lines, *paths])


def _captions(result: Path) -> set[str]:
    """The names of the pictures of an earlier finding; none where there is no such file."""
    try:
        names = json.loads(result.read_text())["pictures"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if Path(name).name == name}


def _draw(finding: Finding) -> dict[str, dict[str, bytes]]:
    """Name -> 'svg', 'png' -> what its file holds; {} without matplotlib."""
    if not finding.pictures or importlib.util.find_spec("matplotlib") is None:
        return {}
    import matplotlib

    from score_jax import report_style

    drawn = {}
    for name, picture in finding.pictures.items():
        with matplotlib.rc_context(report_style.STYLE):
            figure = picture.draw()
        drawn[name] = {
            "svg": report_style.to_svg(figure).encode(), "png": report_style.to_png(figure),
        }  # fmt: skip
    return drawn


def _write_bytes(path: Path, write: Callable[[Any], Any]) -> None:
    """The file appears when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
