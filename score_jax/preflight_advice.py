"""What to change in a recipe that does not fit, or that leaves chips idle, as flags."""

import dataclasses
import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from score_jax import hlo, microbatches, preflight_estimate
from score_jax.preflight import Compiled
from score_jax.preflight_estimate import Estimate
from score_jax.recipe import Recipe
from score_jax.topologies import Slice, other_forms
from score_jax.types import UserError

GIB = 2**30
ROOM = 0.9  # Of the memory, for a proposal: temporaries shrink a little less than the batch.
FEW_IMAGES = 8  # In a pass on one chip: products below the height of a matrix unit's tile.
MUCH = 0.15  # Of a step.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known of a plan.

    Attributes:
      batch_size: images that a step trains on, CutMix's versions counted.
      num_devices: of the mesh.
      estimate: None where XLA refused the program.
      attack_loops: of the program.
    """

    config: ConfigDict
    recipe: Recipe
    place: Slice
    num_devices: int
    batch_size: int
    compiled: Compiled
    estimate: Estimate | None
    attack_loops: tuple[hlo.Loop, ...]

    @property
    def images_at_a_time(self) -> float:
        """Images of one pass on one device."""
        return self.batch_size / self.num_devices / self.config.data.microbatches


def advise(at: Situation) -> list[str]:
    """Sentences with flags; empty where there is nothing to say."""
    if not at.compiled.memory.fits:
        return list(_make_it_fit(at))
    return [*_use_the_memory(at), *_use_the_chips(at), *_speak_less(at), *_multiply_faster(at)]


def _make_it_fit(at: Situation) -> Iterator[str]:
    memory, config = at.compiled.memory, at.config
    now, room = config.data.microbatches, ROOM * memory.available
    rest = max(memory.needed - memory.state, 0)  # What grows with the batch.
    for count, groups in _microbatches(at):
        need = memory.state + rest * now / count
        if need <= room:
            flag = f" --config.batchnorm.groups={groups} (other statistics)"
            yield (
                f"--config.data.microbatches={count}"
                f"{flag if groups != config.batchnorm.groups else ''}: about {need / GIB:.1f} GiB "
                "a chip"
            )
            break
    if not config.model.remat and "cnn" not in config.model.name:  # Those have no blocks.
        yield "--config.model.remat=true: keeps a block's input only; a forward pass more each time"
    whole = memory.state * config.mesh.fsdp
    if config.mesh.fsdp < at.num_devices and memory.state > 0.2 * memory.available:
        share = whole / at.num_devices / GIB
        yield (
            f"--config.mesh.fsdp={at.num_devices}: {share:.2f} GiB of state a chip instead of "
            f"{memory.state / GIB:.2f}"
        )
    if config.precision.train == "float32" or config.precision.attack == "float32":
        yield (
            "--config.precision.train=bfloat16 --config.precision.attack=bfloat16: activations of "
            "half the size; another arithmetic"
        )
    enough = at.place.num_chips * rest / max(room - memory.state, 1)
    for name, chips in other_forms(at.place):
        devices = at.num_devices * chips // at.place.num_chips
        if chips > at.place.num_chips and chips >= enough and at.batch_size % devices == 0:
            yield f"--topology={name}: fewer images a chip"
            break


def _microbatches(at: Situation) -> Iterator[tuple[int, int]]:
    """Numbers of parts, more than now, with the BatchNorm groups that they need."""
    config = at.config.copy_and_resolve_references()
    for count in range(config.data.microbatches + 1, at.batch_size // at.num_devices + 1):
        recipe = dataclasses.replace(at.recipe, microbatches=count)
        for groups in (math.lcm(at.config.batchnorm.groups, n * count) for n in (1, 2)):
            config.batchnorm.groups = groups
            try:
                microbatches.check(config, recipe, at.num_devices)
            except UserError:
                continue
            if config.data.batch_size % groups == 0:
                yield count, groups
                break


def _use_the_memory(at: Situation) -> Iterator[str]:
    memory, config = at.compiled.memory, at.config
    if not memory.available:
        return
    used = memory.needed / memory.available
    if used > 0.92:
        yield f"memory is {used:.0%} full: a validation or another version of XLA may not fit"
    if used > 0.45:
        return
    if config.data.microbatches > 1:
        yield "--config.data.microbatches=1 may fit too, and fills the chips better"
    if config.model.remat:
        yield "--config.model.remat=false may fit too, and saves a forward pass each time"
    if config.mesh.fsdp > 1 and memory.state * config.mesh.fsdp < 0.3 * memory.available:
        yield "--config.mesh.fsdp=1 fits too, and gathers no weights"


def _use_the_chips(at: Situation) -> Iterator[str]:
    if at.place.chip.kind == "cpu" or at.images_at_a_time >= FEW_IMAGES:
        return
    yield (
        f"{at.images_at_a_time:g} images a chip and pass are few: chips wait more than they compute"
    )
    smaller = [
        (name, chips)
        for name, chips in other_forms(at.place)
        if at.images_at_a_time * at.place.num_chips / chips >= FEW_IMAGES
    ]
    if smaller:
        name, chips = smaller[-1]
        images = at.images_at_a_time * at.place.num_chips / chips
        yield f"--topology={name}: {images:g} images a chip and pass"
    wanted = FEW_IMAGES * at.num_devices * at.config.data.microbatches
    yield (
        f"--config.data.batch_size={wanted} "
        f"--config.large_batch.reference_batch_size={at.config.data.batch_size}: a larger batch "
        "and a rate that grows with it; another recipe"
    )


def _speak_less(at: Situation) -> Iterator[str]:
    inside, outside = preflight_estimate.inside(
        at.compiled.program.collectives, set(at.attack_loops)
    )
    config, groups = at.config, at.num_devices * at.config.data.microbatches
    if inside and config.attack.statistics == "batch" and config.batchnorm.groups < groups:
        seconds = sum(
            each.times * at.place.seconds(each.kind, each.bytes, each.group or at.num_devices)
            for each in inside
        )
        cost = f" ({seconds * 1000:.3g} ms of each step)" if seconds else ""
        if at.batch_size % groups == 0:
            yield (
                f"--config.batchnorm.groups={groups}: statistics of each chip's "
                f"{at.batch_size // groups} images, so that none is exchanged inside the "
                f"attack{cost}; other statistics than of the batch"
            )
        yield (
            f"--config.attack.statistics=running: neither{cost}; another attack, as in TRADES' code"
        )
    estimate = at.estimate
    if not inside and estimate and estimate.links > MUCH * estimate.step:
        yield (
            f"communication is {estimate.links / estimate.step:.0%} of a step: more images a chip "
            "or fewer chips"
        )


def _multiply_faster(at: Situation) -> Iterator[str]:
    precision, loops = at.config.precision, set(at.attack_loops)
    if at.estimate is None or precision.attack != "float32" or not loops:
        return

    def lowered(product):
        in_attack = any(loop in loops for loop in product.loops)
        return dataclasses.replace(product, precision="default") if in_attack else product

    program = at.compiled.program
    faster = dataclasses.replace(program, products=tuple(map(lowered, program.products)))
    compute = preflight_estimate.estimate(faster, at.place, at.num_devices).compute
    saved = at.estimate.compute - compute
    if saved > MUCH * at.estimate.step and at.estimate.limit == "compute":
        yield (
            f"--config.precision.attack=tf32: products of {compute * 1000:.3g} ms a step, not "
            f"{at.estimate.compute * 1000:.3g}; judge the result at float32"
        )
