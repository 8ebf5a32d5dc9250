"""FAB, the fast adaptive boundary attack (Croce and Hein 2020): the closest adversarial image.

Each step linearises the boundary between two classes, projects the iterate and the clean image onto
it, and goes to a mean of both that is biased towards the clean one; an adversarial iterate is
recorded and drawn back. The radius does not guide the search: it only says in the end who is lost.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.attacks.apgd import finite, is_wrong, likely_targets
from score_jax.attacks.apgd_walks import over_pixels, select
from score_jax.attacks.fab_projections import NORMS, Norm
from score_jax.divergences import margin
from score_jax.types import Array, Key, lookup

ALPHA_MAX = 0.1  # The largest weight of the clean image's projection.
ETA = 1.05  # How far beyond the linearised boundary a step goes.
BETA = 0.9  # What an adversarial iterate keeps of its distance.
SEARCH_STEPS = 3  # Of the final search between the clean and the adversarial image.
Logits = Callable[[Array], Array]
# images f[b, h, w, c] -> (z_other - z_label f[b], its gradient f[b, h, w, c]).
Boundary = Callable[[Array], tuple[Array, Array]]


def fab(
    logits_fn: Logits,
    keys: Key,
    images: Array,
    labels: Array,
    *,
    norm: str,
    eps: float | Array,
    num_targets: int | None = 9,
    num_steps: int = 100,
    num_restarts: int = 1,
) -> Array:
    """Attacks every image on its own: FAB-T, or FAB.

    Args:
      logits_fn: images f32[b, h, w, c] -> logits f32[b, k].
      keys: [b], one an image; only restarts after the first draw.
      images: clean, f32[b, h, w, c] in [0, 1].
      labels: i32[b].
      norm: 'linf', 'l2' or 'l1'.
      eps: radius in pixel units; may be traced.
      num_targets: so many of the most probable other classes, each with a search of its own
        (FAB-T); None: the class whose boundary is nearest, anew at each step, for which every step
        takes a gradient a class (FAB).
      num_steps: of each search: two forward passes and one gradient.
      num_restarts: searches for each target; those after the first start at random. An image whose
        search ended within eps is left alone; the attack stops where all are.

    Returns:
      f32[b, h, w, c]: adversarial images within eps; where there is none, the clean one.

    Raises:
      UserError: an unknown norm.
    """
    found, distances = _search(
        logits_fn, keys, images, labels, norm, eps, num_targets, num_steps, num_restarts, enough=eps
    )
    # The final search ends next to the boundary, where another program's rounding may decide: only
    # images that it brings inside take its result.
    refined = _refine(logits_fn, images, labels, found)
    refined = select(_distance(norm, refined, images) <= eps, refined, images)
    return jax.lax.stop_gradient(select(distances <= eps, found, refined))


def closest(
    logits_fn: Logits,
    keys: Key,
    images: Array,
    labels: Array,
    *,
    norm: str,
    eps: float | Array,
    num_targets: int | None = 9,
    num_steps: int = 100,
    num_restarts: int = 1,
) -> tuple[Array, Array]:
    """The closest adversarial images found, f32[b, h, w, c], and their distances f32[b].

    Arguments as in `fab`; eps is the radius of random starts, and no search is left out. An image
    that is classified wrong already is its own, at distance 0; where nothing was found the distance
    is infinite.
    """
    found, distances = _search(
        logits_fn, keys, images, labels, norm, eps, num_targets, num_steps, num_restarts, enough=0.0
    )
    refined = _refine(logits_fn, images, labels, found)
    reached = jnp.where(distances == jnp.inf, jnp.inf, _distance(norm, refined, images))
    return jax.lax.stop_gradient((refined, reached))


def _search(
    logits_fn, keys, images, labels, norm, eps, num_targets, num_steps, num_restarts, enough
) -> tuple[Array, Array]:
    """(adversarial images, distances): the clean ones and infinity where nothing was found."""
    kind = lookup(NORMS, "norm", norm)
    clean = logits_fn(images)
    if num_targets is None:
        towards = functools.partial(_nearest_boundary, logits_fn, kind, labels)
        targets = jnp.zeros((len(labels), 1), labels.dtype)
    else:
        towards = functools.partial(_boundary, logits_fn, labels)
        targets = likely_targets(clean, num_targets)
    num_runs = targets.shape[1] * num_restarts

    def goes_on(state):
        index, _, distances = state
        return (index < num_runs) & jnp.any(distances > enough)

    def run(state):
        index, found, distances = state
        start = images
        if num_restarts > 1:
            radius = jnp.minimum(distances, jnp.asarray(eps, images.dtype)) / 2
            moved = _random_start(kind, keys, images, radius, index)
            start = jnp.where(index % num_restarts > 0, moved, images)
        boundary = towards(jnp.take(targets, index // num_restarts, axis=1))
        step = functools.partial(_step, logits_fn, kind, boundary, images, labels)
        _, closer, reached = jax.lax.fori_loop(
            0, num_steps, lambda _, state: step(*state), (start, found, distances)
        )
        # Left alone, so that no image's result depends on how long the others take.
        is_left = distances <= enough
        return index + 1, select(is_left, found, closer), jnp.where(is_left, distances, reached)

    distances = jnp.where(is_wrong(clean, labels), 0, jnp.inf).astype(images.dtype)
    return jax.lax.while_loop(goes_on, run, (jnp.int32(0), images, distances))[1:]


def _step(
    logits_fn: Logits, kind: Norm, boundary: Boundary, images: Array, labels: Array,
    iterate: Array, best: Array, distances: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """One step of algorithm 1: (iterate, closest adversarial images, their distances) anew."""
    difference, gradient = boundary(iterate)
    flat = functools.partial(jnp.reshape, shape=(len(images), -1))
    here, clean, normal = flat(iterate), flat(images), flat(finite(gradient))
    gap = -difference  # What the iterate lacks to the linearised boundary; the clean image:
    clean_gap = gap + jnp.sum(normal * (here - clean), axis=1)
    move, clean_move = kind.move(here, normal, gap), kind.move(clean, normal, clean_gap)
    length, clean_length = (
        jnp.maximum(kind.length(delta), 1e-8)[:, None] for delta in (move, clean_move)
    )
    alpha = jnp.minimum(length / (length + clean_length), ALPHA_MAX)
    moved = (here + ETA * move) * (1 - alpha) + (clean + ETA * clean_move) * alpha
    moved = jnp.clip(moved, 0, 1).reshape(images.shape)

    wrong = is_wrong(logits_fn(moved), labels)
    reached = kind.length(flat(moved - images))
    is_closer = wrong & (reached < distances)
    best, distances = select(is_closer, moved, best), jnp.where(is_closer, reached, distances)
    return select(wrong, images + BETA * (moved - images), moved), best, distances


def _boundary(logits_fn: Logits, labels: Array, targets: Array) -> Boundary:
    """The one between each image's label and its target, i32[b]."""

    def difference(images):
        logits = logits_fn(images)
        is_target, is_label = _is_label(targets, logits), _is_label(labels, logits)
        differences = jnp.sum(jnp.where(is_target, logits, 0), axis=1) - jnp.sum(
            jnp.where(is_label, logits, 0), axis=1
        )
        return differences.sum(), differences

    def linearised(images):
        gradient, differences = jax.grad(difference, has_aux=True)(images)
        return differences, gradient

    return linearised


