"""The job `score-jax data`."""

from typing import Any

from score_jax.command_line import Call, Job, UsageError, suggest


def data(call: Call) -> Any:
    """Prepares, lists or describes datasets.

    Raises:
      UsageError: no such action, or another number of names than it takes.
    """
    known = {"prepare": 2, "list": 1, "info": 2}
    action = call.words[0] if call.words else ""
    if action not in known:
        raise UsageError(f"data needs an action, not {action!r}; {suggest(action, known)}")
    words = call.words[1:]
    if len(words) != known[action] - 1:
        form = f"score-jax data {action}" + (" NAME" if known[action] == 2 else "")
        raise UsageError(f"write {form}, such as: score-jax data prepare cifar10")
    if call.source and action != "prepare":
        raise UsageError(f"--source is for `data prepare`, not `data {action}`")
    from score_jax import prepare

    if action == "list":
        return prepare.list_datasets(call.data_dir)
    if action == "info":
        return prepare.info(words[0], call.data_dir)
    return prepare.prepare(words[0], sources=tuple(call.source), data_dir=call.data_dir)


DATA = Job(
    "Prepare, list or describe datasets: data prepare NAME, data list, data info NAME.",
    "score-jax data prepare cifar10 --source=cifar-10-python.tar.gz --data_dir=data",
    ("source", "data_dir"),
    data,
    takes_words=True,
)
