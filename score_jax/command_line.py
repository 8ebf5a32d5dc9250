"""Reading a command line: the flags of one job, `--config.FIELD=VALUE`, and the text of --help."""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from absl import flags

from score_jax.command_line_flags import FLAGS

# Flags that name one folder: a shell leaves the ~ of --workdir=~/x as it is.
FOLDERS = ("workdir", "artifact", "data_dir", "out")


class UsageError(Exception):
    """A command line that cannot be read; one line."""


@dataclass(frozen=True)
class Call:
    """One command line, read: flags as attributes, overrides of the config, and bare words."""

    values: flags.FlagValues
    overrides: tuple[str, ...]
    words: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.values, name)
        return os.path.expanduser(value) if name in FOLDERS else value


@dataclass(frozen=True)
class Topic:
    """A word after a job's name that chooses what it does.

    flags: those that it takes; meanings: what a flag is there, where the common text is too wide.
    """

    summary: str
    example: str
    flags: tuple[str, ...]
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One word after `score-jax`: what it does, an example, its flags, its function."""

    summary: str
    example: str
    flags: tuple[str, ...]
    run: Callable[[Call], Any]
    takes_words: bool = False
    joins: bool = True  # Where it has the flags of CLUSTER: whether it runs as one of several.
    topics: Mapping[str, Topic] = field(default_factory=dict)

    @property
    def all_flags(self) -> tuple[str, ...]:
        return (*self.flags, "log_level")


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def parse(name: str, job: Job, arguments: Sequence[str]) -> Call:
    """Reads the flags of one job.

    Raises:
      UsageError: an unknown flag (the nearest one is named), or a value of another type.
    """
    values = flags.FlagValues()
    for flag in job.all_flags:
        _define(values, flag)
    plain, overrides = _split_overrides(arguments)
    if overrides and "config" not in job.flags:
        raise UsageError(f"--config.{overrides[0]}: this job reads the config that the run had")
    try:
        words = tuple(values([name, *plain])[1:])
    except flags.UnrecognizedFlagError as error:
        hint = suggest(f"--{error.flagname}", [f"--{flag}" for flag in job.all_flags])
        raise UsageError(f"unknown flag --{error.flagname}; {hint}") from None
    except flags.Error as error:
        raise UsageError(str(error).removeprefix("flag ")) from None
    if words and not job.takes_words:
        raise UsageError(f"unexpected {words[0]!r}; flags are written --NAME=VALUE")
    return Call(values, overrides, words)


def _define(values: flags.FlagValues, flag: str) -> None:
    kind, default, text = FLAGS[flag]
    simple = {
        "string": flags.DEFINE_string,
        "boolean": flags.DEFINE_boolean,
        "integer": flags.DEFINE_integer,
        "list": flags.DEFINE_list,
        "multi": flags.DEFINE_multi_string,
    }
    if "|" in kind:
        flags.DEFINE_enum(flag, default, kind.split("|"), text, flag_values=values)
    elif kind in simple:
        simple[kind](flag, default, text, flag_values=values)
    else:
        low = {"count": 0, "positive": 1}[kind]
        flags.DEFINE_integer(flag, default, text, lower_bound=low, flag_values=values)


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    plain, overrides = [], []
    rest = iter(arguments)
    for word in rest:
        bare = word.lstrip("-")
        if word == bare or not bare.startswith(("config.", "noconfig.")):
            plain.append(word)
        elif bare.startswith("noconfig."):
            overrides.append(f"{bare.removeprefix('noconfig.')}=false")
        elif "=" in bare:
            overrides.append(bare.removeprefix("config."))
        else:
            value = next(rest, None)
            if value is None or value.startswith("--"):
                raise UsageError(f"{word} has no value; write {word}=VALUE")
            overrides.append(f"{bare.removeprefix('config.')}={value}")
    return plain, tuple(overrides)


def overview(jobs: Mapping[str, Job]) -> str:
    """The text of `score-jax --help`."""
    lines = [f"  {name:<11} {job.summary}" for name, job in jobs.items()]
    example = next(iter(jobs.values())).example
    return "\n".join(
        ["score-jax JOB [--flags]; every job answers --help.", "Jobs:", *lines, "Example:"]
        + [f"  {example}"]
    )


def describe(name: str, job: Job, words: Sequence[str] = ()) -> str:
    """The text of `score-jax JOB --help`, or of `score-jax JOB TOPIC --help`."""
    topic = job.topics.get(next(iter(words), ""))
    if topic:
        name, summary, example = f"{name} {words[0]}", topic.summary, topic.example
    else:
        summary, example = job.summary, job.example
    lines = [f"score-jax {name}: {summary}", "Example:", *(f"  {x}" for x in example.splitlines())]
    if job.topics and not topic:
        lines += [f"One word says what; its flags: score-jax {name} WHAT --help"]
        return "\n".join([*lines, *(f"  {what:<13} {t.summary}" for what, t in job.topics.items())])
    lines.append("Flags:")
    for flag in (*topic.flags, "log_level") if topic else job.all_flags:
        kind, default, text = FLAGS[flag]
        own = topic.meanings.get(flag) if topic else None
        text = own or text
        choices = ", ".join(choice or "''" for choice in kind.split("|")) if "|" in kind else ""
        text += f" One of: {choices}." if choices else ""
        shown = "" if own or default in ("", [], -1) else f" [{default}]"
        lines.append(f"  --{flag:<13} {text}{shown}")
    return "\n".join(lines)
