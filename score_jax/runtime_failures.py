"""What failed at run time, as a line and an exit code for whoever started the job."""

import os

import jax

from score_jax.types import TemporaryFailure

MEND, RESTART = 2, os.EX_TEMPFAIL
# A mistake of the program, which a restart repeats: its traceback is what helps.
MISTAKES = ("INVALID_ARGUMENT", "UNIMPLEMENTED", "FAILED_PRECONDITION", "OUT_OF_RANGE")


def describe(error: BaseException) -> tuple[int, str] | None:
    """An exit code and a line; None for errors of another kind, and for mistakes of the program.

    Memory is for the user to mend. All else is a device, a link or a driver that failed, and the
    same command goes on from the last checkpoint.
    """
    if isinstance(error, TemporaryFailure):
        return RESTART, str(error)
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    text = " ".join(str(error).split())
    if text.startswith("RESOURCE_EXHAUSTED"):
        return MEND, (
            f"the devices have too little memory ({text[:160]}); give more of "
            "--config.data.microbatches, --config.mesh.fsdp or --config.model.remat=true, or a "
            "smaller --config.data.batch_size; score-jax plan tells what fits"
        )
    if text.startswith(MISTAKES):
        return None
    return RESTART, (
        f"the runtime failed ({text[:200]}); the same command goes on from the last checkpoint"
    )
