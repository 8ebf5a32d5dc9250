"""How long a save keeps a run from its next step: in the background, against waiting for the disk.

    python benchmarks/checkpointing.py [--config=configs/cifar10_score.py]
        [--saves=5] [--folder=DIR]

The state has the shapes of the recipe's own, with random numbers, on this machine's devices. The
two sides take turns in one run; what comes out is seconds and their ratio, and beside it what it
costs to verify a checkpoint and to read it back.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from score_jax import checkpoint, checkpoint_choice, mesh, recipes, train_state, workdir, writers
from score_jax.config import load


def fill(abstract):
    """Random numbers, which do not compress, in place of weights."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put(
            random.standard_normal(leaf.shape, np.float32).astype(leaf.dtype), leaf.sharding
        ),
        abstract,
    )


def measure(config, folder: Path, saves: int) -> dict:
    abstract = train_state.abstract(recipes.build(config).recipe, mesh.create())
    run = workdir.open_workdir(folder / "run", config, sys.argv)
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    seconds: dict[str, list[float]] = {"blocked, in the background": [], "blocked, waiting": []}
    written = []
    state = fill(abstract)
    for turn in range(2 * saves):
        state = state.__class__(**{**vars(state), "step": np.int32(turn)})
        begin = time.perf_counter()
        saved.save(state, checkpoint.Best(), is_validated=True)
        copied = time.perf_counter() - begin
        saved.wait()
        whole = time.perf_counter() - begin
        if turn % 2:
            seconds["blocked, in the background"].append(copied)
            written.append(whole)
        else:
            seconds["blocked, waiting"].append(whole)
    begin = time.perf_counter()
    damage = checkpoint_choice.find_damage(run.checkpoints / str(2 * saves - 1))
    verified = time.perf_counter() - begin
    begin = time.perf_counter()
    restored = saved.restore(abstract)
    jax.block_until_ready(restored.state)
    read = time.perf_counter() - begin
    saved.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "megabytes": round(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "ratio": round(medians["blocked, waiting"] / medians["blocked, in the background"], 1),
        "until it is on the disk": round(statistics.median(written), 3),
        "verified": round(verified, 3),
        "verified and restored": round(read, 3),
        "whole": damage is None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/cifar10_score.py")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are to be written")
    call = parser.parse_args()
    writers.start_logging("warning")
    with tempfile.TemporaryDirectory(dir=call.folder) as folder:
        print(json.dumps(measure(load(call.config), Path(folder), call.saves), indent=1))


if __name__ == "__main__":
    main()
