"""What a run tells while it goes: metrics on disk, a bar on a terminal, lines in a log.

Process 0 writes; on the others a `Writer` does nothing, and the console hears of trouble alone.
"""

import collections
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from score_jax.types import UserError
from score_jax.workdir import write_text_atomic

LOGGER = logging.getLogger("score_jax")
PROGRESS = logging.getLogger("score_jax.progress")  # Kept off a terminal that shows the bar.
CLUSTER = logging.getLogger("score_jax.cluster")  # Its lines say themselves whose they are.
LIBRARIES = ("absl", "orbax", "jax")  # They would tell each step of a save.


class ConsoleHandler(logging.StreamHandler):
    """Bare lines on whatever standard error is at the moment: rich swaps it under its bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.bar_is_shown = False
        self.process = 0

    @property
    def stream(self) -> Any:
        return sys.stderr

    def filter(self, record: logging.LogRecord) -> bool:
        own = record.name.partition(".")[0] == LOGGER.name
        if record.exc_info and not own:
            return False  # What a library raises is told once, by whoever catches it.
        if self.bar_is_shown and record.name == PROGRESS.name:
            return False
        is_wanted = own and (self.process == 0 or record.name == CLUSTER.name)
        return is_wanted or record.levelno >= logging.WARNING

    def format(self, record: logging.LogRecord) -> str:
        if record.name == CLUSTER.name:
            return super().format(record)
        prefix = f"process {self.process}: " if self.process else ""
        prefix += f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + super().format(record)


CONSOLE = ConsoleHandler()


def start_logging(level: str | None = None, file: Path | None = None) -> None:
    """Sends log records to standard error and, with times, to `file`.

    May be called again, for a file known only later; the level then stays what it was.
    """
    root = logging.getLogger()
    if level or LOGGER.level == logging.NOTSET:
        LOGGER.setLevel((level or "info").upper())
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
    if CONSOLE not in root.handlers:
        root.addHandler(CONSOLE)
    files = [getattr(handler, "baseFilename", None) for handler in root.handlers]
    if file is not None and os.path.abspath(file) not in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = LogFile(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(handler)


class LogFile(logging.FileHandler):
    """A log on a disk that may be full: what fails to be written there is on the console."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class Bar(Progress):
    """Two rows: how far the run is, and under it how well it goes. Fits 80 columns."""

    summary = "compiling"

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.summary, no_wrap=True, overflow="ellipsis")


class Writer:
    """Metrics of one run: `metrics.jsonl`, TensorBoard on request, and the console.

    Args:
      metrics: the path of `metrics.jsonl`; lines after `start_step`, and a line that a crash cut
        short, are dropped.
      num_steps, num_epochs: of the whole run, for the bar.
      start_step: the step that the run goes on from.
      is_validated: whether its validation is done; else it comes again, and its line goes.
      tensorboard: a folder for TensorBoard events (needs tensorboardX), or None.
      primary: whether this process writes.
      terminal: whether to show a bar; None asks standard error.
    """

    def __init__(
        self,
        metrics: Path,
        *,
        num_steps: int,
        num_epochs: int,
        start_step: int = 0,
        is_validated: bool = True,
        tensorboard: Path | None = None,
        primary: bool = True,
        terminal: bool | None = None,
    ) -> None:
        self._num_steps, self._num_epochs = num_steps, num_epochs
        self._primary = primary
        self._file = self._events = self._bar = None
        self._times: collections.deque[tuple[float, int]] = collections.deque(maxlen=20)
        self._times.append((time.monotonic(), start_step))
        if not primary:
            return
        drop_after(metrics, start_step, is_validated)
        # One line a write reaches the file at once, so that a killed run keeps its metrics.
        self._file = metrics.open("a", buffering=1)
        if tensorboard is not None:
            self._events = _open_events(tensorboard, start_step)
        if sys.stderr.isatty() if terminal is None else terminal:
            self._start_bar(start_step, force=terminal)

    def _start_bar(self, start_step: int, force: bool | None) -> None:
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed}/{task.total} ETA {task.fields[eta]}"),
            console=Console(stderr=True, force_terminal=force),
            expand=True,
        )
        self._task = self._bar.add_task(
            "", total=self._num_steps, completed=start_step, epoch=f"-/{self._num_epochs}", eta="?"
        )
        self._bar.start()
        CONSOLE.bar_is_shown = True

    def write(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Appends one line to `metrics.jsonl`; a number that is not finite becomes null."""
        if self._file is None:
            return
        values = {name: float(value) for name, value in metrics.items()}
        line = {"step": int(step), "epoch": epoch, "time": time.time()}
        line |= {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._events is not None:
            for name in (name for name, value in values.items() if math.isfinite(value)):
                self._events.add_scalar(name, values[name], step)

    def progress(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Moves the bar on a terminal, prints a line elsewhere; the log file gets the line."""
        if not self._primary:
            return
        self._times.append((time.monotonic(), step))
        epochs = f"{max(1, math.ceil(epoch))}/{self._num_epochs}"
        summary, eta = " ".join(summarize(metrics)), self._eta(step)
        PROGRESS.info(f"epoch {epochs} step {step}/{self._num_steps} {summary} ETA {eta}")
        if self._bar is not None:
            self._bar.summary = summary
            self._bar.update(self._task, completed=step, epoch=epochs, eta=eta)

    def _eta(self, step: int) -> str:
        (first_time, first_step), (last_time, last_step) = self._times[0], self._times[-1]
        if last_step <= first_step:
            return "?"
        rate = (last_time - first_time) / (last_step - first_step)
        return write_duration(rate * (self._num_steps - step))

    def close(self) -> None:
        """Ends the bar and the files; may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            CONSOLE.bar_is_shown = False
            self._bar = None
        for file in (self._file, self._events):
            if file is not None:
                file.close()
        self._file = self._events = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open_events(folder: Path, start_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError(
            "config.log.tensorboard=True needs tensorboardX; pip install 'score_jax[logs]'"
        ) from None
    return SummaryWriter(str(folder), purge_step=start_step + 1)


def summarize(metrics: Mapping[str, float]) -> list[str]:
    """The words of a progress line that `metrics` has values for."""
    forms = {
        "train/loss": "loss {:.3f}",
        "train/clean_accuracy": "clean {:.1%}",
        "train/adv_accuracy": "adv {:.1%}",
        "train/learning_rate": "lr {:.4g}",
        "perf/images_per_second": "{:.0f} images/s",
    }
    return [form.format(float(metrics[name])) for name, form in forms.items() if name in metrics]


def write_duration(seconds: float) -> str:
    """A duration in its two largest units: '3h12m', '4m05s', '9s'."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def drop_after(metrics: Path, step: int, is_validated: bool = True) -> None:
    """Keeps the whole lines of `metrics.jsonl` up to `step`; the file changes in one move.

    Without those of the step's validation where that is still to be done.
    """
    if not metrics.exists():
        return
    text = metrics.read_text(errors="replace")
    kept = [line + "\n" for line in text.splitlines() if _is_kept(line, step, is_validated)]
    if "".join(kept) != text:
        write_text_atomic(metrics, "".join(kept))


def _is_kept(line: str, step: int, is_validated: bool) -> bool:
    try:
        values = json.loads(line)
        if values["step"] == step and not is_validated:
            return not any(name.startswith("val/") for name in values)
        return values["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
