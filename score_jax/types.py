"""The words that every floor uses: array types, the user's error, and table look-up."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax

Array = jax.Array
Key = jax.Array  # A typed key of jax.random.key, consumed by split or fold_in.
Params = dict[str, Any]  # Nested, string keys.
BatchStats = dict[str, Any]  # Nested, string keys.

Entry = TypeVar("Entry")


class UserError(Exception):
    """A condition the user can act on, told in one line: the value, the field and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class TemporaryFailure(Exception):
    """What may be over when the same command is given again, told in one line.

    The command line prints it without a traceback and exits with code 75.
    """


def nearest(name: str, known: Any) -> str | None:
    """The known name that looks most like `name`, or None where none comes close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def lookup(table: Mapping[str, Entry], kind: str, name: str) -> Entry:
    """The entry of a registry.

    Raises:
      UserError: the name is unknown; the message lists the known ones.
    """
    if name in table:
        return table[name]
    close = nearest(name, table)
    hint = f"; did you mean {close!r}?" if close else "."
    raise UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(table))}{hint}")
