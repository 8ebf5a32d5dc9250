"""One process of a run of several that saves and restores: `python -m tests.checkpoint_worker`."""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from score_jax import writers  # noqa: E402

writers.start_logging()  # As the command line does: before any library has something to say.

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from score_jax import checkpoint, config, distributed, workdir  # noqa: E402
from score_jax.types import UserError  # noqa: E402
from tests import checkpoint_states as states  # noqa: E402


def place(tree, sharding):
    """The same numbers in every process, laid out over the devices of all."""
    return jax.tree.map(
        lambda leaf, where: jax.make_array_from_callback(
            np.shape(leaf), where, lambda index: np.asarray(leaf)[index]
        ),
        tree,
        states.shardings(tree, sharding),
    )


def work(folder: Path, commands: list[str]) -> None:
    """Does `save:STEP`, `best:STEP`, `restore:STEP` (which must come back), and others."""
    run = workdir.open_workdir(folder, config.default(), ["test"], primary=distributed.is_primary())
    mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    best = checkpoint.Best()
    for command in commands:
        name, _, step = command.partition(":")
        step = int(step)
        if name == "save":
            saved.save(place(states.numbers(step), sharding), best, is_validated=True)
        elif name == "best":
            saved.save_best(place(states.numbers(step), sharding), {})
            best = checkpoint.Best(0.5, step)
        elif name == "limit" and step == jax.process_index():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        elif name == "poll":
            for _ in range(step):
                saved.check()
                time.sleep(1)
        elif name == "restore":
            saved.wait()
            restored = saved.restore(states.abstract(sharding))
            whole = multihost_utils.process_allgather(restored.state, tiled=True)
            states.assert_is(whole, step)
            told = {"process": jax.process_index(), "best": restored.best.step, "step": step}
            print(json.dumps(told), flush=True)
    saved.wait()
    saved.close()


def main() -> int:
    folder, process, count, port, devices, *commands = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    several = dict(coordinator=f"localhost:{port}", num_processes=int(count))
    with distributed.start(**several, process_id=int(process), init_timeout=60):
        try:
            work(Path(folder), commands)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return distributed.leave(2, str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
