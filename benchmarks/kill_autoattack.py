"""Kills the official AutoAttack with SIGKILL, and compares what is left at the end byte by byte.

    python benchmarks/kill_autoattack.py [--kills=10] [--images=60] [--chunk_size=10] [--seed=0]

For each of the four standard attacks, in their full length: an evaluation of a small network is
killed at random moments inside that attack, and started again each time, until it ends. Its
`result.json` (times aside) and `adversarial.npz` must be those of an evaluation that nobody killed.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from score_jax import official_autoattack
from score_jax import official_autoattack_recount as recount

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
SIDE, EPS = 8, 0.06


def evaluate(folder: Path, images: int, chunk_size: int, pipe: int) -> None:
    """The evaluation, in a process of its own; each line of its log goes to the pipe."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = torch.nn.Linear(SIDE * SIDE, 32), torch.nn.SiLU(), torch.nn.Linear(32, 10)
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers).requires_grad_(False)
    pixels = np.random.default_rng(0).random((images, SIDE, SIDE, 1)).astype(np.float32)
    labels = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).argmax(1).numpy()
    official_autoattack.evaluate(
        network, pixels, labels, num_classes=10, threat=recount.Threat(norm="linf", eps=EPS),
        model_sha256="0" * 64, folder=folder, chunk_size=chunk_size,
        report=lambda line: os.write(pipe, f"{line}\n".encode()),
    )  # fmt: skip


def start(folder: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Forks the evaluation; this process itself never computes, so that it may fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = 1
    try:
        evaluate(folder, options.images, options.chunk_size, writing)
        code = 0
    finally:
        os._exit(code)


def follow(pipe: int, seen: list[str], until: float | None = None) -> bool:
    """Reads lines into `seen` to the end (True) or to a time (False)."""
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            return False
        data = os.read(pipe, 65536)
        if not data:
            return True
        seen.append(data.decode())


def attack_of(seen: list[str]) -> str | None:
    """The attack that is running after these lines."""
    text = "".join(seen)
    done = sum(f"robust accuracy after {name.upper()}:" in text for name in ATTACKS)
    return (*ATTACKS, None)[done] if "initial accuracy:" in text else None


def killed_once(folder: Path, attack: str, options: argparse.Namespace, wait: float) -> bool | None:
    """Whether a kill hit the attack; None where the evaluation had come past it and ended."""
    child, pipe = start(folder, options)
    seen: list[str] = []
    while attack_of(seen) != attack:
        if follow(pipe, seen, time.monotonic() + 0.01):
            break
    ended = follow(pipe, seen, time.monotonic() + wait)
    if attack_of(seen) != attack:
        follow(pipe, seen)
        ended = True
    else:
        os.kill(child, signal.SIGKILL)
        follow(pipe, seen)
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    if ended:
        assert status == 0, "".join(seen)
        return None
    return attack_of(seen) == attack


def left_by(folder: Path) -> tuple[object, bytes]:
    """result.json without times, and the bytes of the images."""

    def without_times(entry):
        if isinstance(entry, dict):
            return {k: without_times(value) for k, value in entry.items() if k != "seconds"}
        return [without_times(value) for value in entry] if isinstance(entry, list) else entry

    result = json.loads((folder / "result.json").read_text())
    return without_times(result), (folder / "adversarial.npz").read_bytes()


def finish(folder: Path, options: argparse.Namespace) -> None:
    child, pipe = start(folder, options)
    seen: list[str] = []
    follow(pipe, seen)
    os.close(pipe)
    assert os.waitpid(child, 0)[1] == 0, "".join(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 10), ("images", 60), ("chunk_size", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kill_autoattack."))
    finish(root / "whole", options)
    expected = left_by(root / "whole")
    seconds = {
        entry["name"]: entry["seconds"]
        for entry in json.loads((root / "whole" / "result.json").read_text())["attacks"]
    }
    chunks = -(-options.images // options.chunk_size)
    print(f"not killed: {expected[0]['robust_accuracy']:.2%} robust, {seconds}", flush=True)
    for attack in ATTACKS:
        kills, evaluations = 0, 0
        while kills < options.kills:
            evaluations += 1
            folder = root / f"{attack}-{evaluations}"
            while kills < options.kills:
                wait = generator.uniform(0, 1.2 * seconds[attack] / chunks)
                hit = killed_once(folder, attack, options, wait)
                if hit is None:
                    break
                kills += hit
            if not (folder / "result.json").exists():
                finish(folder, options)
            result, images = left_by(folder)
            assert result == expected[0], f"{folder / 'result.json'} differs"
            assert images == expected[1], f"{folder / 'adversarial.npz'} differs"
        print(
            f"{attack}: {kills} kills in {evaluations} evaluations; result.json (times aside) and "
            "adversarial.npz byte-identical",
            flush=True,
        )
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
