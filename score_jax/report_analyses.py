"""What measurements found of a run, for its report: WORKDIR/analysis/*.json and their pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from score_jax.report_run import Run
from score_jax.types import UserError


@dataclass(frozen=True)
class Section:
    """A finding: its words, its table, and the captions and SVG texts of its pictures."""

    title: str
    summary: Sequence[str]
    table: Sequence[Sequence[str]]
    pictures: Mapping[str, str]

    def drawn(self, to_inline: Callable[[str, str], str]) -> "Section":
        """The same with pictures for the inside of a page: (SVG, caption) -> its text there."""
        inline = {caption: to_inline(svg, caption) for caption, svg in self.pictures.items()}
        return replace(self, pictures=inline)


def sections(run: Run) -> tuple[list[Section], list[str]]:
    """The findings of the exported model or its data, and the names of those of another export.

    Raises:
      UserError: a file that is not one of a finding.
    """
    sha256, found, outdated = run.model_sha256, [], []
    for path in sorted(run.workdir.path.glob("analysis/*.json")):
        try:
            facts: dict[str, Any] = json.loads(path.read_text())
            title, summary, table = (facts[name] for name in ("title", "summary", "table"))
            captions = dict(facts["pictures"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not of `score-jax analyze`; move it away") from None
        if not _is_current(run, facts, sha256):
            outdated.append(path.stem)
            continue
        drawn = {
            captions[name]: picture.read_text()
            for name in captions
            if (picture := path.with_name(f"{path.stem}_{name}.svg")).exists()
        }
        found.append(Section(title, summary, table, drawn))
    return found, outdated


def _is_current(run: Run, facts: Mapping[str, Any], sha256: str | None) -> bool:
    """Whether a finding is of the export; one over checkpoints: the export is one of them, and
    those that it calls best and last are so still."""
    if not sha256:
        return True
    measured = facts.get("checkpoints")
    if not (isinstance(measured, list) and measured and "model_sha256" in measured[-1]):
        return facts.get("model_sha256", sha256) == sha256
    if sha256 not in [one["model_sha256"] for one in measured]:
        return False
    from score_jax import checkpoint_series  # Here: it takes Orbax, which few reports need.

    kept = {one.name for one in checkpoint_series.kept(run.workdir)}
    named = {one["name"] for one in measured if "(" in one.get("name", "")}
    return not kept or named <= kept
