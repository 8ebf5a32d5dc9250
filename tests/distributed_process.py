"""One process of the tests of several: `python -m tests.distributed_process WHAT PORT N I`.

Prints what it sees; ends as the command line ends a job.
"""

import os
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # As cli.py does before jax is loaded.

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from score_jax import (  # noqa: E402
    cli,
    config,
    distributed,
    distributed_native,
    distributed_talk,
    mesh,
    workdir,
    writers,
)
from score_jax.command_line import Job  # noqa: E402
from score_jax.command_line_flags import CLUSTER  # noqa: E402
from score_jax.stopping import StopRequest  # noqa: E402
from score_jax.types import UserError  # noqa: E402


def say(*words) -> None:
    print(*words, flush=True)


def agree(index: int, stop: StopRequest) -> None:
    say("primary", distributed.from_primary({"who": index, "long": "x" * 3000})["who"])
    say("all", distributed.from_all(f"name {index}"))
    said = [distributed.from_primary(number) for number in range(70)]
    distributed.barrier("here", 20)
    said += [distributed.from_primary(number) for number in range(70, 150)]
    left = len(distributed_native.client().key_value_dir_get(distributed_talk.SAID))
    say("many", said == list(range(150)), left < 100)
    distributed.barrier("here", 20)
    distributed_native.client, client = (lambda: None), distributed_native.client
    say("by devices", distributed.from_all("y" * 2000 + str(index))[1][-2:])
    distributed_native.client = client
    if index == 1:
        time.sleep(3)  # A process that ends later does not upset the others.


def rows(index: int, stop: StopRequest) -> None:
    """Each device has the rows that its place in the mesh says, in any order of the devices."""
    whole = np.arange(24).reshape(8, 3)
    share = np.split(whole, jax.process_count())[index]
    for devices in (jax.devices(), jax.devices()[::-1], jax.devices()[::2] + jax.devices()[1::2]):
        for fsdp in (1, 2):
            batch = mesh.create(devices, fsdp).put_batch({"x": share})["x"]
            parts = [(whole[part.index] == part.data).all() for part in batch.addressable_shards]
            say("rows", batch.shape, all(parts), len(parts))


def folder(index: int, stop: StopRequest) -> None:
    workdir.SHARED_SECONDS = 2.0
    path, fields = os.environ[f"FOLDER_{index}"], config.default()
    if index == 0 and "REFUSED" in os.environ:
        fields.seed = 5
    fields.seed = int(os.environ.get("SEED", fields.seed))
    data = {"cifar10": os.environ.get(f"DATA_{index}", "a") * 64}
    place = workdir.open_workdir(path, fields, ["train"], primary=index == 0, data=data)
    writers.start_logging(file=place.log(index))
    writers.LOGGER.info("opened")
    writers.LOGGER.warning("hot")
    say("opened")


def late(index: int, stop: StopRequest) -> None:
    if index == 1:
        time.sleep(30)
    distributed.barrier("late", 2)


def refuse(index: int, stop: StopRequest) -> None:
    if index == int(os.environ["FAILS"]):
        raise UserError("the disk of this host is full; make room")
    forever(index, stop)


def crash(index: int, stop: StopRequest) -> None:
    if index == int(os.environ["FAILS"]):
        raise ValueError("a bug")
    forever(index, stop)


def idle(index: int, stop: StopRequest) -> None:
    say("running")
    time.sleep(100)


def deaf(index: int, stop: StopRequest) -> None:
    """Hears of a stop, and goes on."""
    say("running")
    while distributed.stop_notice() is None:
        time.sleep(0.05)
    say("heard")
    time.sleep(100)


def forever(index: int, stop: StopRequest) -> None:
    """Collectives in two nested loops, both polled, until a stop."""
    step = 0
    while not stop.poll():
        step += 1
        multihost_utils.process_allgather(np.int32(step))
        say("step", step)
        if step % 5 == 0:
            for _ in range(3):
                if stop.poll():
                    break
                time.sleep(0.05)
        time.sleep(0.05)
    say("stopped", step)
    raise KeyboardInterrupt


def starved(index: int, stop: StopRequest) -> None:
    """At step 10 the data do not come; in the last process they do, where LATE says when."""
    step, late = 0, float(os.environ.get("LATE", "inf"))
    while not stop.poll():
        step += 1
        multihost_utils.process_allgather(np.int32(step))
        begin = time.monotonic()
        if step == 10 and (late == float("inf") or index == 1):
            say("waiting")
            while not stop.poll_waiting() and time.monotonic() < begin + late:
                time.sleep(0.05)
        elif step > 10:
            say("on", step)
        elif step == 10:
            say("waiting")
    say("stopped", step)
    raise KeyboardInterrupt


def job(call) -> None:
    task = globals()[call.words[0]]
    with StopRequest() as stop:
        task(jax.process_index(), stop)
    say("done")


if __name__ == "__main__":
    what, *flags = sys.argv[1:]
    cli.JOBS["task"] = Job("A task of a test.", "", CLUSTER, job, takes_words=True)
    sys.exit(cli.main(["task", what, *flags]))
