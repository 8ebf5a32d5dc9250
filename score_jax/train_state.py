"""Everything that a step changes, as one tree: what is donated, saved and restored."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.mesh import Layout
from score_jax.metrics import Health, Mean
from score_jax.recipe import Recipe
from score_jax.types import Array, BatchStats, Key, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """The state of a run between two steps.

    Attributes:
      step: i32[], optimizer updates done.
      params, batch_stats: the live network.
      ema_params: averaged weights; validated, selected and exported with the live batch_stats,
        as in the DeepMind and SCORE code.
      opt_state: of Optax.
      sums: training metrics since the last line of the log, and under 'health' what broke in it;
        here, so that a resumed run writes the same lines.
    """

    step: Array
    params: Params
    batch_stats: BatchStats
    ema_params: Params
    opt_state: Any
    sums: dict[str, Mean | Health]


def initial_state(
    recipe: Recipe, key: Key, weights: tuple[Params, BatchStats] | None = None
) -> TrainState:
    """A fresh state; a pure function of the key, or of given (params, batch_stats)."""
    params, batch_stats = recipe.classifier.init(key) if weights is None else weights
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        ema_params=params,
        opt_state=recipe.optimizer.init(params),
        sums={name: Mean.zero() for name in recipe.metric_names} | {"health": Health.good()},
    )


def shardings(recipe: Recipe, layout: Layout) -> TrainState:
    """Where each array of a state lies: what `Layout.state` shards, and the rest whole."""
    return _shardings(_shapes(recipe), layout)


def _shapes(recipe: Recipe) -> TrainState:
    return jax.eval_shape(lambda key: initial_state(recipe, key), jax.random.key(0))


def _shardings(shapes: TrainState, layout: Layout) -> TrainState:
    whole = jax.tree.map(lambda leaf: layout.replicated, shapes)
    return dataclasses.replace(
        whole,
        params=layout.state(shapes.params),
        ema_params=layout.state(shapes.ema_params),
        opt_state=layout.state(shapes.opt_state),
    )


def create(
    recipe: Recipe,
    key: Key,
    layout: Layout,
    weights: tuple[Params, BatchStats] | None = None,
) -> TrainState:
    """`initial_state`, made on the devices; without given weights no copy is on the host."""

    def make(key, weights):
        return initial_state(recipe, key, weights)

    weights = jax.device_put(weights, layout.replicated)
    return jax.jit(make, out_shardings=shardings(recipe, layout))(key, weights)


def abstract(recipe: Recipe, layout: Layout) -> TrainState:
    """Shapes and layouts of a state: the target of a restore."""
    shapes = _shapes(recipe)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        _shardings(shapes, layout),
    )
