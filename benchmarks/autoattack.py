"""AutoAttack in JAX beside the official one: the same model, the same images, one process.

    python -m benchmarks.autoattack --artifact=runs/score --num_examples=359 --training=141
    python -m benchmarks.autoattack --artifact=runs/cifar --num_examples=200 --out=runs/compared

Each attack is run alone, by the official program and by JAX in turn, and then both ensembles. The
official one attacks the converted PyTorch network (`--backend=torch`) or the JAX model through the
bridge (`--backend=bridge`). Seconds are the processor's, of all threads, so that a busy machine
does not change their ratio (wall-clock seconds stand in the JSON; where there is an accelerator
they are what counts); JAX's contain its compilation. The command goes on where it stopped: what is
done is read from `--out`. Exit code 1: somewhere JAX leaves more than half a point more robust
accuracy than the official attack, or the ensembles differ by more.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import artifact as artifacts
from score_jax import official_autoattack
from score_jax.artifact import WEIGHTS, Artifact
from score_jax.attacks.autoattack import autoattack
from score_jax.data import sources
from score_jax.official_autoattack_identity import digest_of_images
from score_jax.official_autoattack_inputs import threat_of
from score_jax.report_table import align
from score_jax.types import UserError
from score_jax.workdir import library_versions, write_json_atomic

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
ENSEMBLE = "ensemble"
ALLOWED = 0.005  # Robust accuracy that the two may differ by.
Found = dict[str, Any]  # robust: n 0s and 1s; seconds; after: attack -> accuracy on the way.


def select(artifact: Artifact, data_dir: str, num_examples: int, training: int):
    """(images f32[n, h, w, c] in [0, 1], labels i64[n], words): the first test images and the first
    training images, of which the run kept some for validation.

    Raises:
      UserError: more than there are.
    """
    name = artifact.spec["dataset"]
    parts = [(sources.test_split(name, data_dir), num_examples)]
    parts += [(sources.train_split(name, data_dir), training)] if training else []
    for split, count in parts:
        if count > len(split):
            raise UserError(f"{count} images are asked for, {name} {split.split} has {len(split)}")
    images = np.concatenate([split.images[:count] for split, count in parts])
    labels = np.concatenate([split.labels[:count] for split, count in parts])
    words = f"{num_examples} test images" + (f", {training} training images" if training else "")
    return images.astype(np.float32) / np.float32(255), labels.astype(np.int64), f"{name}: {words}"


def official(
    artifact: Artifact, images: np.ndarray, labels: np.ndarray, backend: str, seed: int, out: Path
) -> Callable[[Sequence[str]], Found]:
    """The official AutoAttack with the given attacks, () for the ensemble, in one chunk."""
    threat = threat_of(artifact, None, None)

    def run(attacks):
        folder = out / "official" / ("-".join(attacks) or ENSEMBLE)
        # What an interrupted run left would be skipped, and missing from the time.
        shutil.rmtree(folder, ignore_errors=True)
        build = official_autoattack.BACKENDS[backend]
        result = official_autoattack.evaluate(
            build(artifact, len(labels)), images, labels,
            num_classes=artifact.spec["model"]["num_classes"], threat=threat,
            model_sha256=artifact.spec["sha256"][WEIGHTS], folder=folder,
            by_jax=artifacts.logits_fn(artifact), backend=backend, attacks=attacks, seed=seed,
            batch_size=len(labels), chunk_size=len(labels), seeding="official",
            report=_tell,
        )  # fmt: skip
        with np.load(folder / "adversarial.npz", allow_pickle=False) as file:
            robust = file["robust"]
        return _found(robust, result["attacks"])

    return run


def in_jax(
    artifact: Artifact, images: np.ndarray, labels: np.ndarray, seed: int
) -> Callable[[Sequence[str]], Found]:
    """AutoAttack in JAX with the given attacks, () for the ensemble, in one batch."""
    norm, eps = artifact.spec["norm"], float(artifact.spec["eps"])
    logits = artifacts.logits_fn(artifact)

    def run(attacks):
        result = autoattack(
            logits, images, labels.astype(np.int32), norm=norm, eps=eps, attacks=tuple(attacks),
            seed=seed, batch_size=len(labels), report=_tell,
        )  # fmt: skip
        return _found(np.asarray(result.robust), result.attacks)

    return run


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _found(robust: np.ndarray, attacks: Sequence[dict[str, Any]]) -> Found:
    after = {entry["name"]: entry["robust_accuracy"] for entry in attacks}
    return {"robust": robust.astype(int).tolist(), "after": after}


def _timed(run: Callable[[Sequence[str]], Found], attacks: Sequence[str]) -> Found:
    wall, processor = time.perf_counter(), time.process_time()
    found = run(attacks)
    seconds = {
        "seconds": round(time.process_time() - processor, 2),
        "wall_seconds": round(time.perf_counter() - wall, 2),
    }
    return {**found, **seconds}


def compare(
    runs: dict[str, Callable[[Sequence[str]], Found]], out: Path, shown: dict[str, Any]
) -> dict[str, Any]:
    """Runs what `out` does not hold yet; {'official' and 'jax': {attack or ensemble: found}}."""
    path = out / "comparison.json"
    found = json.loads(path.read_text()) if path.exists() else dict(shown)
    other = [name for name in shown if found.get(name) != shown[name]]
    if other:
        raise UserError(f"{path} is of another {other[0]}; give this one another --out")
    for attacks in [*((name,) for name in ATTACKS), ()]:
        for side, run in runs.items():
            name = "".join(attacks) or ENSEMBLE
            if name not in found.setdefault(side, {}):
                _tell(f"{side}: {name}")
                found[side][name] = _timed(run, attacks)
                write_json_atomic(path, found)
    return found


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an attack, the last one the ensemble; accuracies as fractions."""
    table = []
    for name in (*ATTACKS, ENSEMBLE):
        theirs, ours = found["official"][name], found["jax"][name]
        robust = {"official": np.array(theirs["robust"]), "jax": np.array(ours["robust"])}
        entry: dict[str, Any] = {"attack": name}
        for side, found_ in (("official", theirs), ("jax", ours)):
            entry[side] = float(robust[side].mean())
            entry[f"{side}_after"] = found[side][ENSEMBLE]["after"].get(name)
            entry[f"{side}_seconds"] = found_["seconds"]
            entry[f"{side}_wall_seconds"] = found_["wall_seconds"]
        entry["difference"] = entry["jax"] - entry["official"]
        entry["only_official"] = int(((robust["jax"] == 1) & (robust["official"] == 0)).sum())
        entry["only_jax"] = int(((robust["jax"] == 0) & (robust["official"] == 1)).sum())
        entry["time_ratio"] = entry["official_seconds"] / entry["jax_seconds"]
        table.append(entry)
    return table


