"""Recipes from files, and fields overridden from text: `PATH[:ARG]` and `FIELD=VALUE`."""

import ast
import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, FieldReference

from score_jax.types import UserError, nearest

ROOT = Path(__file__).resolve().parents[1]
KINDS = {int: "an integer", float: "a number", bool: "a boolean (true or false)", str: "a string"}


def flatten(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf of a nested mapping, in its order."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def find_recipe(path: str) -> Path:
    """The file of a recipe, looked for from here and then next to the package.

    Raises:
      UserError: there is none; the message names the nearest file that exists.
    """
    candidates = [Path(path), ROOT / path]
    candidates += [candidate.with_name(candidate.name + ".py") for candidate in candidates]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    known = [f"configs/{file.name}" for file in recipe_files()]
    close = nearest(path, known)
    hint = f"did you mean {close}?" if close else f"known: {', '.join(known) or 'none'}"
    raise UserError(f"--config={path}: no such file; {hint}")


def recipe_files() -> list[Path]:
    """The recipes next to the package: what in its configs folder defines `get_config`."""
    files = sorted((ROOT / "configs").glob("*.py"))
    return [file for file in files if "\ndef get_config(" in file.read_text()]


@contextlib.contextmanager
def _importable(root: Path) -> Iterator[None]:
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))


