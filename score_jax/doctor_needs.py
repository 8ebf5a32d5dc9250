"""What a run needs: room for its checkpoints, memory for its images."""

from dataclasses import dataclass
from pathlib import Path

from score_jax.doctor_finding import Machine
from score_jax.types import UserError
from score_jax.workdir import MAY_CHANGE, Workdir

COPIES = 2  # Of the state on the host: the one that is written, and the next.


@dataclass(frozen=True)
class Need:
    """The needs of one process of a run.

    Attributes:
      checkpoint_bytes: of one checkpoint.
      storage_bytes: of all that are kept at a time, and the one being written.
      host_bytes: memory beside Python and JAX.
      datasets: names of the prepared datasets it reads.
      data_dir: folder of them, as in the config.
      source: what says so: the recipe, or the folder of a run.
      other: how the run in the folder differs, where it is of another config.
    """

    checkpoint_bytes: int
    storage_bytes: int
    host_bytes: int
    datasets: tuple[str, ...]
    data_dir: str
    source: str = ""
    other: tuple[str, ...] = ()


def of(machine: Machine) -> Need | None:
    """The needs of the run that is meant: of a recipe, or of the run in the folder.

    None where there is neither, or a `problem`.
    """
    if "need" not in machine.facts:
        try:
            machine.facts["need"] = _of_run(machine)
        except UserError as error:
            machine.facts.update(need=None, problem=str(error))
    return machine.facts.get("need")


def problem(machine: Machine) -> str:
    """What is wrong with the recipe or the folder; '' where nothing is."""
    of(machine)
    return machine.facts.get("problem", "")


def _of_run(machine: Machine) -> Need | None:
    folder = machine.workdir if "://" not in machine.workdir else ""
    place = Workdir(Path(folder).expanduser().absolute()) if folder else None
    is_run = place is not None and place.config.exists()
    if not machine.recipe and not is_run:
        return None
    import jax

    from score_jax import config as config_lib
    from score_jax import overrides, recipes, train_state
    from score_jax.config_rules_data import generated_sets
    from score_jax.data import sources

    # Shapes need no device, and the doctor must not take the accelerator.
    jax.config.update("jax_platforms", "cpu")
    there = place.read_config() if is_run else None
    if machine.recipe:
        config = recipes.load(machine.recipe, machine.overrides)
    else:
        config = overrides.apply(there, machine.overrides)
    config_lib.validate(config)
    other = ()
    if there is not None:
        differences = config_lib.differences(config_lib.to_dict(there), config_lib.to_dict(config))
        other = tuple(line for line in differences if not line.startswith(MAY_CHANGE))
    run = recipes.build(config)
    state = jax.eval_shape(lambda: train_state.initial_state(run.recipe, jax.random.key(0)))
    checkpoint = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    best = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves((state.params, state.ema_params, state.batch_stats))
    )
    apart = config.checkpoint.keep_every_epochs
    series = config.num_epochs // apart if apart else 0
    names = (config.data.name, *generated_sets(config.data.generated))
    images = 0
    for name in names:
        spec = sources.spec(name, machine.data_dir or config.data.dir)
        height, width, channels = spec.image_shape
        images += (spec.split_sizes["train"] or 0) * height * width * channels
    return Need(
        checkpoint_bytes=checkpoint,
        storage_bytes=(config.checkpoint.keep + series + 1) * checkpoint + 2 * best,
        host_bytes=COPIES * checkpoint + images,
        datasets=names,
        data_dir=machine.data_dir or config.data.dir,
        source=machine.recipe or f"the run in {machine.workdir}",
        other=other,
    )
