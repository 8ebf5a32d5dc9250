"""The order of an evaluation: attack by attack, chunk by chunk, only on what is still robust.

What one attack finds on one chunk depends on the network, the images that are still robust, the
settings and the seed of that attack and chunk, and on nothing else. So an evaluation may stop
anywhere, go on anywhere and be spread over machines, and the result is the same.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor

from score_jax import autoattack_adapter as adapter
from score_jax import official_autoattack_recount as recount
from score_jax.official_autoattack_batches import Limited, within_memory
from score_jax.official_autoattack_chunks import CLEAN, Found, Store
from score_jax.official_autoattack_identity import Shard
from score_jax.official_autoattack_inputs import from_torch, to_torch
from score_jax.official_autoattack_plan import SEEDINGS, Plan, Tell


@dataclass(kw_only=True)
class Progress:
    """What is known of the images so far.

    adversarial: f32[n, h, w, c], the clean image where no attack succeeded; robust: bool[n];
    left: images robust after the clean pass and after each attack; fallen, attacked, seconds: sums
    over the chunks of each attack; facts: of every file, in order; missing: names of files that are
    not there, and broken: their chunks.
    """

    adversarial: np.ndarray
    robust: np.ndarray
    left: dict[str, int] = field(default_factory=dict)
    attacked: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)

    @property
    def warnings(self) -> list[str]:
        return [text for facts in self.facts for text in facts["warnings"]]


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Computes what one attack finds on one chunk.

    Attributes:
      network: takes batches of `batch_size` images; halved where memory runs out.
      by_jax: logits f32[b, k] of images f32[b, h, w, c], by JAX; the network must agree with them.
      asked: the batch size at the start.
    """

    plan: Plan
    network: Limited
    library: adapter.Library
    by_jax: Callable[[np.ndarray], np.ndarray]
    device: torch.device
    asked: int
    tell: Tell

    def __call__(self, attack: str, chunk: int, rows: np.ndarray) -> Found:
        return within_memory(self.network, lambda: self._compute(attack, chunk, rows), self.tell)

    def _compute(self, attack: str, chunk: int, rows: np.ndarray) -> Found:
        plan, start = self.plan, time.perf_counter()
        seed = SEEDINGS[plan.seeding](plan.seed, attack, chunk)
        recorder = adapter.Recorder()
        images, labels = plan.images[rows], torch.from_numpy(plan.labels[rows]).to(self.device)
        inputs = to_torch(images, self.device)
        outputs = inputs
        if attack == CLEAN:
            self._check_clean(images, inputs, labels, recorder, is_first=chunk == 0)
        elif len(rows):
            outputs = adapter.perturb(
                self.library, self.network, inputs, labels,
                attack=attack, seed=seed, settings=plan.settings, logger=recorder,
            )  # fmt: skip
        predictions = labels.clone()
        if len(rows):
            with torch.no_grad():
                predictions = self.network(outputs).max(dim=1)[1]
        fallen = (predictions != labels).cpu().numpy()
        kept = np.zeros_like(fallen) if attack == CLEAN else fallen
        found = from_torch(outputs)[kept]
        if kept.any():
            # Now, not after the hours that the other chunks take.
            settings = plan.settings
            threat = recount.Threat(norm=settings.norm, eps=settings.eps)
            recount.check_inside(found, images[kept], threat)
        for text in recorder.warnings:
            self.tell(f"warning: {text}")
        return Found(
            attack=attack, chunk=chunk, indices=rows, fallen=fallen,
            predictions=predictions.cpu().numpy(), images=found,
            facts={
                "seed": seed, "seconds": time.perf_counter() - start,
                "warnings": recorder.warnings,
                "batch_size": self.network.batch_size, "asked_batch_size": self.asked,
                "devices": devices(self.device),
            },
        )  # fmt: skip

    def _check_clean(
        self, images: np.ndarray, inputs: Tensor, labels: Tensor,
        recorder: adapter.Recorder, *, is_first: bool,
    ) -> None:  # fmt: skip
        with torch.no_grad():
            logits = self.network(inputs).cpu().numpy()
        recount.check_same(
            in_batches(self.by_jax, images, self.network.batch_size), logits, labels.cpu().numpy()
        )
        if is_first:
            adapter.check_defense(
                self.library, self.network, inputs, labels,
                settings=self.plan.settings, logger=recorder,
            )  # fmt: skip