def is_within(table: Sequence[dict[str, Any]]) -> bool:
    """Whether no attack leaves more than allowed, and the ensembles agree."""
    slack = ALLOWED + 1e-9
    never_more = all(entry["difference"] <= slack for entry in table)
    return never_more and abs(table[-1]["difference"]) <= slack


def written(table: Sequence[dict[str, Any]]) -> list[str]:
    """The table as aligned text."""
    head = ("attack", "official", "JAX", "points", "official after", "JAX after",
            "only official", "only JAX", "official s", "JAX s", "times")  # fmt: skip

    def percent(value):
        return "" if value is None else f"{100 * value:.2f}%"

    cells = [
        [
            entry["attack"], percent(entry["official"]), percent(entry["jax"]),
            f"{100 * entry['difference']:+.2f}", percent(entry["official_after"]),
            percent(entry["jax_after"]), str(entry["only_official"]), str(entry["only_jax"]),
            f"{entry['official_seconds']:.1f}", f"{entry['jax_seconds']:.1f}",
            f"{entry['time_ratio']:.2f}",
        ]
        for entry in table
    ]  # fmt: skip
    notes = (
        "alone: robust accuracy under one attack; after: in the ensemble, after this attack; only: "
        "images that one of the two attacks alone fooled; times: official over JAX."
    )
    return [*align([list(head), *cells]), notes]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", required=True, help="an export, or the run folder above it")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--num_examples", type=int, default=200, help="test images")
    parser.add_argument("--training", type=int, default=0, help="training images beside them")
    parser.add_argument("--backend", default="torch", choices=sorted(official_autoattack.BACKENDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="default: eval/compared beside the export")
    options = parser.parse_args(arguments)
    try:
        artifact = artifacts.load(options.artifact)
        out = Path(options.out) if options.out else artifact.path.parent / "eval" / "compared"
        images, labels, words = select(
            artifact, options.data_dir, options.num_examples, options.training
        )
        shown = {
            "images": words,
            "images_sha256": digest_of_images(images, labels),
            "model_sha256": artifact.spec["sha256"][WEIGHTS],
            "norm": artifact.spec["norm"],
            "eps": float(artifact.spec["eps"]),
            "backend": options.backend,
            "seed": options.seed,
            "versions": library_versions(),
        }
        out.mkdir(parents=True, exist_ok=True)
        runs = {
            "official": official(artifact, images, labels, options.backend, options.seed, out),
            "jax": in_jax(artifact, images, labels, options.seed),
        }
        found = compare(runs, out, shown)
    except UserError as error:
        print(f"benchmarks.autoattack: {error}", file=sys.stderr)
        return 2
    table = rows(found)
    fine = is_within(table)
    write_json_atomic(out / "table.json", {**shown, "rows": table, "within": fine})
    print(f"{words}, {shown['norm']} eps={shown['eps']:.4g}, {options.backend} backend")
    print("\n".join(written(table)))
    print(f"within {100 * ALLOWED:g} points: {'yes' if fine else 'NO'}; {out / 'table.json'}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
