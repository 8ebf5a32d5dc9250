"""The official PyTorch AutoAttack judges an exported classifier, and cannot be lost.

Everything the number depends on is checked before the attack, each chunk's find is kept as it comes
(the same command goes on where a process died), the found images are saved, read again and counted
again by JAX after it, and only then is the result written.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from score_jax import autoattack_adapter as adapter
from score_jax import interop, torch_bridge, torch_models
from score_jax import official_autoattack_identity as identities
from score_jax import official_autoattack_inputs as inputs
from score_jax import official_autoattack_recount as recount
from score_jax import official_autoattack_result as results
from score_jax import official_autoattack_runner as runner
from score_jax.artifact import WEIGHTS, Artifact, load, logits_fn
from score_jax.official_autoattack_batches import Limited, limited, within_memory
from score_jax.official_autoattack_chunks import CLEAN, Store
from score_jax.official_autoattack_identity import CHUNKS, EVERYTHING, Shard
from score_jax.official_autoattack_plan import SEEDINGS, Plan, Tell, headline, identity_of
from score_jax.types import UserError, lookup


def bridge(artifact: Artifact, batch_size: int) -> nn.Module:
    """The artifact itself: every pass runs in JAX."""
    return torch_bridge.TorchClassifier(artifact, batch_size=batch_size)


def converted(artifact: Artifact, batch_size: int) -> nn.Module:
    """The same weights in the PyTorch network of `torch_models`; JAX is not asked."""
    del batch_size
    model = dict(artifact.spec["model"])
    network = torch_models.create(model.pop("name"), **model)
    name = artifact.spec["model"]["name"]
    network.load_state_dict(interop.to_state_dict(name, artifact.params, artifact.batch_stats))
    return network.to(inputs.usual_device())


BACKENDS: dict[str, Callable[[Artifact, int], nn.Module]] = {
    "bridge": bridge,
    "torch": converted,
}


def run(
    artifact: str | os.PathLike[str] | Artifact,
    *,
    data_dir: str = "",
    num_examples: int = 0,
    batch_size: int = 500,
    chunk_size: int = 500,
    eps: float | None = None,
    norm: str | None = None,
    attacks: Sequence[str] = (),
    version: str = "standard",
    seed: int = 0,
    seeding: str = "chunk",
    shard: str = "",
    name: str = "autoattack",
    backend: str = "bridge",
    out: str | os.PathLike[str] | None = None,
    set_aside_other: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs AutoAttack on the test split the artifact belongs to; returns and writes result.json.

    The same call goes on where an earlier one ended, and returns a result that is there already.

    Args:
      artifact: an export, or its folder, or the run folder above it.
      num_examples: how many of the first test images; 0 for all.
      batch_size: images in one pass, halved where memory runs out; no part of the result.
      chunk_size: images that are attacked together and saved together.
      eps, norm: None takes those of training.
      attacks: a part of the version's attacks, in this order; empty for all.
      version: 'standard', 'plus' or 'rand', with AutoAttack's own settings.
      seeding: 'chunk' gives each attack and chunk a seed of its own, 'official' all the same one.
      shard: '0/2' computes every second chunk and writes no result, but returns how many files
        there are; `official_autoattack_merge.merge` makes the result. '' for all.
      backend: 'bridge' attacks the JAX classifier, 'torch' the converted PyTorch network.
      out: where to write; DIR/eval/<name> by default.
      set_aside_other: move what another evaluation left there into `earlier-1/`, do not refuse it.
      report: receives each log line.

    Raises:
      UserError: a bad argument, artifact, dataset or classifier, a folder of another evaluation, or
        a result that did not survive the recount.
    """
    part = Shard.parse(shard)
    loaded = artifact if isinstance(artifact, Artifact) else load(artifact)
    build = lookup(BACKENDS, "backend", backend)
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} is not positive.")
    folder = inputs.folder_of(loaded, name, out)
    images, labels, data = inputs.select(loaded, data_dir, num_examples)
    return evaluate(
        build(loaded, batch_size), images, labels,
        num_classes=loaded.spec["model"]["num_classes"], threat=inputs.threat_of(loaded, norm, eps),
        model_sha256=loaded.spec["sha256"][WEIGHTS], described=loaded.spec["model"],
        by_jax=logits_fn(loaded), backend=backend, batch_size=batch_size, chunk_size=chunk_size,
        attacks=attacks, version=version, seed=seed, seeding=seeding, shard=part, folder=folder,
        facts={"name": name, **data}, set_aside_other=set_aside_other, report=report,
    )  # fmt: skip


