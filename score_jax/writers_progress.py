"""How far a long measurement is: a bar on a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from score_jax.writers import CONSOLE, PROGRESS, write_duration

LINES, SECONDS = 10, 30.0  # A line at each tenth of the way, and at least this often.


@contextlib.contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many of `total` are done.

    Args:
      what: such as 'train-train: images compared'.
    """
    started = told_at = time.monotonic()
    told = 0
    bar = None
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} ETA"), TimeRemainingColumn(),
        )  # fmt: skip
        bar = Progress(*columns, console=Console(stderr=True), expand=True)
        task = bar.add_task(what, total=total)
        bar.start()
        CONSOLE.bar_is_shown = True

    def tell(done: int) -> None:
        nonlocal told, told_at
        if bar is not None:
            bar.update(task, completed=done)
        now, part = time.monotonic(), LINES * done // max(total, 1)
        if part > told or now - told_at >= SECONDS:
            told, told_at = part, now
            left = (now - started) * (total - done) / done if done else float("inf")
            PROGRESS.info(f"{what}: {done} of {total}, ETA {write_duration(left)}")

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()
            CONSOLE.bar_is_shown = False
