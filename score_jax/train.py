"""The training job: `train` reads from top to bottom as what a run needs."""

import logging
import shlex
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from score_jax import (
    attacks,
    checkpoint,
    evaluation,
    mesh,
    metrics,
    models,
    objectives,
    optimizers,
    train_state,
    workdir,
    writers,
)
from score_jax import config as config_lib
from score_jax.data import augment, pipeline, sources
from score_jax.mesh import Layout
from score_jax.stopping import StopRequest
from score_jax.timing import Timer
from score_jax.train_step import Recipe, compile_attack, compile_step
from score_jax.types import lookup

LOGGER = logging.getLogger("score_jax")


def build(config: ConfigDict) -> tuple[Recipe, optimizers.Rates, models.Classifier]:
    """The recipe of a config, its schedules, and the classifier that validates.

    Raises:
      UserError: a name or number that nothing can be built from.
    """
    spec = lookup(sources.DATASETS, "config.data.name", config.data.name)
    steps = pipeline.steps_per_epoch(config)

    def classifier(precision: str) -> models.Classifier:
        return models.create(
            config.model.name,
            num_classes=spec.num_classes,
            image_shape=spec.image_shape,
            mean=spec.mean,
            std=spec.std,
            precision=precision,
            remat=config.model.remat,
            batchnorm_groups=config.batchnorm.groups,
        )

    objective = objectives.create(**config.objective)
    is_natural = objective.forwards == ("clean",)
    attack_fields = dict(config.attack)
    attack_statistics = models.NormalizeBy(attack_fields.pop("statistics"))
    rates = optimizers.create_rates(
        **config.schedule,
        num_epochs=config.num_epochs,
        steps_per_epoch=steps,
        momentum=config.optimizer.momentum,
    )
    train_classifier = classifier(config.precision.train)
    optimizer_fields = {name: v for name, v in config.optimizer.items() if name != "momentum"}
    recipe = Recipe(
        classifier=train_classifier,
        attack_classifier=classifier(config.precision.attack),
        objective=objective,
        attack=None if is_natural else attacks.create(**attack_fields),
        attack_statistics=attack_statistics,
        update_order=tuple(config.batchnorm.update_order),
        first_step_momentum=config.batchnorm.first_step_momentum,
        optimizer=optimizers.create(rates, train_classifier.roles, **optimizer_fields),
        num_classes=spec.num_classes,
        augment=lookup(augment.AUGMENTATIONS, "config.data.augmentation", config.data.augmentation),
        ema_decay=config.ema.decay,
        # The SCORE code counts floor(N / batch) + 1 updates an epoch here, whatever the loader has.
        ema_warmup_steps=config.ema.warmup_fraction
        * config.num_epochs
        * (config.steps_per_epoch or spec.split_sizes["train"] // config.data.batch_size + 1),
        log_every_steps=config.log.every_steps,
    )
    return recipe, rates, classifier(config.precision.evaluation)


def train(config: ConfigDict, folder: str, layout: Layout | None = None) -> dict[str, Any]:
    """Trains one model to its last step, going on where the folder's last checkpoint is.

    Args:
      config: valid for `config.validate`.
      folder: the run's own.
      layout: the devices; all of them unless given.

    Returns:
      Facts to print: steps, the best validation accuracies, the folder, the next command.

    Raises:
      UserError: anything the user can mend; nothing is lost that was saved before.
      KeyboardInterrupt: Ctrl-C or SIGTERM, after a save.
    """
    # Pure Python first: a wrong name or number, or missing data, fails before anything is written.
    recipe, rates, eval_classifier = build(config)
    judge_fields = dict(config.validation.attack)
    judge = evaluation.Judge(loss=judge_fields.pop("loss"), attack=attacks.create(**judge_fields))
    steps_per_epoch = pipeline.steps_per_epoch(config)
    num_steps = config.num_epochs * steps_per_epoch
    layout = layout or mesh.create()
    layout.check_divides(config.data.batch_size, "config.data.batch_size")
    val_images, val_labels = pipeline.validation_images(config)

    primary = jax.process_index() == 0
    devices = [f"{d.platform} {d.device_kind}" for d in layout.replicated.mesh.devices.flat]
    run = workdir.open_workdir(folder, config, sys.argv, devices=devices, primary=primary)
    writers.start_logging(file=run.log(jax.process_index()))
    LOGGER.info("%d device(s): %s", len(devices), ", ".join(sorted(set(devices))))

    checkpoints = checkpoint.Checkpoints(run, config_lib.to_dict(config), config.checkpoint.keep)
    forwards = recipe.objective.forwards
    abstract = train_state.abstract(recipe.classifier, recipe.optimizer, forwards, layout)
    init_key, run_key, val_key = jax.device_put(
        tuple(jax.random.split(jax.random.key(config.seed), 3)), layout.replicated
    )
    best = checkpoint.Best()
    if restored := checkpoints.restore(abstract):
        state, best = restored
        LOGGER.info("going on from step %d of %s", int(state.step), run.path)
    else:
        state = train_state.create(recipe.classifier, recipe.optimizer, forwards, init_key, layout)
    step = int(state.step)
    if step >= num_steps:
        LOGGER.info("this run is finished: step %d of %d", step, num_steps)
        checkpoints.close()
        return _facts(run, step, best, judge)

    val_batches = evaluation.place(val_images, val_labels, config.validation.batch_size, layout)
    evaluate = evaluation.compile_evaluation(eval_classifier, judge, layout)
    batches = pipeline.train_batches(config, step, num_steps - step)
    timer = Timer(config.data.batch_size)
    first = layout.put_batch(next(batches))
    with timer.compiling("step"):
        train_step = compile_step(recipe, layout).lower(abstract, first, run_key).compile()
    select = f"val/{judge.name}_accuracy" if recipe.attack else "val/clean_accuracy"
    pending: tuple[int, Any] | None = None

    def due(every_epochs: int) -> bool:
        return step > 0 and (step % (every_epochs * steps_per_epoch) == 0 or step == num_steps)

    def flush() -> None:
        """Reads the last interval's metrics back and writes their line."""
        nonlocal pending
        if pending is None:
            return
        at, sums = pending
        pending = None
        values = metrics.compute(sums)
        values["train/learning_rate"] = float(rates.learning_rate(at - 1))
        values["train/momentum"] = float(rates.momentum(at - 1))
        values |= timer.interval(at)
        writer.write(at, at / steps_per_epoch, values)
        writer.progress(at, at / steps_per_epoch, values)
        metrics.check_finite(
            {"train/loss": values["train/loss"]}, at - config.log.every_steps, at
        )  # fmt: skip

    writer = writers.Writer(
        run.metrics,
        num_steps=num_steps,
        num_epochs=config.num_epochs,
        start_step=step,
        tensorboard=run.tensorboard if config.log.tensorboard else None,
        primary=primary,
    )
    outcome = "failed"
    with writer, StopRequest() as stop:
        try:
            if config.log.attack_share and recipe.attack:
                timer.measure_attack(compile_attack(recipe, layout), state, first, run_key)
            timer.start(step)
            # The order of these matters: the metrics' lines are written before the state that
            # they describe is saved, and a batch is taken only after the save.
            while True:
                is_saved = False
                if restored is None and due(config.validation.every_epochs):
                    flush()
                    with timer.measuring("validation"):
                        accuracies = evaluation.accuracies(
                            evaluate, state.ema_params, state.batch_stats, val_batches,
                            jax.random.fold_in(val_key, step),
                        )  # fmt: skip
                    values = {f"val/{name}": value for name, value in accuracies.items()}
                    writer.write(step, step / steps_per_epoch, values)
                    LOGGER.info("step %d %s", step, _write_accuracies(values))
                    if values[select] >= best.score:  # Ties go to the later step, as in SCORE.
                        best = checkpoint.Best(values[select], step)
                        with timer.measuring("checkpoint"):
                            checkpoints.save_best(state, values)
                if restored is None and due(config.checkpoint.every_epochs) or stop.requested:
                    flush()
                    with timer.measuring("checkpoint"):
                        checkpoints.save(state, best)
                    is_saved = True
                if step == num_steps or (stop.requested and is_saved):
                    break
                restored = None
                if first is None:
                    with timer.measuring("input"):
                        first = layout.put_batch(next(batches))
                state, sums = train_step(state, first, run_key)
                first = None
                step += 1
                flush()  # One step late, so that the device never waits for the host.
                if step % config.log.every_steps == 0 or step == num_steps:
                    pending = step, sums
            outcome = "finished" if step == num_steps else "stopped"
        finally:
            run.stop(outcome, step=step) if primary else None
            checkpoints.close()
    if outcome == "stopped":
        LOGGER.info("stopped at step %d of %d, saved; the same command goes on", step, num_steps)
        raise KeyboardInterrupt
    return _facts(run, step, best, judge)


def _write_accuracies(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.2%}" for name, value in values.items())


def _facts(run: workdir.Workdir, step: int, best: checkpoint.Best, judge: evaluation.Judge):
    return {
        "workdir": str(run.path),
        "steps": step,
        "best_step": best.step,
        "best_validation_accuracy": best.score,
        "next": f"score-jax export --workdir={shlex.quote(str(run.path))}",
    }