def evaluate(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    threat: recount.Threat,
    model_sha256: str,
    folder: Path,
    described: Mapping[str, Any] | None = None,
    by_jax: Callable[[np.ndarray], np.ndarray] | None = None,
    backend: str = "torch",
    batch_size: int = 500,
    chunk_size: int = 500,
    attacks: Sequence[str] = (),
    version: str = "standard",
    seed: int = 0,
    seeding: str = "chunk",
    shard: Shard = EVERYTHING,
    facts: Mapping[str, Any] | None = None,
    set_aside_other: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The protocol of `run` for any network, on images f32[n, h, w, c] and labels i64[n].

    `adversarial.npz` in `folder` then holds images f32[n, h, w, c], labels and robust bool[n].

    Args:
      model: f32[b, c, h, w] in [0, 1] to logits f32[b, num_classes], normalising by itself.
      model_sha256: of its weights; with `described` (architecture, normalisation), the images and
        the settings it says what the folder is of.
      by_jax: logits f32[b, k] of images f32[b, h, w, c] that everything is counted with again;
        None counts with the network itself.
      facts: of model and data, for the result.

    Raises:
      UserError: as `run`.
    """
    inputs.check_inputs(images, labels, num_classes)
    chosen, notes = adapter.choose_attacks(version, attacks, num_classes)
    library = adapter.find_library()
    lookup(SEEDINGS, "seeding", seeding)
    if not 0 <= seed < 2**64:
        raise UserError(f"seed={seed} is not one that PyTorch takes; give one below 2**64.")
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value < 1:
            raise UserError(f"{name}={value} is not positive.")
    plan = Plan(
        images=images, labels=np.asarray(labels, np.int64), seed=seed, seeding=seeding,
        chunk_size=min(chunk_size, len(labels)),
        settings=adapter.Settings(
            norm=threat.norm, eps=threat.eps, version=version, attacks=chosen,
            num_classes=num_classes,
        ),
    )  # fmt: skip
    if shard.index >= plan.num_chunks:
        raise UserError(
            f"--shard={shard} has none of the {plan.num_chunks} chunks; use {plan.num_chunks} "
            "shards or fewer, or a smaller --chunk_size."
        )
    identity = identity_of(
        plan, model_sha256=model_sha256, network=described or {}, backend=backend,
        library=str(library),
    )  # fmt: skip
    if (result := results.finished(folder, identity)) is not None:
        report(f"{folder / identities.RESULT} is of this very evaluation, and finished")
        return result
    if not set_aside_other:
        identities.check_same(folder, identity)
    device = inputs.device_of(model)
    network = limited(model, min(batch_size, plan.chunk_size))
    if by_jax is None:
        by_jax = _by_itself(network, device)
    sample = inputs.to_torch(images[: min(64, len(images))], device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_arithmetic(model))
        within_memory(
            network, lambda: torch_bridge.check_logits(network, sample, num_classes), report
        )
        if set_aside_other and identities.is_other(folder, identity):
            report(f"{folder} holds another evaluation; moved to {identities.set_aside(folder)}")
        (folder / CHUNKS).mkdir(parents=True, exist_ok=True)
        stack.enter_context(identities.locked(folder / CHUNKS, shard))
        identities.claim(folder, identity)
        store = Store(
            folder=folder / CHUNKS, identity=identities.digest(identity), suffix=shard.suffix
        )
        tell = stack.enter_context(log_to(folder / f"log{shard.suffix}.txt", report))
        tell(headline(plan, str(library), backend, shard))
        for note in notes:
            tell(note)
        asked = min(batch_size, plan.chunk_size)
        _go_on(plan, store, network, asked, shard, tell)
        attacker = runner.Attacker(
            plan=plan, network=network, library=library, by_jax=by_jax, device=device,
            asked=asked, tell=tell,
        )  # fmt: skip
        progress = runner.run(plan, store, tell, shard=shard, compute=attacker)
        if not shard.is_all:
            return {"shard": str(shard), "files": len(progress.facts), "folder": str(folder)}
        return results.write(
            plan, progress, folder=folder, identity=identity, facts=facts or {},
            library=library, by_jax=by_jax, tell=tell,
        )  # fmt: skip


def _go_on(
    plan: Plan, store: Store, network: Limited, asked: int, shard: Shard, tell: Tell
) -> None:
    """Says from where an evaluation goes on, with the batch size that its memory allowed."""
    done = list(store.stored_facts())
    if not done:
        return
    fitted = [facts["batch_size"] for facts in done if facts["asked_batch_size"] == asked]
    if min(fitted, default=asked) < network.batch_size:
        network.resize(min(fitted))
    chunks = range(shard.index, plan.num_chunks, shard.count)
    steps = [(attack, chunk) for attack in (CLEAN, *plan.settings.attacks) for chunk in chunks]
    first = next((step for step in steps if not store.has(*step)), None)
    where = f"at {first[0]} - {first[1] + 1}/{plan.num_chunks}" if first else "at the recount"
    tell(f"goes on {where}: {sum(store.has(*step) for step in steps)} of {len(steps)} were done")


@contextlib.contextmanager
def _arithmetic(model: nn.Module) -> Iterator[None]:
    """float32 as written and the same in every run; one PyTorch thread while JAX has the CPU.

    PyTorch's idle threads spin, and the network needs the cores.
    """
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    if isinstance(model, torch_bridge.TorchClassifier) and jax.default_backend() == "cpu":
        torch.set_num_threads(1)
    matmul = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.set_num_threads(threads)


@contextlib.contextmanager
def log_to(path: Path, report: Tell) -> Iterator[Tell]:
    """Appends each line told to a file, and reports it."""
    with path.open("a", buffering=1) as file:

        def tell(line: str) -> None:
            file.write(line + "\n")
            report(line)

        yield tell


def _by_itself(network: nn.Module, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    def logits(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(inputs.to_torch(images, device)).cpu().numpy()

    return logits
