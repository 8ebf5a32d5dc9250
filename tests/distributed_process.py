"""One process of the tests of several: `python -m tests.distributed_process WHAT PORT N I`.

Prints what it sees; ends as the command line ends a job.
"""

import os
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # As cli.py does before jax is loaded.

import jax  # noqa: E402
import numpy as np  # noqa: E402

from score_jax import cli, distributed  # noqa: E402
from score_jax.command_line import CLUSTER, Job  # noqa: E402
from score_jax.stopping import StopRequest  # noqa: E402
from score_jax.types import UserError  # noqa: E402


def say(*words) -> None:
    print(*words, flush=True)


def agree(index: int, stop: StopRequest) -> None:
    say("any", distributed.any_process(index == 1), distributed.any_process(False))
    say("primary", distributed.from_primary({"who": index, "long": "x" * 3000})["who"])
    say("array", distributed.from_primary(np.full(3, index)).tolist())
    say("all", distributed.from_all(f"name {index}"))
    distributed.barrier("here", 20)
    distributed.barrier("here", 20)
    if index == 1:
        time.sleep(3)  # A process that ends later does not upset the others.


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
    while not stop.requested:
        time.sleep(0.05)
    say("heard")
    time.sleep(100)


def forever(index: int, stop: StopRequest) -> None:
    """Collectives in two nested loops, both polled, until a stop."""
    step = 0
    while not stop.poll():
        step += 1
        distributed.any_process(False)
        say("step", step)
        if step % 5 == 0:
            for _ in range(3):
                if stop.poll():
                    break
                time.sleep(0.05)
        time.sleep(0.05)
    say("stopped", step, stop.requested)
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
