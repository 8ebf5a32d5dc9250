"""`score-jax analyze geometry`: what a model's surroundings of images look like, part by part."""

import importlib
import logging
from collections.abc import Callable, Iterator

from score_jax.analysis import geometry_weights, subject
from score_jax.analysis.finding import Finding
from score_jax.command_line import Call, UsageError, suggest

LOGGER = logging.getLogger("score_jax")
# Part: the module that measures it, by a function of the same name: Subject -> Finding.
PARTS = {
    "kappa": "geometry_kappa",
    "weights": "geometry_weights",
    "margins": "geometry_margins",
    "surface": "landscape",
    "gradients": "landscape",
    "radii": "landscape",
}


def run(call: Call) -> Iterator[Finding]:
    """A finding a part: those of --show, in the order of `PARTS`; all where none is named.

    Weights are left out, with a line, where the attack has too few steps for them.

    Raises:
      UsageError: an unknown part, or weights alone where the attack has too few steps.
    """
    for name in call.show:
        if name not in PARTS:
            raise UsageError(f"--show={name} is no part of the geometry; {suggest(name, PARTS)}")
    examined = subject.create(call)
    asked = [name for name in PARTS if not call.show or name in call.show]
    if "weights" in asked and examined.steps < geometry_weights.LEAST_STEPS:
        told = (
            f"the part weights needs an attack of {geometry_weights.LEAST_STEPS} steps or more to "
            f"tell images apart by κ, this one has {examined.steps}; give --steps"
        )
        asked.remove("weights")
        if not asked:
            raise UsageError(told)
        LOGGER.warning("left out: %s", told)
    for name in asked:
        yield _part(name, PARTS[name])(examined)


def _part(name: str, module: str) -> Callable[[subject.Subject], Finding]:
    return getattr(importlib.import_module(f"score_jax.analysis.{module}"), name)
