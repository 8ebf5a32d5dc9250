"""How long a run takes to its end after few steps: without kept programs, storing them, with them.

    python benchmarks/startup.py --config=configs/digits_score.py [--config.FIELD=VALUE ...]

Each line is one start of `score-jax train` in a folder of its own; the three share the compile
cache as the restarts of one run do. CPU seconds tell more than seconds where a machine is busy.
The lines of the run that name a compilation follow.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEW = ("num_epochs=1", "steps_per_epoch=3", "validation.attack.num_steps=2")
CASES = {"off": "0", "empty": "1", "kept": "1"}


def start(arguments: list[str], folder: Path, cache: Path, is_on: str) -> dict[str, float | str]:
    """One run: its seconds, its CPU seconds and what it said of compilations."""
    few = [f"--config.{field}" for field in FEW]
    command = [sys.executable, "-m", "score_jax", "train", *few, *arguments]
    settings = dict(JAX_COMPILATION_CACHE_DIR=str(cache), JAX_ENABLE_COMPILATION_CACHE=is_on,
                    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")  # fmt: skip
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [*command, f"--workdir={folder}"], env=os.environ | settings, text=True, capture_output=True
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = [line for line in run.stderr.splitlines() if line.startswith("compiled")]
    return dict(seconds=round(time.monotonic() - begin, 1), cpu=round(cpu, 1), told="; ".join(told))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        for name, is_on in CASES.items():
            facts = start(sys.argv[1:], Path(folder, name), cache, is_on)
            print(json.dumps(dict(cache=name) | facts), flush=True)
        size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        print(json.dumps(dict(bytes=size, files=len(list(cache.glob("*-cache"))))))


if __name__ == "__main__":
    main()
