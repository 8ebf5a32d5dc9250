"""Reading a command line: the flags of one job, `--config.FIELD=VALUE`, and the text of --help."""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

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
class Job:
    """One word after `score-jax`: what it does, an example, its flags, its function."""

    summary: str
    example: str
    flags: tuple[str, ...]
    run: Callable[[Call], Any]
    takes_words: bool = False
    joins: bool = True  # Where it has the flags of CLUSTER: whether it runs as one of several.

    @property
    def all_flags(self) -> tuple[str, ...]:
        return (*self.flags, "log_level")


# Flag: kind, default, help. A kind with bars lists the choices; 'count' is an integer of 0 or more.
FLAGS: dict[str, tuple[str, Any, str]] = {
    "workdir": ("string", "", "Folder of the run."),
    "config": ("string", "", "Recipe, PATH[:ARG]; fields follow as --config.FIELD=VALUE."),
    "list_sweep": ("boolean", False, "Print one command a setting of the recipe's sweep()."),
    "sweep_index": ("integer", -1, "Run this setting of the recipe's sweep(), counted from 0."),
    "artifact": ("string", "", "Exported model to judge, instead of WORKDIR/export."),
    "data_dir": ("string", "", "Folder of datasets; '': $TFDS_DATA_DIR or ~/tensorflow_datasets."),
    "checkpoint": ("best|last", "best", "Which checkpoint to export."),
    "weights": ("ema|live", "ema", "Averaged weights, or those that the optimizer holds."),
    "num_examples": (
        "count",
        0,
        "The first so many images; 0: all (sweep 100, trust 200, compare 256, preview 8).",
    ),
    "batch_size": ("positive", 500, "Images in one forward pass."),
    "seed": ("count", 0, "Seed of the attacks."),
    "eps": ("string", "", "Radius in pixel units, such as 8/255; '': the model's own."),
    "norm": ("|linf|l2|l1", "", "Norm of the ball; '': the model's own, linf without one."),
    "attack": (
        "pgd|cw|pgd_plus|multi_targeted|multi_targeted_margin|apgd-ce|apgd-t|fab-t|square"
        "|autoattack",
        "pgd",
        "What the images must withstand; autoattack: in JAX, not the official one.",
    ),
    "restarts": ("integer", -1, "Random restarts of the attack; -1: as many as is usual for it."),
    "steps": ("integer", -1, "Steps of the attack or walk; -1: as many as is usual for it."),
    "eps_curve": ("boolean", True, "Also measure accuracy over a range of radii."),
    "version": ("string", "standard", "Version of AutoAttack."),
    "attacks": ("list", [], "Attacks to run, comma separated; '': the usual ones."),
    "chunk_size": ("positive", 500, "Images attacked and saved together; independent of passes."),
    "seeding": ("chunk|official", "chunk", "One seed each attack and chunk, or the same for all."),
    "shard": ("string", "", "Compute one part of the chunks, such as 0/2; merge them after."),
    "backend": ("bridge|torch", "bridge", "Judge the JAX model, or its PyTorch export."),
    "data": ("string", "cifar10", "Dataset to measure."),
    "dataset": ("string", "", "Test images to use; '': those that the model was trained for."),
    "model": ("string", "", "Network of a PyTorch file, such as resnet-18; '': the other side's."),
    "normalization": ("string", "", "Of the input: dataset, none, MEAN;STD; '': as the file says."),
    "precisions": ("list", [], "Of float32, tf32, bf16: compare at each; '': tf32, bf16."),
    "out": ("string", "", "Folder to write to; '': one beside the model."),
    "split": ("test|train", "test", "Images to measure on."),
    "demo": ("|standard|pgdat|score|trades", "", "Train the toy this way; '': only its truth."),
    "divergence": (
        "kl|squared_error|l1|l2|linf|sqrt_js",
        "kl",
        "What attack and training of the toy measure.",
    ),
    "train_steps": ("positive", 500, "Steps of the toy's training."),
    "name": ("string", "", "Name of the result: WORKDIR/eval/NAME."),
    "table": ("string", "", "Published table to print, beside the runs below WORKDIR."),
    "jobs": ("count", 0, "Settings that run at a time; 0: 1, or up to 4 on a CPU alone."),
    "against": (
        "list",
        [],
        "Other exported models to attack from, or datasets whose test images to look for; commas.",
    ),
    "beside": ("list", [], "Other runs to show beside this one, comma separated."),
    "source": ("multi", [], "File or folder to prepare from; may be repeated."),
    "extends": ("string", "", "Dataset that the generated images of a set of your own add to."),
    "size": ("count", 0, "Height and width of the images, where there is a choice; 0: the usual."),
    "mirror": ("string", "", "Address to download the official files from instead."),
    "workers": ("count", 0, "Processes that write shards; 0: as many as cores, 8 at most."),
    "paper": ("string", "", "Address of the paper."),
    "title": ("string", "", "Title of the paper."),
    "authors": ("string", "", "Authors of the paper, comma separated."),
    "venue": ("string", "", "Where it appeared, such as 'arXiv, Nov 2026'."),
    "year": ("string", "", "Year in the model's name; '': the one of the venue."),
    "license": ("string", "mit", "Licence of the weights, as the Hugging Face Hub names it."),
    "footnote": ("string", "", "Remark of the leaderboard; '': what the config tells of images."),
    "additional_data": ("|true|false", "", "Outside images in training; '': see the config."),
    "hub": ("string", "", "Repository of the Hugging Face Hub, user/repo."),
    "draft": ("boolean", False, "Write it although something is missing, marked as a draft."),
    "hub_only": ("boolean", False, "For the Hugging Face Hub alone: any dataset and radius."),
    "coordinator": ("string", "", "HOST:PORT of process 0; '': as the cluster says."),
    "num_processes": ("count", 0, "Processes of the run; 0: as the cluster says, else 1."),
    "process_id": ("integer", -1, "This process, counted from 0; -1: as the cluster says."),
    "cluster": (
        "auto|none|slurm|tpu|gke",
        "auto",
        "What tells the processes of each other; none: this process is alone.",
    ),
    "init_timeout": ("positive", 900, "Seconds to wait for all processes to start."),
    "heartbeat_timeout": ("positive", 100, "Seconds after which a silent process counts as dead."),
    "topology": ("string", "", "Such as v5e:4x4, v5p:2x2x2, v6e:16x16; '': the devices here."),
    "effort": ("full|quick", "full", "Of the TPU compiler; quick: sooner, and upper bounds."),
    "log_level": ("debug|info|warning|error", "info", "What to tell; debug shows tracebacks."),
}

# What every job that judges an exported model on the test split takes.
JUDGED = ("workdir", "artifact", "data_dir", "num_examples", "batch_size", "eps", "seed", "name")

# What every job takes that runs as several processes.
CLUSTER = (
    "coordinator", "num_processes", "process_id", "cluster", "init_timeout", "heartbeat_timeout",
)  # fmt: skip


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


def describe(name: str, job: Job) -> str:
    """The text of `score-jax JOB --help`."""
    lines = [f"score-jax {name}: {job.summary}", "Example:"]
    lines += [f"  {line}" for line in job.example.splitlines()]
    lines.append("Flags:")
    for flag in job.all_flags:
        kind, default, text = FLAGS[flag]
        choices = ", ".join(choice or "''" for choice in kind.split("|")) if "|" in kind else ""
        text += f" One of: {choices}." if choices else ""
        shown = "" if default in ("", [], -1) else f" [{default}]"
        lines.append(f"  --{flag:<13} {text}{shown}")
    return "\n".join(lines)
