"""Where the time of a run goes: attack, update, input, validation, checkpoints."""

import collections
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import jax

from score_jax import compile_cache

LOGGER = logging.getLogger("score_jax")


class Timer:
    """Measures the host's waits of each logging interval.

    The attack and the update run inside one compiled step, so their shares are the step's time
    split by one measurement: the attack compiled alone, right before the first step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._waits: dict[str, float] = collections.defaultdict(float)
        self._attack_seconds = 0.0
        self._attack_share: float | None = None
        self._since, self._step = time.monotonic(), 0

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Tells how long a compilation took, and whether it was one."""
        start = time.monotonic()
        with compile_cache.counting() as programs:
            yield
        source = " (from the cache)" if programs.were_kept else ""
        LOGGER.info("compiled the %s in %.1f s%s", what, time.monotonic() - start, source)

    @contextlib.contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Counts the enclosed time to `what` in the current interval."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._waits[what] += time.monotonic() - start

    def measure_attack(self, attack: Any, *arguments: Any) -> None:
        """Times one attack, after a run that compiles it."""
        with self.compiling("attack alone, to measure its share"):
            jax.block_until_ready(attack(*arguments))
        start = time.monotonic()
        jax.block_until_ready(attack(*arguments))
        self._attack_seconds = time.monotonic() - start

    def first_step(self, seconds: float) -> None:
        """Takes the time of one whole step, measured under the same conditions as the attack."""
        self._attack_share = min(self._attack_seconds / seconds, 1.0)

    @property
    def wants_first_step(self) -> bool:
        """Whether an attack was measured and no step yet."""
        return self._attack_seconds > 0 and self._attack_share is None

    def start(self, step: int) -> None:
        """Begins the first interval."""
        self._since, self._step = time.monotonic(), step
        self._waits.clear()

    def interval(self, step: int) -> dict[str, float]:
        """The perf/ metrics of the interval that ends at `step`; begins the next."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        steps = step - self._step
        values = {"perf/images_per_second": steps * self._batch_size / seconds}
        for name in ("input", "validation", "checkpoint"):
            values[f"perf/{name}_fraction"] = self._waits[name] / seconds
        computing = max(1 - sum(self._waits.values()) / seconds, 0.0)
        share = self._attack_share or 0.0
        if share:
            values["perf/attack_fraction"] = share * computing
        values["perf/update_fraction"] = (1 - share) * computing
        self.start(step)
        return values
