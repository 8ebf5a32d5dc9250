"""The cross-entropy around an image: on a plane, against its tangent, and where PGD climbs to.

A loss that bends away from its tangent hides what a gradient attack looks for (Qin et al. 2019,
"Adversarial Robustness through Local Linearization"); a point of the plane within the ball that
lies above all that PGD has seen shows that it did.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import attacks
from score_jax.analysis.subject import Compute, Subject
from score_jax.attacks import PGD
from score_jax.attacks.multi_targeted import draw_noise
from score_jax.divergences import label_cross_entropy, margin
from score_jax.threat_models import L2, ThreatModel
from score_jax.types import Array, Key

# A point lies above what PGD saw where it does by this share of PGD's rise, and by so many nats:
# less is the last few steps' rattling about the top.
RISE_SHARE, NATS = 0.05, 0.01


def attack_of(subject: Subject) -> PGD:
    """The PGD of a subject: its ball, its steps, a random start."""
    return attacks.create(
        norm=subject.norm, eps=subject.eps, step_size=subject.step_size, num_steps=subject.steps
    )


def highest(
    value: Callable[[Array], Array], attack: PGD, keys: Key, images: Array
) -> tuple[Array, Array]:
    """The highest point that PGD sees on its way up, its last one included.

    Args:
      value: images f[b, h, w, c] -> what to ascend, f[b].
      keys: [b], one an image, for its random start.

    Returns:
      Images f[b, h, w, c] in the ball, and their values f[b].
    """

    def higher(best, moved, found):
        images, values = best
        is_higher = found > values
        images = jnp.where(is_higher[:, None, None, None], moved, images)
        return images, jnp.where(is_higher, found, values)

    def watched(moved, index, best):
        del index
        found = value(moved)
        return found, (jnp.ones(found.shape, bool), higher(best, moved, found))

    start = (images, jnp.full(images.shape[:1], -jnp.inf, images.dtype))
    noise = draw_noise(attack.threat, keys, images)
    attacked = attack.watch(watched, keys[0], images, noise, carry=start)
    return higher(attacked.carry, attacked.images, value(attacked.images))


def linearity(attack: PGD) -> Compute:
    """How the loss ℓ rises within the ball, and how far it leaves its tangent; f[b] each.

    clean: ℓ(x). rise: ℓ at the highest point that PGD sees, less ℓ(x). tangent: what δᵀ∇ℓ(x)
    promises for one step to the ball's boundary, the steepest within [0, 1]. gap: γ, the largest
    |ℓ(x + δ) - ℓ(x) - δᵀ∇ℓ(x)| that PGD finds, from below (Qin et al. 2019, equation 6): rise is
    at most tangent + gap.
    """

    def compute(logits, keys, images, labels):
        def loss(moved):
            return label_cross_entropy(logits(moved), labels)

        clean = loss(images)
        gradient = jax.grad(lambda moved: loss(moved).sum())(images)

        def gap(moved):
            return jnp.abs(loss(moved) - clean - _dot(moved - images, gradient))

        ahead = images + attack.threat.eps * attack.threat.ascend(gradient, keys[0])
        ahead = attack.threat.project(ahead, images)
        top, reached = highest(loss, attack, keys, images)
        _, widest = highest(gap, attack, keys, images)
        return {
            "clean": clean,
            "rise": reached - clean,
            "tangent": _dot(ahead - images, gradient),
            "gap": jnp.maximum(widest, gap(top)),
        }

    return compute


def plane(attack: PGD, coordinates: np.ndarray) -> Compute:
    """The loss at x + a·u + b·v, clipped to [0, 1], for all a and b in `coordinates`, f64[g].

    u goes to the highest point that PGD sees and v in a random direction, both eps long: in L∞ v
    has entries ±eps, in L2 it is orthogonal to u. In L∞ the ball is then nearly the diamond
    |a| + |b| ≤ 1, in L2 the unit disc.

    Gives f[b, g, g] over (image, a, b): 'loss'; 'margin', z_y - max_{j≠y} z_j; 'distance' from x,
    in eps. And f[b]: 'clean' and 'reached', the loss at x and at the point PGD saw; 'place', the a
    of that point.
    """

    def compute(logits, keys, images, labels):
        def loss(moved):
            return label_cross_entropy(logits(moved), labels)

        threat = attack.threat
        top, reached = highest(loss, attack, keys, images)
        place = threat.distance(top, images) / threat.eps
        along = (top - images) / jnp.where(place > 0, place, 1)[:, None, None, None]
        across = _across(threat, keys, along)
        # [b, 1, h, w, c] + [1, g, 1, 1, 1] * [b, 1, h, w, c]
        b = jnp.asarray(coordinates, images.dtype)[None, :, None, None, None]
        line = images[:, None] + b * across[:, None]
        size = len(coordinates)
        repeated = jnp.repeat(labels, size)
        centres = jnp.repeat(images, size, axis=0)

        def row(a):
            points = jnp.clip(line + a * along[:, None], 0.0, 1.0).reshape(centres.shape)
            answers = logits(points)
            found = {
                "loss": label_cross_entropy(answers, repeated),
                "margin": margin(answers, repeated),
                "distance": threat.distance(points, centres) / threat.eps,
            }
            return jax.tree.map(lambda leaf: leaf.reshape(-1, size), found)

        rows = jax.lax.map(row, jnp.asarray(coordinates, images.dtype))
        grids = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), rows)
        return {**grids, "clean": loss(images), "reached": reached, "place": place}

    return compute


def above(found: dict[str, np.ndarray]) -> np.ndarray:
    """By how much a point of the plane within the ball lies above all that PGD saw, f[n].

    Args:
      found: by `plane`, of n images. Never below 0.
    """
    inside = np.where(found["distance"] <= 1 + 1e-4, found["loss"], -np.inf)
    return np.maximum(inside.max((1, 2)) - found["reached"], 0)


def is_hidden(found: dict[str, np.ndarray]) -> np.ndarray:
    """Whether PGD missed by more than rattling what the plane has, bool[n]."""
    rise = np.maximum(found["reached"] - found["clean"], 0)
    return above(found) > np.maximum(RISE_SHARE * rise, NATS)


def _across(threat: ThreatModel, keys: Key, along: Array) -> Array:
    """The random direction of each image, eps long."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)  # Not those of the start.
    shape = along.shape[1:]
    if not isinstance(threat, L2):
        return threat.eps * jax.vmap(lambda k: jax.random.rademacher(k, shape, along.dtype))(keys)
    drawn = jax.vmap(lambda key: jax.random.normal(key, shape, along.dtype))(keys)
    share = _dot(drawn, along) / threat.eps**2
    drawn = drawn - share[:, None, None, None] * along
    length = jnp.sqrt(_dot(drawn, drawn))[:, None, None, None]
    return threat.eps * drawn / jnp.where(length > 0, length, 1)


def _dot(one: Array, other: Array) -> Array:
    """Σ over pixels, f[b]."""
    return jnp.sum(one * other, axis=(1, 2, 3))
