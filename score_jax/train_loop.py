"""The steps of one process, from a state to the end or to a request to stop."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from score_jax import checkpoint, distributed, evaluation, metrics, workdir, writers
from score_jax.data import mixing, pipeline, sources
from score_jax.data.waiting import Stopped, Waiting
from score_jax.mesh import Layout
from score_jax.recipes import Run
from score_jax.stopping import StopRequest
from score_jax.timing import Timer
from score_jax.train_state import TrainState
from score_jax.train_step import compile_attack, compile_step
from score_jax.types import Key, UserError
from score_jax.watchdog import Watchdog

LOGGER = logging.getLogger("score_jax")


class Loop:
    """Trains, validates, saves and logs. Every process runs the same turns in the same order."""

    def __init__(
        self,
        config: ConfigDict,
        run: Run,
        layout: Layout,
        place: workdir.Workdir,
        checkpoints: checkpoint.Checkpoints,
        watchdog: Watchdog,
        keys: list[Key],
        data: pipeline.TrainingData,
    ):
        self.step: int | None = None
        self._config, self._run, self._layout, self._place = config, run, layout, place
        self._checkpoints, self._watchdog = checkpoints, watchdog
        self._key, self._validation_key = keys
        self._data, self._names = data, data.names
        self._evaluate = evaluation.compile_evaluation(run.classifier, run.judge, layout)
        self._timer = Timer(config.data.batch_size)
        self._pending: tuple[int, Any] | None = None
        self._saved_step, self._saved_time = 0, time.monotonic()
        self._timed_save_step: int | None = None
        self._next_look = 0
        self._has_validated = False
        self._resident: Any = None

    def run(
        self,
        state: TrainState,
        best: checkpoint.Best,
        validation: list[Any],
        *,
        is_validated: bool,
    ) -> tuple[checkpoint.Best, bool]:
        """Trains to the end or to a stop; what is reached is then saved.

        Args:
          state: the first one, or a restored one.
          best: the best checkpoint so far.
          validation: placed batches, see `evaluation.place`.
          is_validated: whether the validation that is due at the state's step was done before.

        Returns:
          The best checkpoint, and whether the training is at its end; `step` is where it is.

        Raises:
          UserError: something became no number, or a checkpoint cannot be written.
        """
        self.step = self._saved_step = step = int(state.step)
        self._validation = validation
        if self._config.data.storage == "device":
            with self._phase("input"):
                self._resident = pipeline.place_resident(self._data, self._layout)
                self._data = self._data.without_images()
                sources.release()
        batches = Waiting(self._batches(step))
        try:
            # Until the first step nothing would be lost: a signal ends the process as usual.
            batch = self._next(batches, lambda: False)
            step_fn = self._compile(state, batch) if batch else None
            self._writer = self._open_writer(step, is_validated)
            with self._writer, StopRequest() as stop:
                self._timer.start(step)
                self._begun_step, self._begun_time = step, time.monotonic()
                return self._turns(step_fn, state, best, batches, batch, stop, is_validated)
        finally:
            batches.close()

    def _turns(
        self, step_fn: Any, state: TrainState, best: checkpoint.Best, batches: Waiting, batch: Any,
        stop: StopRequest, is_validated: bool,
    ) -> tuple[checkpoint.Best, bool]:  # fmt: skip
        config, last, step = self._config, self._run.num_train_steps, self.step
        before = ()
        while True:
            # The order matters: an evaluation describes the state that is then saved, lines are
            # written before the state they describe, a batch is taken after the save.
            is_stopped = stop.poll()
            is_validated = is_validated or not self._due(step, config.validation.every_epochs)
            if not (is_stopped or is_validated):
                best, is_validated = self._validate(state, step, best, stop)
                is_stopped = not is_validated
            is_due = step == self._timed_save_step
            is_due = is_due or self._due(step, config.checkpoint.every_epochs)
            is_due = is_due or self._due(step, config.checkpoint.keep_every_epochs)
            if (is_stopped or is_due or best.step == step) and step != self._saved_step:
                self._save(state, step, best, is_validated)
            if is_stopped or step == last:
                with self._phase("checkpoint"):
                    self._checkpoints.wait()
                return best, not is_stopped
            self._checkpoints.check()

            begin = time.monotonic()
            state, sums = step_fn(state, batch, self._key)
            self.step, is_validated = step + 1, False
            step = self.step
            if self._timer.wants_first_step:
                jax.block_until_ready(sums)
                self._timer.first_step(time.monotonic() - begin)
            # All that waits for a step waits one step late: the device never waits for the host,
            # and the host, which hears of stops, is never far ahead of it.
            jax.block_until_ready(before)
            before = sums
            self._watchdog.beat(step)
            self._flush()
            if step % config.log.every_steps == 0 or step == last:
                self._pending = step, sums
            self._foresee_save(step)
            if step < last:
                try:
                    batch = self._next(batches, stop.poll_waiting)
                except (OSError, UserError):  # The images of later steps; the state is sound.
                    self._save_last(state, step, best)
                    raise

    @contextlib.contextmanager
    def _phase(self, what: str) -> Iterator[None]:
        with self._timer.measuring(what), self._watchdog.doing(what):
            yield

    def _compile(self, state: TrainState, batch: Any) -> Any:
        """The compiled step, and the measured time of its attack."""
        with self._timer.compiling("step"), self._watchdog.doing("compiling"):
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
                state,
            )
            step_fn = compile_step(self._run.recipe, self._layout)
            step_fn = step_fn.lower(abstract, batch, self._key).compile()
            # One may compile longer than a first collective of some of the devices waits.
            distributed.barrier("the first step", timeout_seconds=3600)
        if self._config.log.attack_share and self._run.recipe.attack:
            attack = compile_attack(self._run.recipe, self._layout)
            with self._watchdog.doing("compiling"):
                self._timer.measure_attack(attack, state, batch, self._key)
        return step_fn

    def _open_writer(self, step: int, is_validated: bool) -> writers.Writer:
        return writers.Writer(
            self._place.metrics,
            num_steps=self._run.num_train_steps,
            num_epochs=self._config.num_epochs,
            start_step=step,
            is_validated=is_validated,
            tensorboard=self._place.tensorboard if self._config.log.tensorboard else None,
            primary=distributed.is_primary(),
        )

    def _batches(self, step: int) -> Iterator[Any]:
        """Placed by the thread that reads them: they are on the devices before their step."""
        count = self._run.num_train_steps - step
        batches = pipeline.train_batches(self._config, step, count, data=self._data)
        with contextlib.closing(batches):
            for local in batches:
                yield self._layout.put_batch(local)

    def _next(self, batches: Waiting, is_stopped: Callable[[], bool]) -> Any:
        """The next batch on the devices; None where there is none, or a stop came before it."""
        with self._phase("input"):
            try:
                batch = batches.take(is_stopped)
            except (Stopped, StopIteration):
                return None
        # Not by that thread: all processes start their programs in the same order.
        return self._resident.batch(batch) if self._resident else batch

    def _save(
        self, state: TrainState, step: int, best: checkpoint.Best, is_validated: bool
    ) -> None:
        self._check(state)
        with self._phase("checkpoint"):
            self._checkpoints.save(state, best, is_validated=is_validated)
        self._saved_step, self._saved_time = step, time.monotonic()
        self._timed_save_step, self._next_look = None, step

    def _save_last(self, state: TrainState, step: int, best: checkpoint.Best) -> None:
        """Saves before an error ends the run; where others take part in a save, they know of none.

        An error of the save is only told: what ends the run is the first one.
        """
        if jax.process_count() > 1:
            return
        try:
            if step != self._saved_step:
                self._save(state, step, best, False)
            with self._phase("checkpoint"):
                self._checkpoints.wait()
            LOGGER.info("saved at step %d", step)
        except UserError as error:
            LOGGER.warning("nothing is saved of step %d: %s", step, error)

    def _check(self, state: TrainState) -> None:
        """Writes what is pending, and refuses to go on with weights that are no numbers."""
        self._flush()
        metrics.check(state.sums["health"], self._saved_step)

    def _due(self, step: int, every_epochs: int) -> bool:
        every_steps = every_epochs * self._run.steps_per_epoch
        is_at_end = step == self._run.num_train_steps
        return step > 0 and (is_at_end or (every_steps > 0 and step % every_steps == 0))

    def _validate(
        self, state: TrainState, step: int, best: checkpoint.Best, stop: StopRequest
    ) -> tuple[checkpoint.Best, bool]:
        """Validates the averaged weights; keeps them where they are at least as good as the best.

        Adversarial training is judged by the attack, natural training by its clean accuracy.

        Returns:
          The best checkpoint, and whether the validation came to its end before a stop.
        """
        self._check(state)
        # The first one compiles its program too, which may take longer than all that follows.
        what = "validation" if self._has_validated else "compiling"
        with self._timer.measuring("validation"), self._watchdog.doing(what):
            key = jax.random.fold_in(self._validation_key, step)
            ema_params = self._layout.gather(state.ema_params)
            accuracies = evaluation.accuracies(
                self._evaluate, ema_params, state.batch_stats, self._validation, key,
                is_stopped=lambda: self._watchdog.alive() or stop.poll(),
            )  # fmt: skip
        if accuracies is None:
            return best, False
        self._has_validated = True
        values = {f"val/{name}": value for name, value in accuracies.items()}
        self._writer.write(step, step / self._run.steps_per_epoch, values)
        words = " ".join(f"{name} {value:.2%}" for name, value in values.items())
        LOGGER.info("step %d %s", step, words)
        judge = self._run.judge.name if self._run.recipe.attack else "clean"
        score = accuracies[f"{judge}_accuracy"]
        if score < best.score:  # Ties go to the later step, as in the SCORE code.
            return best, True
        with self._phase("checkpoint"):
            self._checkpoints.save_best(state, values)
        return checkpoint.Best(score, step), True

    def _flush(self) -> None:
        """Reads the last interval's metrics back and writes their line."""
        if self._pending is None:
            return
        (step, sums), self._pending = self._pending, None
        values = metrics.compute(sums)
        values["train/learning_rate"] = float(self._run.rates.learning_rate(step - 1))
        values["train/momentum"] = float(self._run.rates.momentum(step - 1))
        values |= mixing.epochs(self._data.sampler, self._names, step)
        values |= self._timer.interval(step)
        epoch = step / self._run.steps_per_epoch
        self._writer.write(step, epoch, values)
        self._writer.progress(step, epoch, values)
        metrics.check(sums["health"], self._saved_step)

    def _foresee_save(self, step: int) -> None:
        """Sets the step of the next timed save, now and then: clocks differ, steps do not.

        At steps that process 0 has named before: about once a minute, and often while little is
        known of how long a step takes.
        """
        minutes, done = self._config.checkpoint.every_minutes, step - self._begun_step
        if not minutes or step < self._next_look:
            return
        now = time.monotonic()
        pace = (now - self._begun_time) / done
        left = (60 * minutes - (now - self._saved_time)) / pace
        found = max(0, math.ceil(left)), max(1, min(done, int(60 / pace)))
        save, look = distributed.from_primary(list(found))
        self._timed_save_step, self._next_look = step + save, step + look
