"""The training job: `train` reads from top to bottom as what a run needs."""

import contextlib
import logging
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from score_jax import (
    checkpoint,
    evaluation,
    mesh,
    metrics,
    model_passes,
    recipes,
    train_state,
    warm_start,
    workdir,
    writers,
)
from score_jax import config as config_lib
from score_jax.data import pipeline
from score_jax.mesh import Layout
from score_jax.recipes import Run
from score_jax.stopping import StopRequest
from score_jax.timing import Timer
from score_jax.train_state import TrainState
from score_jax.train_step import compile_attack, compile_step
from score_jax.types import Key

LOGGER = logging.getLogger("score_jax")


def train(config: ConfigDict, folder: str, layout: Layout | None = None) -> dict[str, Any]:
    """Trains one model to its last step, going on where the folder's last checkpoint is.

    Args:
      config: one that `config.validate` accepts.
      folder: the run's own.
      layout: the devices; all of them unless given.

    Returns:
      Facts to print: steps, the best validation accuracy, the folder, the next command.

    Raises:
      UserError: anything the user can mend; what was saved before is kept.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when the state is saved.
    """
    # A wrong name or number, or missing data, fails before anything is written.
    run = recipes.build(config)
    layout = layout or mesh.create()
    per_version = "/config.data.cutmix" if config.data.cutmix else ""
    layout.check_divides(config_lib.loaded_images(config), f"config.data.batch_size{per_version}")
    pipeline.open_training_data(config)
    images, labels = pipeline.validation_images(config)
    # A run that goes on has its weights in its checkpoint: the first ones may be gone by then.
    is_begun = checkpoint.latest_step(folder) is not None
    start = None if is_begun else warm_start.load(config)

    primary = jax.process_index() == 0
    devices = [f"{d.platform} {d.device_kind}" for d in layout.replicated.mesh.devices.flat]
    place = workdir.open_workdir(folder, config, sys.argv, devices=devices, primary=primary)
    writers.start_logging(file=place.log(jax.process_index()))
    LOGGER.info("%d device(s): %s", len(devices), ", ".join(sorted(set(devices))))
    passes = model_passes.count(run.recipe)
    LOGGER.info("a step costs %d forward passes of its batch", passes)
    if primary:
        place.record(model_passes=passes)

    init_key, *keys = jax.device_put(
        tuple(jax.random.split(jax.random.key(config.seed), 3)), layout.replicated
    )
    checkpoints = checkpoint.Checkpoints(place, config_lib.to_dict(config), config.checkpoint.keep)
    outcome, step = "failed", None
    try:
        restored = checkpoints.restore(train_state.abstract(run.recipe, layout))
        if restored:
            state, best = restored
            LOGGER.info("going on from step %d of %d", int(state.step), run.num_train_steps)
        else:
            weights = None
            if start:
                warm_start.remember(place, start, primary=primary)
                LOGGER.info("beginning with the weights of %s", start.facts["path"])
                weights = start.params, start.batch_stats
            state = train_state.create(run.recipe, init_key, layout, weights)
            best = checkpoint.Best()
        step = int(state.step)
        if step < run.num_train_steps:
            validation = evaluation.place(images, labels, config.validation.batch_size, layout)
            loop = Loop(config, run, layout, place, checkpoints, validation, keys)
            step, best = loop.run(state, best, is_restored=bool(restored))
        outcome = "finished" if step == run.num_train_steps else "stopped"
    except KeyboardInterrupt:  # While compiling, before there is a loop to stop.
        outcome = "stopped"
        raise
    finally:
        if primary:
            with contextlib.suppress(OSError):  # A full disk: what failed first is told.
                place.stop(outcome, step=step)
        checkpoints.close()
    if outcome == "stopped":
        LOGGER.info("stopped and saved at step %d; the same command goes on from there", step)
        raise KeyboardInterrupt
    return {
        "workdir": str(place.path),
        "steps": step,
        "best_step": best.step,
        "best_validation_accuracy": best.score,
        "next": f"score-jax export --workdir={shlex.quote(str(place.path))}",
    }


