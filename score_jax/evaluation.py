"""Clean and attacked accuracy of a classifier on given images, exact on any number of devices."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import attacks, metrics
from score_jax.attacks import PGD
from score_jax.attacks.apgd import apgd, apgd_targeted
from score_jax.divergences import ATTACK_LOSSES
from score_jax.mesh import Layout
from score_jax.metrics import Mean
from score_jax.models import Classifier
from score_jax.types import Array, BatchStats, Key, Params, lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """An evaluation attack: how it moves and what it ascends.

    Attributes:
      attack: the PGD.
      loss: one of `divergences.ATTACK_LOSSES`; 'margin' is the selection attack of the SCORE code.
    """

    attack: PGD
    loss: str = "margin"

    def __post_init__(self):
        lookup(ATTACK_LOSSES, "config.validation.attack.loss", self.loss)

    @property
    def name(self) -> str:
        """'pgd40': the attack is in the metric's name."""
        return f"pgd{self.attack.num_steps}"

    def adversarial(
        self, logits: Callable[[Array], Array], key: Key, images: Array, labels: Array
    ) -> Array:
        """The last iterates, f32[b, h, w, c]."""
        loss = ATTACK_LOSSES[self.loss]
        return self.attack(lambda x: loss(logits(x), labels), key, images)


APGD = {"apgd-ce": apgd, "apgd-t": apgd_targeted}


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGDJudge:
    """An attack of AutoAttack as the evaluation attack; it finds its own step sizes.

    Attributes:
      kind: one of `APGD`.
    """

    kind: str
    norm: str
    eps: float
    num_steps: int

    @property
    def name(self) -> str:
        """'apgd_t100': as of `Judge`."""
        return f"{self.kind.replace('-', '_')}{self.num_steps}"

    def adversarial(
        self, logits: Callable[[Array], Array], key: Key, images: Array, labels: Array
    ) -> Array:
        """Adversarial images where there are, else clean ones, f32[b, h, w, c]."""
        return APGD[self.kind](
            logits, jax.random.split(key, len(images)), images, labels,
            norm=self.norm, eps=self.eps, num_steps=self.num_steps,
        )  # fmt: skip


def create_judge(name: str = "pgd", loss: str = "margin", **fields: Any) -> Judge | APGDJudge:
    """The judge of config.validation.attack; APGD takes norm, eps and num_steps of it.

    Raises:
      UserError: an unknown name, or what `attacks.create` refuses.
    """
    if name == "pgd":
        return Judge(loss=loss, attack=attacks.create(**fields))
    lookup(APGD | {"pgd": None}, "config.validation.attack.name", name)
    return APGDJudge(kind=name, **{field: fields[field] for field in ("norm", "eps", "num_steps")})


def finite_or_clean(adversarial: Array, images: Array) -> Array:
    """Where an image f[b, h, w, c] is no number, nothing was found: the clean one."""
    is_finite = jnp.isfinite(adversarial).all((1, 2, 3), keepdims=True)
    return jnp.where(is_finite, adversarial, images)


def logits_fn(
    classifier: Classifier, params: Params, batch_stats: BatchStats
) -> Callable[[Array], Array]:
    """images f32[b, h, w, c] -> logits f32[b, k], by running statistics."""
    return functools.partial(classifier.logits, params, batch_stats)


def compile_evaluation(classifier: Classifier, judge: Judge | APGDJudge, layout: Layout) -> Any:
    """Jitted (params, batch_stats, batch, key) -> {'clean_accuracy', '<judge>_accuracy'} as Means.

    The batch has 'images' u8[b, h, w, c], 'labels' i32[b] and 'mask' bool[b]; only masked-in
    examples count.
    """

    def evaluate(params, batch_stats, batch, key):
        logits = logits_fn(classifier, params, batch_stats)
        images = batch["images"].astype(jnp.float32) / 255
        adversarial = judge.adversarial(logits, key, images, batch["labels"])
        adversarial = finite_or_clean(adversarial, images)
        count = batch["mask"].sum(dtype=jnp.float32)

        def accuracy(x):
            right = metrics.correct(logits(x), batch["labels"]) & batch["mask"]
            return Mean(right.sum(dtype=jnp.float32), count)

        return {"clean_accuracy": accuracy(images), f"{judge.name}_accuracy": accuracy(adversarial)}

    return jax.jit(
        evaluate,
        in_shardings=(layout.replicated, layout.replicated, layout.batch, layout.replicated),
        out_shardings=layout.replicated,
    )


def padded_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of exactly `batch_size`; the last is filled up with copies that the mask excludes."""
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, start + batch_size)
        mask = indices < len(images)
        indices = np.where(mask, indices, start)
        yield {"images": images[indices], "labels": labels[indices], "mask": mask}


def place(
    images: np.ndarray, labels: np.ndarray, batch_size: int, layout: Layout
) -> list[dict[str, Array]]:
    """`padded_batches` on the devices, once, for evaluations that come again."""
    devices = layout.num_devices
    batch_size = min(batch_size, len(images))
    batch_size = -(-batch_size // devices) * devices
    return [layout.put_whole_batch(batch) for batch in padded_batches(images, labels, batch_size)]


def accuracies(
    evaluate: Any,
    params: Params,
    batch_stats: BatchStats,
    batches: list[Any],
    key: Key,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Runs a compiled evaluation over placed batches; accuracies as fractions.

    Asks `is_stopped` before each batch, and returns None where the answer is yes. The batch before
    the last one asked for is then done: the host may not run ahead, or it would ask too early.
    """
    totals: dict[str, Mean] = {}
    for index, batch in enumerate(batches):
        if is_stopped():
            return None
        before = totals
        means = evaluate(params, batch_stats, batch, jax.random.fold_in(key, index))
        totals = {name: totals[name] + mean if totals else mean for name, mean in means.items()}
        jax.block_until_ready(before)
    return metrics.compute(totals)
