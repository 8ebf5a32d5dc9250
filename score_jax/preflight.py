"""Compiles the real training step from shapes alone and reads what it needs and does.

Nothing is computed and no data is read, so that the devices need not be there.
"""

import contextlib
import dataclasses
import logging
import math
import re
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from score_jax import config as config_lib
from score_jax import hlo, preflight_kept, train_state
from score_jax.mesh import Layout
from score_jax.recipe import Recipe
from score_jax.topologies import Slice
from score_jax.train_step import compile_step

LOGGER = logging.getLogger("score_jax")
# What XLA says of a TPU program that is too large, in two forms; whether of all that it needs, or
# of its temporaries.
_TOO_LARGE = {
    re.compile(r"Used ([\d.]+)([BKMGT]?) of ([\d.]+)([BKMGT]?) hbm"): True,
    re.compile(r"\(([\d.]+)([BKMGT]?)\) exceeds available HBM \(([\d.]+)([BKMGT]?)\)"): False,
}
# XLA's own number: at -1 a TPU's compiler is 5 times quicker on WRN-10-2 in float32, with the same
# FLOPs and communication, 1.7 times the cycles and 2.2 times the temporaries.
EFFORTS = {"full": 0.0, "quick": -1.0}
TELL_EVERY = 60.0  # Seconds.
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device.

    Attributes:
      state: of the training state, as it is sharded.
      inputs: of everything that the step is given: the state and its part of the batch.
      temporaries: of what lives during the step; 0 where XLA refused and told only `needed`.
      program: of the machine code, where it lies in the same memory.
      needed: of all together; what is updated in place counts once.
      available: to a program; 0: unknown.
    """

    state: int
    inputs: int = 0
    temporaries: int = 0
    program: int = 0
    needed: int
    available: int

    @property
    def fits(self) -> bool:
        """Whether it does, as far as is known."""
        return not self.available or self.needed <= self.available


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """The compiled step.

    Attributes:
      program: what it does; None where XLA refused it.
      seconds_lowering, seconds_compiling: what it took; is_kept: an earlier plan had done it.
      effort: of the compiler: after a 'quick' one memory and cycles are upper bounds.
    """

    memory: Memory
    program: hlo.Program | None
    seconds_lowering: float
    seconds_compiling: float
    is_kept: bool
    effort: str = "full"


def batch_shapes(config: ConfigDict, recipe: Recipe) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch as `data.pipeline` gives it, as shapes."""
    loaded = config_lib.loaded_images(config)
    return {
        "images": jax.ShapeDtypeStruct((loaded, *recipe.classifier.image_shape), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((loaded,), jnp.int32),
        "generated": jax.ShapeDtypeStruct((loaded,), jnp.bool_),
    }


def state_bytes(recipe: Recipe, layout: Layout) -> int:
    """Of a training state on one device."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(train_state.abstract(recipe, layout))
    )


def lower(config: ConfigDict, recipe: Recipe, layout: Layout) -> Any:
    """The step that `train` runs, traced."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = train_state.abstract(recipe, layout)
    return compile_step(recipe, layout).lower(state, batch_shapes(config, recipe), key)


def compile_plan(
    config: ConfigDict,
    recipe: Recipe,
    layout: Layout,
    place: Slice,
    kept_in: Path | None = None,
    effort: str = "full",
) -> Compiled:
    """Lowers and compiles the step.

    Args:
      effort: of `EFFORTS`.
      kept_in: folder of what earlier plans compiled. JAX's own cache writes programs for devices
        that are not there, and cannot read them back.

    Raises:
      jax.errors.JaxRuntimeError: what XLA refuses for another reason than memory.
    """
    start = time.monotonic()
    lowered = lower(config, recipe, layout)
    lowering = time.monotonic() - start
    LOGGER.info("lowered the step in %.1f s", lowering)

    name = f"{preflight_kept.fingerprint(lowered, place, effort)}.json.gz"
    file = kept_in / name if kept_in else None
    kept = preflight_kept.read(file)
    if kept is None:
        LOGGER.info("compiling it for %s; %s", place.name, _cost(config, place, effort))
        start = time.monotonic()
        with _telling():
            kept = _compile(lowered, effort)
        kept["seconds"] = time.monotonic() - start
        LOGGER.info("compiled it in %.0f s", kept["seconds"])
        preflight_kept.write(file, kept)
        is_kept = False
    else:
        LOGGER.info("compiled before, in %.0f s: %s", kept["seconds"], file)
        is_kept = True
    available = kept.get("available") or int(place.chip.memory)
    state, memory = state_bytes(recipe, layout), kept["memory"]
    if not memory["needed"]:
        memory["needed"] = state + memory["temporaries"]
    return Compiled(
        memory=Memory(state=state, available=available, **memory),
        program=hlo.read(kept["text"]) if kept["text"] else None,
        seconds_lowering=lowering,
        seconds_compiling=kept["seconds"],
        is_kept=is_kept,
        effort=effort,
    )


def _cost(config: ConfigDict, place: Slice, effort: str) -> str:
    """What compiling takes, and what is quicker."""
    if not place.chip.clock:
        return "seconds for a small network, minutes for a WideResNet"
    precisions = (config.precision.train, config.precision.attack)
    text = "seconds for a small network; on two cores "
    if set(precisions) == {"bfloat16"}:
        text += "4 to 20 minutes for a WideResNet"
        return text if effort == "quick" else f"{text}, a fifth of it with --effort=quick"
    if effort == "quick":
        return f"{text}about 5 minutes for WRN-28-10 in float32"
    return (
        f"{text}25 minutes and more, and 11 GB, for WRN-28-10 in float32; a seventh of it with "
        "--config.precision.train=bfloat16 --config.precision.attack=bfloat16, a fifth with "
        "--effort=quick (upper bounds)"
    )


@contextlib.contextmanager
def _telling(every: float = TELL_EVERY) -> Iterator[None]:
    """Tells now and then what the compiler took so far; it says nothing itself."""
    done, start, computed = threading.Event(), time.monotonic(), time.process_time()

    def tell() -> None:
        while not done.wait(every):
            LOGGER.info(
                "compiling for %.0f s: %.0f s of CPU, %.1f GiB of memory at the most",
                time.monotonic() - start, time.process_time() - computed,
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            )  # fmt: skip

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _compile(lowered: Any, effort: str) -> dict[str, Any]:
    """The text of the program and its memory, or what XLA says is too much."""
    was_cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        compiled = lowered.compile(
            compiler_options={"exec_time_optimization_effort": EFFORTS[effort]}
        )
    except jax.errors.JaxRuntimeError as error:
        numbers = out_of_memory(str(error))
        if numbers is None:
            raise
        needed, temporaries, available = numbers
        memory = {"needed": needed, "temporaries": temporaries}
        return {"text": "", "memory": memory, "available": available}
    finally:
        jax.config.update("jax_enable_compilation_cache", was_cached)
    stats = compiled.memory_analysis()
    inputs, program = stats.argument_size_in_bytes, stats.generated_code_size_in_bytes
    made = stats.output_size_in_bytes - stats.alias_size_in_bytes
    temporaries = stats.temp_size_in_bytes
    memory = {
        "inputs": inputs, "temporaries": temporaries, "program": program,
        "needed": inputs + made + temporaries + program,
    }  # fmt: skip
    return {"text": compiled.as_text(), "memory": memory}


def out_of_memory(message: str) -> tuple[int, int, int] | None:
    """Bytes needed, of temporaries, and available, where XLA says that a program is too large.

    It tells one of the first two; the other is 0.
    """
    for form, tells_all in _TOO_LARGE.items():
        if found := form.search(message):
            used, unit, available, other = found.groups()
            used = int(float(used) * _UNITS[unit])
            limit = int(float(available) * _UNITS[other])
            return (used, 0, limit) if tells_all else (0, used, limit)
    return None
