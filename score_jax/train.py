"""The training job: `train` reads from top to bottom as what a run needs."""

import contextlib
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from score_jax import (
    checkpoint,
    compile_cache,
    distributed,
    evaluation,
    mesh,
    microbatches,
    model_passes,
    recipes,
    restarts,
    train_state,
    train_step,
    warm_start,
    workdir,
    workdir_lock,
    writers,
)
from score_jax import config as config_lib
from score_jax.data import mixing, pipeline
from score_jax.mesh import Layout
from score_jax.train_loop import Loop
from score_jax.watchdog import Watchdog

LOGGER = logging.getLogger("score_jax")


def train(
    config: ConfigDict, folder: str, layout: Layout | None = None, *, keeps_programs: bool = False
) -> dict[str, Any]:
    """Trains one model to its last step, going on where the folder's last checkpoint is.

    Args:
      config: one that `config.validate` accepts.
      folder: the run's own.
      layout: the devices; all of them unless given.
      keeps_programs: whether compiled programs are kept in the folder, for the next start.

    Returns:
      Facts to print: steps, the best validation accuracy, the folder, the next command.

    Raises:
      UserError: anything the user can mend; what was saved before is kept.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when the state is saved.
    """
    folder = str(Path(folder).expanduser())
    # A wrong name or number, or missing data, fails before anything is written.
    run = recipes.build(config)
    layout = layout or mesh.create(fsdp=config.mesh.fsdp)
    per_version = "/config.data.cutmix" if config.data.cutmix else ""
    layout.check_divides(config_lib.loaded_images(config), f"config.data.batch_size{per_version}")
    microbatches.check(config, run.recipe, layout.num_devices)
    data = pipeline.open_training_data(config)
    images, labels = pipeline.validation_images(config, data)
    # A run that goes on has its weights in its checkpoint: the first ones may be gone by then.
    is_begun = checkpoint.latest_step(folder) is not None
    start = None if is_begun else warm_start.load(config)

    primary = distributed.is_primary()
    devices = [f"{d.platform} {d.device_kind}" for d in layout.replicated.mesh.devices.flat]
    with contextlib.ExitStack() as stack:
        if primary and (Path(folder) / "config.json").exists():
            stack.enter_context(workdir_lock.held(Path(folder)))
        place = workdir.open_workdir(
            folder, config, sys.argv, devices=devices, primary=primary, data=data.contents
        )
        if primary:
            stack.enter_context(workdir_lock.held(place.path))
        writers.start_logging(file=place.log(jax.process_index()))
        LOGGER.info("%d device(s): %s", len(devices), ", ".join(sorted(set(devices))))
        passes = model_passes.count(run.recipe)
        LOGGER.info("a step costs %d forward passes of its batch", passes)
        for line in mixing.describe(data.sampler, data.names, run.num_train_steps):
            LOGGER.info(line)
        for line in pipeline.unequal_classes(config, data):
            LOGGER.warning(line)
        LOGGER.info("data.storage=%s (%s)", config.data.storage, data.storage)
        if primary:
            sizes = mixing.images(data.sampler, data.names)
            place.record(model_passes=passes, training_images=sizes)
        if keeps_programs:
            stack.enter_context(compile_cache.enabled(place.programs))
        dog = stack.enter_context(_watchdog(config, place))
        checkpoints = stack.enter_context(
            contextlib.closing(
                checkpoint.Checkpoints(
                    place, config_lib.to_dict(config), config.checkpoint.keep,
                    config.checkpoint.keep_every_epochs * run.steps_per_epoch,
                )  # fmt: skip
            )
        )
        # Compiled: keys cannot be put on devices of other processes.
        init_key, *keys = jax.jit(
            lambda: train_step.run_keys(config.seed),
            out_shardings=layout.replicated,
        )()
        loop = Loop(config, run, layout, place, checkpoints, dog, keys, data)
        del data  # The loop's alone, which lets go of what it has put on the devices.
        outcome, best = "failed", checkpoint.Best()
        try:
            with dog.doing("restoring"):
                restored = checkpoints.restore(train_state.abstract(run.recipe, layout))
            if restored:
                state, best, is_validated = restored.state, restored.best, restored.is_validated
                LOGGER.info("going on from step %d of %d", int(state.step), run.num_train_steps)
            else:
                weights = None
                if start:
                    warm_start.remember(place, start, primary=primary)
                    LOGGER.info("beginning with the weights of %s", start.facts["path"])
                    weights = start.params, start.batch_stats
                state = train_state.create(run.recipe, init_key, layout, weights)
                is_validated = True
            loop.step = int(state.step)
            if primary:
                restarts.begin(place, loop.step)
            is_finished = loop.step == run.num_train_steps and is_validated
            if not is_finished:
                validation = evaluation.place(images, labels, config.validation.batch_size, layout)
                best, is_finished = loop.run(state, best, validation, is_validated=is_validated)
            outcome = "finished" if is_finished else "stopped"
        except KeyboardInterrupt:  # While compiling, before there is a loop to stop.
            outcome = "stopped"
            raise
        finally:
            if primary:
                with contextlib.suppress(OSError):  # A full disk: what failed first is told.
                    place.stop(outcome, step=loop.step)
    if outcome == "stopped":
        LOGGER.info("stopped and saved at step %d; the same command goes on from there", loop.step)
        raise KeyboardInterrupt
    return {
        "workdir": str(place.path),
        "steps": loop.step,
        "best_step": best.step,
        "best_validation_accuracy": best.score,
        "next": f"score-jax export --workdir={shlex.quote(str(place.path))}",
    }


def _watchdog(config: ConfigDict, place: workdir.Workdir) -> Watchdog:
    process = jax.process_index()
    return Watchdog(
        config.watchdog.minutes, config.watchdog.factor, log=place.log(process),
        latest=lambda: checkpoint.latest_step(place.path),
        process=process, num_processes=jax.process_count(),
    )  # fmt: skip