def load_module(path: str) -> ModuleType:
    """The Python file that `find_recipe` finds, executed.

    Raises:
      UserError: no such file, or it raises.
    """
    file = find_recipe(path)
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: a recipe is a Python file, its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    with _importable(ROOT), _told(path, "importing it"):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _told(path: str, doing: str) -> Iterator[None]:
    """Whatever a recipe raises becomes one line that names the recipe."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # A recipe refuses its argument with ValueError: the message is its whole story.
        kind = "" if isinstance(error, ValueError) else f"{doing} raised {type(error).__name__}: "
        raise UserError(f"--config={path}: {kind}{' '.join(str(error).split())}") from error


def _split(path: str) -> tuple[str, str | None]:
    file, colon, arg = path.partition(":")
    return file, arg if colon else None


def load_recipe(path: str) -> ConfigDict:
    """The locked config that `get_config` of the recipe `PATH[:ARG]` returns.

    Raises:
      UserError: no such file, no `get_config`, or the recipe raises.
    """
    file, arg = _split(path)
    module = load_module(file)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={file}: no function get_config; it returns the ConfigDict")
    with _told(path, "get_config"):
        config = module.get_config() if arg is None else module.get_config(arg)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path}: get_config returned {type(config).__name__}, not a ConfigDict"
        )
    return _locked(config)


def _locked(config: ConfigDict) -> ConfigDict:
    # A locked config does not look into sections that were replaced since.
    return config.unlock().lock()


@dataclasses.dataclass(frozen=True)
class Setting:
    """One of the runs of a `sweep()`.

    Attributes:
      recipe: `PATH[:ARG]` with the setting's own argument added.
      overrides: `FIELD=VALUE` texts.
      name: of its folder.
    """

    recipe: str
    overrides: tuple[str, ...]
    name: str


def load_sweep(path: str) -> list[Setting]:
    """The settings of the `sweep()` of the recipe `PATH[:ARG]`.

    `sweep` yields dicts of overrides, or texts: arguments of the recipe, such as 'method=mart',
    which are added to ARG.

    Raises:
      UserError: the recipe has no `sweep`, it raises, or two settings have one name.
    """
    file, _ = _split(path)
    module = load_module(file)
    if not hasattr(module, "sweep"):
        raise UserError(
            f"--config={file}: no function sweep; it yields dicts of overrides, or arguments"
        )
    with _told(path, "sweep"):
        settings = [_setting(path, setting) for setting in module.sweep()]
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--config={file}: sweep() yields {name!r} twice; its runs are one")
    return settings


def sweep_table(path: str) -> str:
    """The `TABLE` of the recipe `PATH[:ARG]`: what its sweep measures; '' where it has none."""
    return getattr(load_module(_split(path)[0]), "TABLE", "")


def _setting(path: str, setting: str | Mapping[str, Any]) -> Setting:
    if isinstance(setting, str):
        file, arg = _split(path)
        recipe = f"{file}:{','.join(part for part in (arg, setting) if part)}"
        return Setting(recipe, (), setting.replace("/", "_") or "default")
    texts = [f"{name.removeprefix('config.')}={write(v)}" for name, v in setting.items()]
    return Setting(path, tuple(texts), ",".join(texts).replace("/", "_") or "default")


def write(value: Any) -> str:
    """A value as `parse` reads it."""
    if isinstance(value, tuple | list):
        return ",".join(str(entry) for entry in value)
    return str(value)


def apply(config: ConfigDict, overrides: Iterable[str]) -> ConfigDict:
    """Sets fields of `config` from texts `FIELD=VALUE` (a leading `config.` is allowed), in order.

    Raises:
      UserError: not of that form, an unknown field, a section, or a value of another type.
    """
    for text in overrides:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").removeprefix("config.")
        if not equals:
            raise UserError(f"{text!r} is not FIELD=VALUE, such as objective.beta=3")
        _set(config, name, value.strip())
    return _locked(config)


def _set(config: ConfigDict, name: str, text: str) -> None:
    section: Any = config
    *parents, leaf = name.split(".")
    for part in [*parents, leaf]:
        if not isinstance(section, ConfigDict) or part not in section:
            names = [known for known, _ in flatten(config.to_dict())]
            close = nearest(name, names)
            hint = f"did you mean {close!r}?" if close else f"known sections: {', '.join(config)}"
            raise UserError(f"no field {name!r}; {hint}")
        parent, section = section, section[part]
    if isinstance(section, ConfigDict):
        inner = ", ".join(f"{name}.{field}" for field in section)
        raise UserError(f"config.{name} is a section; set one of its fields: {inner}")
    held = dict(parent.items(preserve_field_references=True))[leaf]
    if text == "None" and isinstance(held, FieldReference):  # How an optional field is declared.
        parent[leaf] = None
    else:
        parent[leaf] = parse(text, section, parent.get_type(leaf), name)


def parse(text: str, current: Any, kind: type, name: str) -> Any:
    """The value that `text` writes for a field of type `kind` whose value is `current`.

    Numbers may be fractions (`8/255`) or powers (`1e3`, for an integer where it is one); tuples are
    written `a,b`; booleans `true` and `false`.

    Raises:
      UserError: `text` does not write such a value.
    """
    if issubclass(kind, tuple):
        return _parse_tuple(text, current, name)
    if kind is type(None):  # Declared without a type: what the text looks like.
        return _literal(text)
    try:
        return parse_scalar(text, kind)
    except ValueError:
        raise UserError(f"config.{name}={text!r} is not {KINDS.get(kind, kind.__name__)}") from None


def parse_scalar(text: str, kind: type) -> Any:
    """The boolean, integer, number or string that `text` writes.

    Raises:
      ValueError: it writes none of that kind.
    """
    if kind is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() not in known:
            raise ValueError(text)
        return known[text.lower()]
    if kind is int:
        digits = text.lstrip("+-").isdecimal()  # Read exactly, beyond 2**53 too.
        value = int(text) if digits else parse_number(text)
        if not digits and not float(value).is_integer():
            raise ValueError(text)
        return int(value)
    return parse_number(text) if kind is float else kind(text)


def parse_number(text: str) -> float:
    """A number as people write it: `0.5`, `1e3`, `8/255`.

    Raises:
      ValueError: it is none of these, or it divides by zero.
    """
    numerator, slash, denominator = text.partition("/")
    if not slash:
        return float(text)
    if float(denominator) == 0:
        raise ValueError(text)
    return float(numerator) / float(denominator)


def _parse_tuple(text: str, current: Sequence[Any], name: str) -> tuple[Any, ...]:
    inner = text.strip().removeprefix("(").removesuffix(")").strip()
    entries = [entry.strip().strip("'\"") for entry in inner.split(",") if entry.strip()]
    if not current:
        return tuple(_literal(entry) for entry in entries)
    return tuple(parse(entry, current[0], type(current[0]), name) for entry in entries)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
