"""Trains the same run as 1, 2 and 4 processes, sharded and in microbatches, and compares the ends.

    python benchmarks/pod_parity.py [--recipe=configs/digits_score.py:smoke] [--data_dir=DIR]
        [--steps=20] [--override=attack.statistics=running ...] [--forms=2,4,fsdp,microbatches]
        [--reference=1] [--tolerance=1e-5]

Each form starts through `launch/local_pod.sh` (CPU, Gloo): `2` is two processes of one device,
`1x2` one process of two, `fsdp` two processes that divide the state, `microbatches` one process
with two parts of a batch. What is compared with the reference, one process on one device: the
parameters, the averaged ones, the statistics, and the loss of each step. Exit code 1 beyond the
tolerance. Networks with BatchNorm need --override=batchnorm.groups=2 for `microbatches`.

Where float32 sums over the batch in another order, the last bit differs; from the first ReLU, or
sign of the attack's gradient, that this tips over, so do the digits before it. With the statistics
of groups (batchnorm.groups=4) no such sum depends on the number of processes; for the whole batch's
statistics compare what is divided over as many devices: --reference=1x4 --forms=4. Microbatches
add up in another order in any case: tests/microbatches_test.py compares them in float64.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Form: processes, devices a process, overrides.
FORMS = {
    "1": (1, 1, ()),
    "2": (2, 1, ()),
    "4": (4, 1, ()),
    "1x2": (1, 2, ()),
    "1x4": (1, 4, ()),
    "fsdp": (2, 1, ("mesh.fsdp=2",)),
    "microbatches": (1, 1, ("data.microbatches=2",)),
}


def train(form: str, folder: Path, options: argparse.Namespace) -> float:
    """Trains one form; the seconds it took."""
    processes, devices, overrides = FORMS[form]
    overrides = (
        "num_epochs=1", f"steps_per_epoch={options.steps}", "log.every_steps=1",
        "log.attack_share=false", "checkpoint.every_minutes=0", *options.override, *overrides,
    )  # fmt: skip
    command = [
        "bash", str(ROOT / "launch/local_pod.sh"), str(processes),
        f"--devices-per-process={devices}", "train", f"--config={options.recipe}",
        f"--workdir={folder}", *(f"--config.{override}" for override in overrides),
    ]  # fmt: skip
    command += [f"--data_dir={options.data_dir}"] if options.data_dir else []
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{form} ended with {done.returncode}: {done.stderr[-3000:]}")
    return time.monotonic() - begin


def end_of(folder: Path) -> tuple[dict[str, np.ndarray], list[float]]:
    """Live and averaged parameters and statistics by name, and the loss of each step."""
    import jax

    from score_jax import checkpoint, workdir

    place = workdir.find_workdir(folder)
    arrays = {}
    for weights in ("live", "ema"):
        saved = checkpoint.load_for_export(place, "last", weights)
        for part in ("params", "batch_stats"):
            for path, leaf in jax.tree_util.tree_leaves_with_path(saved[part]):
                arrays[f"{weights} {part} {jax.tree_util.keystr(path)}"] = leaf
    lines = [json.loads(line) for line in place.metrics.read_text().splitlines()]
    return arrays, [line["train/loss"] for line in lines if "train/loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="configs/digits_score.py:smoke")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--override", action="append", default=[])
    parser.add_argument("--forms", default="2,4,fsdp,microbatches")
    parser.add_argument("--reference", default="1", choices=FORMS)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()
    forms = options.forms.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.data_dir and "digits" in options.recipe:
            options.data_dir = str(folder / "data")
            prepare = [sys.executable, "-m", "score_jax", "data", "prepare", "digits"]
            subprocess.run([*prepare, f"--data_dir={options.data_dir}"], cwd=ROOT, check=True)
        seconds = train(options.reference, folder / "reference", options)
        one, one_losses = end_of(folder / "reference")
        is_alike = True
        steps = f"{len(one_losses)} steps, last loss {one_losses[-1]:.6f}"
        print(f"reference {options.reference}: {steps}, {seconds:.0f} s", flush=True)
        for form in forms:
            seconds = train(form, folder / form, options)
            other, losses = end_of(folder / form)
            assert other.keys() == one.keys() and len(losses) == len(one_losses)
            apart = max(float(np.abs(other[key] - one[key]).max()) for key in one)
            loss = max(abs(a - b) for a, b in zip(losses, one_losses, strict=True))
            print(f"{form}: largest difference {apart:.1e}, of a loss {loss:.1e}, {seconds:.0f} s")
            sys.stdout.flush()
            is_alike = is_alike and max(apart, loss) <= options.tolerance
    if not is_alike:
        raise SystemExit(f"some form is further apart than {options.tolerance:g}")


if __name__ == "__main__":
    main()
