"""The seam: a network as two pure functions over nested, string-keyed dicts.

Only this file splits and merges NNX modules; the rest of the project sees `Classifier`.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from score_jax.models import layers
from score_jax.types import Array, BatchStats, Key, Params, UserError


class NormalizeBy(enum.StrEnum):
    """Which statistics the BatchNorm layers normalise by. Always passed, never remembered."""

    RUNNING = "running"  # Running averages: evaluation, export, and attacks as in Madry's code.
    BATCH = "batch"  # This batch's moments: training, and attacks as in TRADES-swish and SCORE.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A stateless image classifier.

    Attributes:
      init: key -> (params, batch_stats), nested dicts with string keys.
      apply: (params, batch_stats, images f32[b, h, w, c] in [0, 1], *, normalize_by,
        momentum=None, dropout_key=None) -> (logits f32[b, k], new_batch_stats). RUNNING returns
        batch_stats as they came. With BATCH each running average moves by `momentum` towards this
        batch (None: the network's own value; 1.0 forgets the past). Whoever must not record drops
        the result. A dropout_key turns dropout on, whatever normalises: the masks are a function
        of the key and of each example's place in the batch alone; None turns it off.
      roles: like params, each leaf 'kernel', 'bias' or 'batchnorm'.
      batchnorm_momentum: the network's own value; 0.0 where there is no BatchNorm.
      image_shape: (h, w, c).
      dropout: the largest rate in the network; at 0.0 a dropout_key changes nothing.
      activations: (params, batch_stats, images) -> what each module puts out, by its path, such as
        'layer_0/block_1/conv_0', in the order of the computation (jit sorts a dict's keys); by
        running statistics, without dropout.
    """

    init: Callable[[Key], tuple[Params, BatchStats]]
    apply: Callable[..., tuple[Array, BatchStats]]
    roles: Any
    batchnorm_momentum: float
    image_shape: tuple[int, int, int]
    dropout: float = 0.0
    activations: Callable[[Params, BatchStats, Array], dict[str, Array]] | None = None

    def logits(self, params: Params, batch_stats: BatchStats, images: Array) -> Array:
        """f32[b, k] of images f32[b, h, w, c], by running statistics: what an evaluation sees."""
        return self.apply(params, batch_stats, images, normalize_by=NormalizeBy.RUNNING)[0]


def _fill(template: nnx.State, values: Mapping[str, Any], name: str) -> nnx.State:
    """The template state holding `values`, after a comparison of every path and shape."""
    expected = {"/".join(path): leaf.shape for path, leaf in nnx.to_flat_state(template)}
    given = {
        "/".join(str(entry.key) for entry in path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]
    }
    if expected != given:
        wrong = [
            f"{path} is {given.get(path, 'missing')}, the model has {expected.get(path, 'none')}"
            for path in sorted(expected.keys() | given.keys())
            if expected.get(path) != given.get(path)
        ]
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise UserError(f"{name} do not fit this model: {shown}.")
    # As JAX arrays: a forward pass would record its statistics into a NumPy array in place.
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(dict(values))]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


@functools.cache
def _recording(kind: type[nnx.Module]) -> type[nnx.Module]:
    """The same kind of module, which also hands what it puts out to its `record`.

    Not `nnx.capture`, which gives every nnx.Dict another entry and keeps no order.
    """

    class Recording(kind):
        def __call__(self, *inputs):
            out = super().__call__(*inputs)
            self.record(out)
            return out

    return Recording


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module], image_shape) -> Classifier:
    """Wraps a builder of NNX modules whose `__call__` takes (images, layers.Mode)."""
    template = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphdef, param_state, stat_state = nnx.split(template, nnx.Param, nnx.BatchStat)
    roles = nnx.to_pure_dict(
        jax.tree.map(
            lambda variable: variable.replace(variable.role),
            param_state,
            is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
        )
    )

    rates = [
        part.rate for _, part in nnx.iter_modules(template) if isinstance(part, layers.Dropout)
    ]

    def init(key):
        _, params, batch_stats = nnx.split(build(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)

    def merge(params, batch_stats):
        # A private copy: a forward pass may not write into the caller's state.
        return nnx.merge(
            graphdef,
            _fill(param_state, params, "params"),
            _fill(stat_state, batch_stats, "batch_stats"),
            copy=True,
        )

    def apply(
        params, batch_stats, images, *, normalize_by, momentum=None, dropout_key=None
    ):  # fmt: skip
        by_batch = NormalizeBy(normalize_by) is NormalizeBy.BATCH
        module = merge(params, batch_stats)
        logits = module(images, layers.Mode(by_batch, momentum, dropout_key))
        if not by_batch:
            return logits, batch_stats
        return logits, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def activations(params, batch_stats, images):
        module, seen = merge(params, batch_stats), {}
        for path, part in nnx.iter_modules(module):
            if path and callable(part):
                part.__class__ = _recording(type(part))
                part.record = functools.partial(seen.__setitem__, "/".join(map(str, path)))
        module(images, layers.Mode(by_batch=False))
        return seen

    return Classifier(
        init=init,
        apply=apply,
        roles=roles,
        batchnorm_momentum=template.batchnorm_momentum,
        image_shape=tuple(image_shape),
        dropout=max(rates, default=0.0),
        activations=activations,
    )
