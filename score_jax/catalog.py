"""What there is to choose from: `score-jax list [SECTION]`, read from registries and docstrings."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from score_jax import attacks, models, objectives, optimizers, overrides, weight_perturbation
from score_jax.data import sources
from score_jax.types import lookup

Entries = Iterator[tuple[str, str]]
PUBLISHED = "configs/published.py"


def describe(section: str = "") -> list[str]:
    """One line an entry; every section with a heading, or the named one without.

    Raises:
      UserError: no such section.
    """
    if section:
        return _lines(lookup(SECTIONS, "section", section)())
    lines = []
    for name, entries in SECTIONS.items():
        lines += [f"{name}:", *(f"  {line}" for line in _lines(entries())), ""]
    return lines[:-1]


def _lines(entries: Entries) -> list[str]:
    rows = list(entries)
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}".rstrip() for name, text in rows]


def _summary(text: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _attributes(text: str | None) -> Entries:
    """(name, first sentence) of the "Attributes:" of a docstring."""
    _, _, listed = (text or "").partition("Attributes:\n")
    for names, told in re.findall(r"^ {6}([a-z_, ]+): (.+(?:\n {8}.+)*)", listed, re.MULTILINE):
        yield names, re.split(r"; (?![^(]*\))|\. (?=[A-Z])", " ".join(told.split()))[0].rstrip(".")


def _methods() -> Entries:
    for name, kind in objectives.OBJECTIVES.items():
        yield f"objective.name={name}", _summary(kind.__doc__)
    for names, told in _attributes(attacks.PGD.__doc__):
        if names != "threat":
            yield f"attack.{names}", re.sub("`([A-Z]+)`", _names, told)
    yield "awp.gamma", _summary(weight_perturbation.__doc__)


def _names(table: re.Match[str]) -> str:
    return ", ".join(getattr(attacks.pgd, table.group(1)))


def _optimizers() -> Entries:
    for name, kind in optimizers.OPTIMIZERS.items():
        yield f"optimizer.name={name}", _summary(kind.__doc__)
    for name, kind in optimizers.SCHEDULES.items():
        yield f"schedule.name={name}", _summary(kind.__doc__)
    yield "large_batch.reference_batch_size", _summary(optimizers.scaled.__doc__)


def _models() -> Entries:
    for name, network in models.MODELS.items():
        yield name, _summary(network.build.__doc__)


def _datasets() -> Entries:
    for name, spec in sources.DATASETS.items():
        sizes = ", ".join(f"{size} {split}" for split, size in spec.split_sizes.items() if size)
        shape = "x".join(map(str, spec.image_shape))
        purpose = f"generated or pseudo-labelled, for {spec.extends}" if spec.extends else sizes
        yield name, f"{spec.num_classes} classes, {shape}, {purpose}"


def _attacks() -> Entries:
    package = Path(attacks.__file__).parent
    stems = [file.stem for file in package.glob("*.py")]
    # `fab_projections` is a part of `fab`.
    files = [
        file
        for file in sorted(package.glob("*.py"))
        if file.stem != "__init__" and not any(file.stem.startswith(f"{stem}_") for stem in stems)
    ]
    for file in [*files, package.parent / "official_autoattack.py"]:
        yield file.stem, _summary(_docstring(file))


def _configs() -> Entries:
    for file in overrides.recipe_files():
        text = _docstring(file)
        arguments = re.search(r"^Arguments: (.+(?:\n.+)*)", text, re.MULTILINE)
        told = f" [{' '.join(arguments.group(1).split()).rstrip('.')}]" if arguments else ""
        yield file.name, _summary(text) + told


def _tables() -> Entries:
    tables: Mapping[str, Any] = overrides.load_module(PUBLISHED).TABLES
    for name, table in tables.items():
        yield name, f"{table.title}; {len(table.rows)} rows; {table.source}"


def _docstring(file: Path) -> str:
    # Not imported: some need libraries that are not installed everywhere.
    return ast.get_docstring(ast.parse(file.read_text())) or ""


SECTIONS: dict[str, Callable[[], Entries]] = {
    "methods": _methods,
    "optimizers": _optimizers,
    "models": _models,
    "datasets": _datasets,
    "attacks": _attacks,
    "configs": _configs,
    "tables": _tables,
}