def _nearest_boundary(logits_fn: Logits, kind: Norm, labels: Array, targets: Array) -> Boundary:
    """The one that is nearest by the linearisation, of all classes."""
    del targets

    def linearised(images):
        logits, pull_back = jax.vjp(logits_fn, images)
        is_label = _is_label(labels, logits)
        differences = logits - jnp.sum(jnp.where(is_label, logits, 0), axis=1, keepdims=True)

        def nearer(best, target):
            aimed = _is_label(jnp.full_like(labels, target), logits)
            (gradient,) = pull_back(aimed.astype(logits.dtype) - is_label.astype(logits.dtype))
            difference = jnp.take(differences, target, axis=1)
            size = kind.dual(gradient.reshape(len(images), -1))
            distance = jnp.abs(difference) / (size + 1e-12)
            is_nearer = (distance < best[2]) & (labels != target)
            return (
                jnp.where(is_nearer, difference, best[0]),
                select(is_nearer, gradient, best[1]),
                jnp.where(is_nearer, distance, best[2]),
            ), None

        nothing = jnp.zeros(labels.shape, images.dtype)
        start = (nothing, jnp.zeros_like(images), jnp.full_like(nothing, jnp.inf))
        classes = jnp.arange(logits.shape[1], dtype=labels.dtype)
        (difference, gradient, _), _ = jax.lax.scan(nearer, start, classes)
        return difference, gradient

    return linearised


def _refine(logits_fn: Logits, images: Array, labels: Array, found: Array) -> Array:
    """The final search: false position between clean and adversarial image, on the margin."""

    def search(_, state):
        right, right_margin, wrong, wrong_margin = state
        span = right_margin - wrong_margin
        share = jnp.clip(-wrong_margin / jnp.where(span > 0, span, 1), 0, 1)
        middle = wrong + over_pixels(share) * (right - wrong)
        logits = logits_fn(middle)
        reached = margin(logits, labels)
        fooled = is_wrong(logits, labels)
        return (
            select(fooled, right, middle), jnp.where(fooled, right_margin, reached),
            select(fooled, middle, wrong), jnp.where(fooled, reached, wrong_margin),
        )  # fmt: skip

    margins = (margin(logits_fn(ends), labels) for ends in (images, found))
    right_margin, wrong_margin = margins
    state = (images, right_margin, found, wrong_margin)
    return jax.lax.fori_loop(0, SEARCH_STEPS, search, state)[2]


def _random_start(kind: Norm, keys: Key, images: Array, radius: Array, index: Array) -> Array:
    """At `radius` f[b] from each image, before [0, 1] clips it."""

    def one(key):
        return kind.draw(jax.random.fold_in(key, index), images.shape[1:], images.dtype)

    drawn = jax.vmap(one)(keys)
    length = jnp.maximum(kind.length(drawn.reshape(len(images), -1)), 1e-12)
    return jnp.clip(images + over_pixels(radius / length) * drawn, 0, 1)


def _distance(norm: str, adversarial: Array, images: Array) -> Array:
    return NORMS[norm].length((adversarial - images).reshape(len(images), -1))


def _is_label(labels: Array, logits: Array) -> Array:
    return jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
