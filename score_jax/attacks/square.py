"""Square, the black-box attack of Andriushchenko et al. 2020: random search by squares.

It asks the classifier for logits alone, so it also sees what a masked gradient hides. Every image
is attacked on its own, by windows of its own, whatever its batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax.attacks.apgd import is_wrong, run_keys
from score_jax.attacks.apgd_walks import select
from score_jax.attacks.square_windows import PROPOSALS
from score_jax.divergences import margin
from score_jax.types import Array, Key, UserError, lookup

Logits = Callable[[Array], Array]
# The best points, f[b, h, w, c]; their margins f[b], infinite before the first query; bool[b].
Found = tuple[Array, Array, Array]


def square(
    logits_fn: Logits,
    keys: Key,
    images: Array,
    labels: Array,
    *,
    norm: str,
    eps: float | Array,
    num_queries: int = 5000,
) -> Array:
    """Attacks every image on its own; stops where all are misclassified.

    Costs a forward pass to see who is right, one for the start, and one a query.

    Args:
      logits_fn: images f[b, h, w, c] -> logits f[b, k].
      keys: [b], one an image.
      images: clean, f[b, h, w, c] in [0, 1].
      labels: i32[b].
      norm: 'linf', 'l2' or 'l1'.
      eps: radius in pixel units; may be traced.
      num_queries: after the start.

    Returns:
      f[b, h, w, c]: adversarial images, or the clean one where there is none.

    Raises:
      UserError: an unknown norm, or num_queries below 1.
    """
    wrong = is_wrong(logits_fn(images), labels)
    best, _, fooled = search(
        logits_fn, keys, images, labels, (*beginning(images)[:2], wrong),
        norm=norm, eps=eps, num_queries=num_queries, first=0, stop=num_queries + 1,
    )  # fmt: skip
    return jax.lax.stop_gradient(select(fooled, best, images))


def beginning(images: Array) -> Found:
    """What is found before the first query: nothing."""
    size = len(images)
    return images, jnp.full(size, jnp.inf, images.dtype), jnp.zeros(size, bool)


def search(
    logits_fn: Logits,
    keys: Key,
    images: Array,
    labels: Array,
    found: Found,
    *,
    norm: str,
    eps: float | Array,
    num_queries: int,
    first: int | Array,
    stop: int | Array,
) -> Found:
    """The queries first .. stop - 1 of num_queries + 1; query 0 is the start.

    A search in parts finds what one in one piece does. Images that are fooled stay as they are.

    Args:
      found: what the queries before found, or `beginning`.
      first, stop: may be traced.
    """
    proposals = lookup(PROPOSALS, "norm", norm)(eps=eps)
    if num_queries < 1:
        raise UserError(f"num_queries={num_queries} is no attack; give 1 or more")
    sides = jnp.asarray(proposals.sides(num_queries + 1, images.shape[1:]))

    def another(state):
        query, (_, _, fooled) = state
        return (query < stop) & ~fooled.all()

    def ask(state):
        query, (best, best_margin, fooled) = state
        query_keys = run_keys(keys, query)

        def propose(best):
            propose_one = jax.vmap(proposals.propose, in_axes=(0, 0, 0, None))
            return propose_one(query_keys, images, best, sides[query])

        proposed = jax.lax.cond(
            query == 0, lambda _: jax.vmap(proposals.start)(query_keys, images), propose, best
        )
        logits = logits_fn(proposed)
        reached = margin(logits, labels)
        wrong = is_wrong(logits, labels)
        better = ~fooled & ((reached < best_margin) | wrong)
        return query + 1, (
            select(better, proposed, best),
            jnp.where(better, reached, best_margin),
            fooled | wrong,
        )

    return jax.lax.while_loop(another, ask, (jnp.asarray(first, jnp.int32), found))[1]
