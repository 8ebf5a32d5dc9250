"""The job `score-jax data`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from score_jax.command_line import Call, Job, UsageError, suggest


@dataclass(frozen=True)
class Action:
    """One of the things that the job does.

    run: what it does, given the call and the words after the action; words: what they are;
    flags: that it takes beside data_dir.
    """

    run: Callable[..., Any]
    words: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


LABEL = ("artifact", "out", "batch_size")
VERIFY = ("against", "out")
PREVIEW = ("config", "out", "num_examples")
PREPARE = ("source", "extends", "size", "mirror", "workers")


def _prepare(call: Call, name: str) -> str:
    from score_jax import prepare

    options = {flag: getattr(call, flag) for flag in PREPARE[1:]}
    return prepare.prepare(name, sources=tuple(call.source), data_dir=call.data_dir, **options)


def _list(call: Call) -> str:
    from score_jax import dataset_info

    return dataset_info.list_datasets(call.data_dir)


def _info(call: Call, name: str) -> str:
    from score_jax import dataset_info

    return dataset_info.info(name, call.data_dir, call.out)


def _verify(call: Call, name: str) -> str:
    from score_jax import dataset_verify

    return dataset_verify.verify(name, call.data_dir, tuple(call.against), call.out)


def _preview(call: Call) -> str:
    if not call.config:
        raise UsageError("--config=PATH[:ARG] is needed, such as configs/cifar10_score.py")
    from score_jax import config, prepare_preview, recipes
    from score_jax.data import sources

    folder = (f"data.dir={call.data_dir}",) if call.data_dir else ()
    resolved = recipes.load(call.config, (*call.overrides, *folder))
    train_size = sources.train_size(resolved.data.name, resolved.data.dir)
    config.validate(resolved, train_size=train_size)  # Its warnings are of training.
    rows = {"rows": call.num_examples} if call.num_examples else {}
    return prepare_preview.preview(resolved, call.out or "preview.png", **rows)


def _label(call: Call, name: str) -> dict[str, Any]:
    from score_jax import prepare_labels

    if not call.artifact:
        raise UsageError("--artifact=DIR is needed: the exported model that labels")
    return prepare_labels.label(name, call.artifact, call.out, call.data_dir, call.batch_size)


ACTIONS = {
    "prepare": Action(_prepare, ("NAME",), PREPARE),
    "list": Action(_list),
    "label": Action(_label, ("NAME",), LABEL),
    "info": Action(_info, ("NAME",), ("out",)),
    "verify": Action(_verify, ("NAME",), VERIFY),
    "preview": Action(_preview, (), PREVIEW),
}


def data(call: Call) -> Any:
    """Prepares, lists, describes or verifies datasets.

    Raises:
      UsageError: no such action, another number of names than it takes, or another action's flag.
    """
    name = call.words[0] if call.words else ""
    if name not in ACTIONS:
        raise UsageError(f"data needs an action, not {name!r}; {suggest(name, ACTIONS)}")
    action, words = ACTIONS[name], call.words[1:]
    if len(words) != len(action.words):
        form = " ".join(["score-jax data", name, *action.words])
        raise UsageError(f"write {form}, such as: score-jax data prepare cifar10")
    for flag in DATA.flags:
        if flag not in ("data_dir", *action.flags) and call.values[flag].present:
            of = " or ".join(f"`data {other}`" for other, a in ACTIONS.items() if flag in a.flags)
            raise UsageError(f"--{flag} is for {of}, not `data {name}`")
    if call.overrides and "config" not in action.flags:
        raise UsageError(f"--config.{call.overrides[0]} is for `data preview`, not `data {name}`")
    return action.run(call, *words)


DATA = Job(
    "Prepare, list, describe or verify datasets: data prepare NAME, list, info NAME, verify NAME; "
    "data preview draws what a recipe makes of images.",
    "score-jax data prepare cifar10 --source=cifar-10-python.tar.gz --data_dir=data",
    ("data_dir", "against", "config", "num_examples", *PREPARE, *LABEL),
    data,
    takes_words=True,
)
