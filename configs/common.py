"""What recipes share: the default config and the argument after the colon, `PATH:ARG`."""

import difflib
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from score_jax import config as config_module


def default() -> ConfigDict:
    """A fresh copy of `score_jax.config.default()`, for a recipe to change."""
    return config_module.default()


def parse_arg(arg: str | None, **defaults: Any) -> SimpleNamespace:
    """The argument of a recipe, `'model=wrn-34-20,smoke'`, as typed attributes.

    Args:
      arg: comma-separated `name=value`; a boolean is set by its bare name. A bare word that is not
        a name is the value of the first default, if that is a string: `'wrn-34-20,smoke'`.
      **defaults: every known name with its default, which also gives its type.

    Raises:
      ValueError: an unknown name (the known ones are listed), or a value of another type.
    """
    values = dict(defaults)
    first = next((name for name, value in defaults.items() if isinstance(value, str)), None)
    for position, word in enumerate(part.strip() for part in (arg or "").split(",")):
        name, equals, text = word.partition("=")
        if not word:
            continue
        if not equals and name not in defaults and position == 0 and first:
            if difflib.get_close_matches(name, defaults, n=1, cutoff=0.75):
                raise ValueError(_unknown(name, defaults))
            name, equals, text = first, "=", word
        if name not in defaults:
            raise ValueError(_unknown(name, defaults))
        if not equals and not isinstance(defaults[name], bool):
            raise ValueError(f"argument {name!r} needs a value: {name}={defaults[name]}")
        values[name] = _parse(name, text if equals else "true", defaults[name])
    return SimpleNamespace(**values)


def _unknown(name: str, defaults: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, defaults, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown argument {name!r}; known: {', '.join(defaults)}{hint}"


def _parse(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, float):
            numerator, slash, denominator = text.partition("/")
            return float(numerator) / float(denominator) if slash else float(text)
        if isinstance(default, int):
            if float(text) != int(float(text)):
                raise ValueError(text)
            return int(float(text))
        return text
    except (KeyError, ValueError, OverflowError, ZeroDivisionError):
        kind = type(default).__name__
        raise ValueError(f"argument {name}={text!r} is not of type {kind}") from None
