"""Kills processes of a run of several with SIGKILL, and compares its end bit by bit.

    python benchmarks/kill_pod.py [--kills=20] [--kills_a_run=5] [--processes=2] [--seed=0]

A digits run of several processes on this machine (CPU, Gloo) is killed at random moments, one
random process each time. The others must end by themselves, within the heartbeat time, with one
clear line and an exit code that is not 0. The same command is then given again. When the run is
finished, its last state, its best step and its metrics (times aside) must be those of a run that
nobody killed.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

HEARTBEAT = 10
SLACK = 5  # To notice, to tell and to end, on a machine that does other work.
# Several checkpoints, validations and lines of the log within a few seconds.
OVERRIDES = (
    "num_epochs=5", "steps_per_epoch=16", "data.batch_size=64", "log.every_steps=4",
    "log.attack_share=false", "validation.attack.num_steps=2", "attack.num_steps=10",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pod:
    """One start of a run: its processes and what each has said on standard error."""

    def __init__(self, folder: Path, data_dir: str, processes: int, overrides=OVERRIDES):
        self.logs = [folder.parent / f"{folder.name}-{i}.err" for i in range(processes)]
        port = free_port()
        command = [
            sys.executable, "-m", "score_jax", "train", "--config=configs/digits_score.py:smoke",
            f"--workdir={folder}", f"--data_dir={data_dir}",
            *(f"--config.{override}" for override in overrides),
        ]  # fmt: skip
        if processes > 1:
            command += [
                f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}",
                f"--heartbeat_timeout={HEARTBEAT}", "--init_timeout=120",
            ]  # fmt: skip
        devices = dict(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(4 // processes))
        self.processes = []
        for index, log in enumerate(self.logs):
            own = [f"--process_id={index}"] if processes > 1 else []
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        command + own, cwd=ROOT, stderr=file, stdout=subprocess.DEVNULL,
                        env=os.environ | devices,
                    )
                )  # fmt: skip

    def is_running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def said(self, index: int) -> str:
        return self.logs[index].read_text(errors="replace")

    def wait(self, seconds: float) -> list[int]:
        """Exit codes of all; those that do not end in time are killed, and the wait fails."""
        deadline = time.monotonic() + seconds
        try:
            for process in self.processes:
                process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes]

    def finish(self) -> None:
        codes = self.wait(600)
        if any(codes):
            raise AssertionError(f"exit codes {codes}: {[self.said(i) for i in range(len(codes))]}")


def steps(folder: Path) -> int:
    """The step of the last line of the run's metrics; 0 before there is one."""
    try:
        return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def kill_one(pod: Pod, victim: int, is_time: Callable[[], bool]) -> float | None:
    """Kills one process when it is time, and waits for the others.

    Returns:
      The seconds that the others went on for; None where the run ended before it was time.
    """
    while pod.is_running() and not is_time():
        time.sleep(0.01)
    if not pod.is_running():
        pod.finish()
        return None
    pod.processes[victim].kill()
    begin = time.monotonic()
    codes = pod.wait(HEARTBEAT + 60)
    seconds = time.monotonic() - begin
    if codes[victim] == 0:
        return None  # It ended in the moment before.
    if seconds > HEARTBEAT + SLACK:
        raise AssertionError(f"the others went on for {seconds:.1f} s")
    for index, code in enumerate(codes):
        if index == victim:
            continue
        told = [line for line in pod.said(index).splitlines() if "the same command" in line]
        if code != 75 or not told:
            raise AssertionError(f"process {index} ended with {code}: {pod.said(index)[-2000:]}")
    return seconds


def state_of(folder: Path) -> dict[str, bytes]:
    """Every file that tells the end of a run, without what clocks say."""
    import jax
    import numpy as np

    from score_jax import checkpoint, mesh, recipes, train_state, workdir

    place = workdir.find_workdir(folder)
    run = recipes.build(place.read_config())
    checkpoints = checkpoint.Checkpoints(place, {}, keep=2)
    restored = checkpoints.restore(train_state.abstract(run.recipe, mesh.create()))
    checkpoints.close()
    parts = {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(restored.state))
    }
    parts["best"] = repr(restored.best).encode()
    for number, line in enumerate(place.metrics.read_text().splitlines()):
        values = json.loads(line)
        kept = {k: v for k, v in values.items() if k != "time" and "perf/" not in k}
        parts[f"line {number}"] = json.dumps(kept).encode()
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills_a_run", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = str(folder / "data")
        prepare = [sys.executable, "-m", "score_jax", "data", "prepare", "digits"]
        subprocess.run([*prepare, f"--data_dir={data}"], cwd=ROOT, check=True)
        begin = time.monotonic()
        Pod(folder / "whole", data, options.processes).finish()
        print(f"a run that nobody kills: {time.monotonic() - begin:.0f} s", flush=True)
        whole, kills, number = state_of(folder / "whole"), 0, 0
        while kills < options.kills:
            run, number, here = folder / f"killed-{number}", number + 1, 0
            while here < options.kills_a_run and kills < options.kills:
                pod, before = Pod(run, data, options.processes), steps(run)
                delay, begin = draw.uniform(0.0, 4.0), None

                def is_time(before=before, delay=delay, run=run):
                    nonlocal begin
                    # From the first line after the start, or at any moment of the start itself.
                    if begin is None and (delay > 3.5 or steps(run) > before):
                        begin = time.monotonic()
                    return begin is not None and time.monotonic() - begin > delay / 4

                victim = draw.randrange(options.processes)
                seconds = kill_one(pod, victim, is_time)
                if seconds is None:
                    break  # Finished before it was time.
                here, kills = here + 1, kills + 1
                print(
                    f"kill {kills}: process {victim} at step {steps(run)}; the others ended "
                    f"after {seconds:.1f} s", flush=True,
                )  # fmt: skip
            Pod(run, data, options.processes).finish()
            left = state_of(run)
            if left != whole:
                other = [k for k in whole.keys() | left.keys() if whole.get(k) != left.get(k)]
                raise SystemExit(f"run {number} differs in {other[:5]}")
            print(f"run {number}: {len(left)} parts bitwise those of the whole run", flush=True)


if __name__ == "__main__":
    main()