class Loop:
    """The steps of one process from a state to the end, or to a request to stop."""

    def __init__(
        self,
        config: ConfigDict,
        run: Run,
        layout: Layout,
        place: workdir.Workdir,
        checkpoints: checkpoint.Checkpoints,
        validation: list[Any],
        keys: list[Key],
    ):
        self._config, self._run, self._layout, self._place = config, run, layout, place
        self._checkpoints, self._validation = checkpoints, validation
        self._key, self._validation_key = keys
        self._evaluate = evaluation.compile_evaluation(run.classifier, run.judge, layout)
        self._norm = jax.jit(optax.tree.norm)
        self._timer = Timer(config.data.batch_size)
        self._pending: tuple[int, Any] | None = None

    def run(
        self, state: TrainState, best: checkpoint.Best, *, is_restored: bool
    ) -> tuple[int, checkpoint.Best]:
        """Returns the step reached and the best checkpoint."""
        config, run, step = self._config, self._run, int(state.step)
        batches = self._batches(step)
        batch = next(batches)
        with self._timer.compiling("step"):
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
                state,
            )
            step_fn = compile_step(run.recipe, self._layout)
            step_fn = step_fn.lower(abstract, batch, self._key).compile()
        if config.log.attack_share and run.recipe.attack:
            attack = compile_attack(run.recipe, self._layout)
            self._timer.measure_attack(attack, state, batch, self._key)

        self._writer = writers.Writer(
            self._place.metrics,
            num_steps=run.num_train_steps,
            num_epochs=config.num_epochs,
            start_step=step,
            tensorboard=self._place.tensorboard if config.log.tensorboard else None,
            primary=jax.process_index() == 0,
        )
        with self._writer, StopRequest() as stop:
            self._timer.start(step)
            while True:
                # The order matters: an evaluation describes the state that is then saved, lines
                # are written before the state they describe, a batch is taken after the save.
                if not is_restored and self._due(step, config.validation.every_epochs):
                    self._check(state, step)
                    best = self._validate(state, step, best)
                is_due = not is_restored and (
                    self._due(step, config.checkpoint.every_epochs) or best.step == step
                )
                if is_due or stop.requested:
                    self._check(state, step)
                    with self._timer.measuring("checkpoint"):
                        self._checkpoints.save(state, best)
                if step == run.num_train_steps or stop.requested:
                    return step, best
                is_restored = False

                begin = time.monotonic()
                state, sums = step_fn(state, batch, self._key)
                step += 1
                if self._timer.wants_first_step:
                    jax.block_until_ready(sums)
                    self._timer.first_step(time.monotonic() - begin)
                self._flush()  # One step late, so that the device never waits for the host.
                if step % config.log.every_steps == 0 or step == run.num_train_steps:
                    self._pending = step, sums
                if step < run.num_train_steps:
                    with self._timer.measuring("input"):
                        batch = next(batches)

    def _check(self, state: TrainState, step: int) -> None:
        """Writes what is pending, and refuses to go on with weights that are no numbers."""
        self._flush()
        every = self._config.log.every_steps
        norm = float(self._norm((state.params, state.ema_params, state.batch_stats)))
        metrics.check_finite({"the norm of the weights": norm}, max(step - every, 0), step)

    def _batches(self, step: int) -> Iterator[Any]:
        for batch in pipeline.train_batches(self._config, step, self._run.num_train_steps - step):
            yield self._layout.put_batch(batch)

    def _due(self, step: int, every_epochs: int) -> bool:
        every_steps = every_epochs * self._run.steps_per_epoch
        return step > 0 and (step % every_steps == 0 or step == self._run.num_train_steps)

    def _validate(self, state: TrainState, step: int, best: checkpoint.Best) -> checkpoint.Best:
        """Validates the averaged weights; keeps them where they are at least as good as the best.

        Adversarial training is judged by the attack, natural training by its clean accuracy.
        """
        with self._timer.measuring("validation"):
            key = jax.random.fold_in(self._validation_key, step)
            accuracies = evaluation.accuracies(
                self._evaluate, state.ema_params, state.batch_stats, self._validation, key
            )
        values = {f"val/{name}": value for name, value in accuracies.items()}
        self._writer.write(step, step / self._run.steps_per_epoch, values)
        words = " ".join(f"{name} {value:.2%}" for name, value in values.items())
        LOGGER.info("step %d %s", step, words)
        judge = self._run.judge.name if self._run.recipe.attack else "clean"
        score = accuracies[f"{judge}_accuracy"]
        if score < best.score:  # Ties go to the later step, as in the SCORE code.
            return best
        with self._timer.measuring("checkpoint"):
            self._checkpoints.save_best(state, values)
        return checkpoint.Best(score, step)

    def _flush(self) -> None:
        """Reads the last interval's metrics back and writes their line."""
        if self._pending is None:
            return
        (step, sums), self._pending = self._pending, None
        values = metrics.compute(sums)
        values["train/learning_rate"] = float(self._run.rates.learning_rate(step - 1))
        values["train/momentum"] = float(self._run.rates.momentum(step - 1))
        values |= self._timer.interval(step)
        epoch = step / self._run.steps_per_epoch
        self._writer.write(step, epoch, values)
        self._writer.progress(step, epoch, values)
        every = self._config.log.every_steps
        first_step = (step - 1) // every * every
        metrics.check_finite({"train/loss": values["train/loss"]}, first_step, step)
