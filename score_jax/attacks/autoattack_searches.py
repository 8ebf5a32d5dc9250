"""The attacks of the ensemble as searches over many images, which leave those that have fallen.

Each is a generator over (indices, found images): between its restarts, targets or parts, only those
that still stand go on.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.attacks import apgd, fab, square
from score_jax.divergences import targeted_dlr

NUM_QUERIES = 5000  # Of Square.
# After so many queries those that have fallen leave Square's batches.
SQUARE_STOPS = (1, 50, 200, 500, 1000, 2000, 3500, NUM_QUERIES + 1)
FAB_TARGETS = 9
Found = Iterator[tuple[np.ndarray, np.ndarray]]  # (indices i[m], images f32[m, h, w, c]).


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """num_targets: of APGD; num_restarts, fab_restarts: of the untargeted forms."""

    norm: str
    num_targets: int
    num_restarts: int
    fab_restarts: int


def settings(version: str, norm: str, num_classes: int) -> Settings:
    """Those of the official program, whose L1 has more restarts and fewer targets."""
    targets, restarts = (5, 5) if norm == "l1" and version == "standard" else (9, 1)
    return Settings(
        norm=norm,
        num_targets=min(targets, num_classes - 1),
        num_restarts=5 if version == "plus" else restarts,
        fab_restarts=5 if version == "plus" else 1,
    )


def _keys(key, indices):
    """One an image, by its place among all of them."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def _apgd_program(logits_fn, images, labels, indices, target, key, run, eps, *, norm, loss):
    def loss_fn(logits):
        if loss == "targeted_dlr":
            return targeted_dlr(logits, labels, target)
        return apgd.LOSSES[loss](logits, labels)

    keys = apgd.run_keys(_keys(key, indices), run)
    return apgd.single_run(logits_fn, keys, images, labels, norm=norm, eps=eps, loss_fn=loss_fn)


def _apgd(loss: str) -> Callable[..., Found]:
    def search(batches, standing, clean, key, eps, settings):
        program = batches.compile(_apgd_program, norm=settings.norm, loss=loss)
        targets, num_runs = np.zeros((len(clean), 1), np.int32), settings.num_restarts
        if loss == "targeted_dlr":
            num_runs = settings.num_targets
            targets = np.asarray(apgd.likely_targets(jnp.asarray(clean), num_runs))
        for run in range(num_runs):
            if not len(standing):
                return
            target = targets[:, run % targets.shape[1]]
            found, fooled = batches.run(program, standing, key, np.int32(run), eps, given=(target,))
            yield standing[fooled], found[fooled]
            standing = standing[~fooled]

    return search


def _fab_program(logits_fn, images, labels, indices, key, eps, *, norm, num_targets, num_restarts):
    return fab.fab(
        logits_fn, _keys(key, indices), images, labels, norm=norm, eps=eps,
        num_targets=num_targets, num_restarts=num_restarts,
    )  # fmt: skip


def _fab(targeted: bool) -> Callable[..., Found]:
    def search(batches, standing, clean, key, eps, settings):
        # Targeted FAB never restarts, in no version.
        limits = dict(
            num_targets=min(FAB_TARGETS, clean.shape[1] - 1) if targeted else None,
            num_restarts=1 if targeted else settings.fab_restarts,
        )
        program = batches.compile(_fab_program, norm=settings.norm, **limits)
        yield standing, batches.run(program, standing, key, eps)

    return search


def _square_program(
    logits_fn, images, labels, indices, best, best_margin, fooled, key, first, stop, eps, *, norm
):
    return square.search(
        logits_fn, _keys(key, indices), images, labels, (best, best_margin, fooled),
        norm=norm, eps=eps, num_queries=NUM_QUERIES, first=first, stop=stop,
    )  # fmt: skip


def _square(batches, standing, clean, key, eps, settings) -> Found:
    del clean
    program = batches.compile(_square_program, norm=settings.norm)
    size = len(batches.labels)
    best, margins = batches.images.copy(), np.full(size, np.inf, np.float32)
    nobody, first = np.zeros(size, bool), 0
    for stop in SQUARE_STOPS:
        if not len(standing):
            return
        limits = (np.int32(first), np.int32(stop))
        best[standing], margins[standing], fooled = batches.run(
            program, standing, key, *limits, eps, given=(best, margins, nobody)
        )
        yield standing[fooled], best[standing[fooled]]
        standing, first = standing[~fooled], stop


# The order numbers their random draws; new ones at the end.
ATTACKS: dict[str, Callable[..., Found]] = {
    "apgd-ce": _apgd("ce"),
    "apgd-dlr": _apgd("dlr"),
    "apgd-t": _apgd("targeted_dlr"),
    "fab": _fab(targeted=False),
    "fab-t": _fab(targeted=True),
    "square": _square,
}