def devices(device: torch.device) -> dict[str, Any]:
    """Where an attack ran: JAX's device, PyTorch's, and PyTorch's threads on a CPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "jax": jax.devices()[0].device_kind,
        "torch": name,
        "torch_threads": torch.get_num_threads(),
    }


def in_batches(forward: Callable, images: np.ndarray, batch_size: int) -> np.ndarray:
    """f32[n, k], logits of images f32[n, h, w, c], batch_size at a time."""
    starts = range(0, len(images), batch_size)
    return np.concatenate([np.asarray(forward(images[i : i + batch_size])) for i in starts])


def run(
    plan: Plan,
    store: Store,
    tell: Tell,
    *,
    shard: Shard,
    compute: Callable[[str, int, np.ndarray], Found] | None,
    take: Callable[[Found], None] = lambda found: None,
) -> Progress:
    """Goes through the chunks of a shard; what the store holds already is not computed again.

    Args:
      compute: None only collects, and notes what is missing.
      take: called with each file's content.
    """
    progress = Progress(adversarial=plan.images.copy(), robust=np.zeros(len(plan.labels), bool))
    chunks = range(shard.index, plan.num_chunks, shard.count)
    for attack in (CLEAN, *plan.settings.attacks):
        _run_attack(attack, chunks, plan, store, tell, progress, compute, take)
        if not progress.missing:
            _tell_attack(attack, plan, shard, progress, tell)
    return progress


def _run_attack(
    attack: str, chunks: Sequence[int], plan: Plan, store: Store, tell: Tell,
    progress: Progress, compute: Callable[..., Found] | None, take: Callable[[Found], None],
) -> None:  # fmt: skip
    attacked, spent, total = 0, 0.0, 0.0
    progress.attacked[attack] = 0
    for place, chunk in enumerate(chunks):
        rows = plan.rows(chunk)
        if attack != CLEAN:
            rows = rows[progress.robust[rows]]
        if chunk in progress.broken:
            if not store.has(attack, chunk):
                progress.missing.append(store.name(attack, chunk))
            continue
        found = store.read(attack, chunk, rows, tell)
        is_new = found is None and compute is not None
        if is_new:
            found = compute(attack, chunk, rows)
            store.write(found)
        if found is None:
            progress.missing.append(store.name(attack, chunk))
            progress.broken.add(chunk)
            continue
        take(found)
        progress.robust[rows] = ~found.fallen
        if attack != CLEAN:
            progress.adversarial[rows[found.fallen]] = found.images
        progress.attacked[attack] += len(rows)
        progress.facts.append(found.facts)
        total += found.facts["seconds"]
        if attack != CLEAN and len(rows) and (is_new or compute is None):
            tell(
                f"{attack} - {chunk + 1}/{plan.num_chunks} - {int(found.fallen.sum())} out of "
                f"{len(rows)} successfully perturbed"
            )
        if is_new:
            attacked, spent = attacked + len(rows), spent + found.facts["seconds"]
            _tell_rest(attack, chunks[place + 1 :], plan, store, tell, progress, spent, attacked)
    progress.seconds[attack] = total
    progress.left[attack] = int(progress.robust.sum())


def _tell_rest(
    attack: str, chunks: Sequence[int], plan: Plan, store: Store, tell: Tell,
    progress: Progress, spent: float, attacked: int,
) -> None:  # fmt: skip
    """How long the rest of this attack will take, by the images that it has had so far."""
    rest = [chunk for chunk in chunks if not store.has(attack, chunk)]
    images = sum(
        len(plan.rows(chunk)) if attack == CLEAN else int(progress.robust[plan.rows(chunk)].sum())
        for chunk in rest
    )
    if images and attacked:
        tell(
            f"{attack}: {attacked} images in {spent:.1f} s, {images} in {len(rest)} chunks left, "
            f"ETA {_duration(spent / attacked * images)}"
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _tell_attack(attack: str, plan: Plan, shard: Shard, progress: Progress, tell: Tell) -> None:
    left, images = progress.left[attack], len(plan.labels)
    if not shard.is_all:
        chunks = range(shard.index, plan.num_chunks, shard.count)
        images = sum(len(plan.rows(chunk)) for chunk in chunks)
        after = "right before the attacks" if attack == CLEAN else f"robust after {attack.upper()}"
        tell(f"shard {shard}: {left} of its {images} images are {after}")
    elif attack == CLEAN:
        tell(f"initial accuracy: {left / images:.2%}")
    elif progress.attacked[attack]:
        total = sum(value for name, value in progress.seconds.items() if name != CLEAN)
        tell(
            f"robust accuracy after {attack.upper()}: {left / images:.2%} "
            f"(total time {total:.1f} s)"
        )
    else:
        tell(f"no robust datapoints left, skipping {attack}")
