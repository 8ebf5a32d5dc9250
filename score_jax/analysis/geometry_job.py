"""`score-jax analyze geometry`: what a model's surroundings of images look like, part by part."""

import importlib
from collections.abc import Callable, Iterator

from score_jax.analysis import subject
from score_jax.analysis.finding import Finding
from score_jax.command_line import Call, UsageError, suggest

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
    """A finding a part: those of --show, in the order of `PARTS`; all where none is named."""
    for name in call.show:
        if name not in PARTS:
            raise UsageError(f"--show={name} is no part of the geometry; {suggest(name, PARTS)}")
    examined = subject.create(call)
    for name, module in PARTS.items():
        if not call.show or name in call.show:
            yield _part(name, module)(examined)


def _part(name: str, module: str) -> Callable[[subject.Subject], Finding]:
    return getattr(importlib.import_module(f"score_jax.analysis.{module}"), name)
