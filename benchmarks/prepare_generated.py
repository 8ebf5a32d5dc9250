"""Prepares millions of made-up images from npz parts: speed, memory, and what kill -9 does.

    python benchmarks/prepare_generated.py [--images=2000000] [--parts=4] [--workers=2] [--kills=3]
        [--compressed] [--seed=0] [--folder=DIR]

Writes random 32x32 images and labels to npz parts and runs `score-jax data prepare cifar10_ddpm` on
them, watching the memory of all its processes: the sum of what each has resident, in which what
they share counts as often as it is shared. Then does it again in another folder, where every
process is killed with SIGKILL at random moments, before the command is given once more. All files
must be the same, bit by bit. Needs about 6.5 KB of disk an image, in DIR.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (32, 32, 3)
BLOCK = 10_000


def write_part(path: Path, count: int, seed: int, compressed: bool) -> None:
    """An npz with `image` and `label` as the published ones, a few images at a time."""
    generator = np.random.default_rng(seed)
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind, compresslevel=1) as archive:
        for key, shape, kind in (("image", (count, *SHAPE), "|u1"), ("label", (count,), "<i8")):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, count, BLOCK):
                    size = min(BLOCK, count - start)
                    if key == "label":
                        file.write(generator.integers(0, 10, size).astype(kind).tobytes())
                        continue
                    images = generator.integers(0, 256, (size, *SHAPE), dtype=np.uint8)
                    if compressed:  # Noise does not shrink; half of it repeated does.
                        images[:, 16:] = images[:, :16]
                    file.write(images.tobytes())


def processes(pid: int) -> list[int]:
    """A process and all that it started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(text.rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


class Preparation:
    """`score-jax data prepare` on its way, its memory watched."""

    def __init__(self, sources: list[Path], folder: Path, workers: int) -> None:
        command = [sys.executable, "-m", "score_jax", "data", "prepare", "cifar10_ddpm"]
        command += [f"--source={path}" for path in sources]
        command += [f"--data_dir={folder}", f"--workers={workers}"]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.peak, self.largest = 0, {}
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while self.process.poll() is None:
            sizes = {pid: resident(pid) for pid in processes(self.process.pid)}
            self.peak = max(self.peak, sum(sizes.values()))
            for pid, size in sizes.items():
                self.largest[pid] = max(self.largest.get(pid, 0), size)
            time.sleep(0.05)

    def kill(self) -> None:
        """Kills all its processes at once."""
        for pid in processes(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def end(self) -> tuple[int, str, float]:
        """Exit code, what it told, seconds."""
        told = self.process.stderr.read()
        code = self.process.wait()
        seconds = time.monotonic() - self.begin
        self._watch.join()
        return code, told, seconds


def written(folder: Path) -> int:
    """Bytes of all files below a folder that others write to."""
    size = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            pass
    return size


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of the prepared dataset."""
    found = {}
    for path in sorted((folder / "score_jax_cifar10_ddpm").rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """Does it all in `folder`; what was found."""
    sources = [folder / f"part{part}.npz" for part in range(options.parts)]
    for part, path in enumerate(sources):
        count = options.images * (part + 1) // options.parts
        count -= options.images * part // options.parts
        write_part(path, count, options.seed + part, options.compressed)
    size = sum(path.stat().st_size for path in sources)
    print(f"{options.parts} parts, {size / 1e9:.2f} GB, load {os.getloadavg()}", file=sys.stderr)

    whole = Preparation(sources, folder / "whole", options.workers)
    code, told, seconds = whole.end()
    if code:
        sys.exit(told)
    expected = digests(folder / "whole")
    shutil.rmtree(folder / "whole")
    found = {
        "images": options.images,
        "workers": options.workers,
        "source_gb": round(size / 1e9, 2),
        "shards": sum("array_record" in name for name in expected),
        "seconds": round(seconds, 1),
        "images_per_second": round(options.images / seconds),
        "peak_mb_all_processes": whole.peak >> 20,
        "peak_mb_each": [value >> 20 for value in whole.largest.values()],
        "load": os.getloadavg(),
    }
    print(json.dumps(found), file=sys.stderr)

    generator = random.Random(options.seed)
    kills = []
    for turn in range(options.kills):
        run = Preparation(sources, folder / "killed", options.workers)
        share = (turn + generator.uniform(0, 0.9)) / options.kills
        while written(folder / "killed") < share * size and run.process.poll() is None:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.2))
        run.kill()
        code, told, lasted = run.end()
        kept = [line for line in told.splitlines() if "shards are whole" in line]
        kills.append(
            {"written": round(share, 3), "after": round(lasted, 1), "code": code, "kept": kept}
        )
        if not code:
            sys.exit("a run ended before it was killed")
        print(json.dumps(kills[-1]), file=sys.stderr)
    run = Preparation(sources, folder / "killed", options.workers)
    code, told, lasted = run.end()
    if code:
        sys.exit(told)
    found["kills"] = kills
    found["resumed"] = [line for line in told.splitlines() if "shards are whole" in line]
    found["resumed_seconds"] = round(lasted, 1)
    found["resumed_peak_mb"] = run.peak >> 20
    found["identical"] = digests(folder / "killed") == expected
    found["left"] = sorted(path.name for path in (folder / "killed").iterdir())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--compressed", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="prepare_generated-", dir=options.folder))
    try:
        found = measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=2))
    sys.exit(not found["identical"])


if __name__ == "__main__":
    main()
