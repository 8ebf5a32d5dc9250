"""The job `score-jax doctor`."""

import platform

from score_jax.command_line import Call, Job, UsageError, suggest
from score_jax.command_line_flags import CLUSTER

PATIENCE = 60


def doctor(call: Call) -> None:
    """Looks at this machine before a run; prints a line a check.

    Raises:
      UserError: something is wrong; it stands in the lines.
    """
    from score_jax.doctor import GROUPS, examine
    from score_jax.doctor_finding import Machine, environ_at_start, fine
    from score_jax.types import UserError

    for word in call.words:
        if word not in GROUPS:
            raise UsageError(f"no checks are called {word!r}; {suggest(word, GROUPS)}")
    given = call.values["init_timeout"].present
    machine = Machine(
        environ=environ_at_start(),
        workdir=call.workdir,
        data_dir=call.data_dir,
        recipe=call.config,
        overrides=call.overrides,
        coordinator=call.coordinator,
        num_processes=call.num_processes,
        process_id=call.process_id,
        cluster=call.cluster,
        patience=call.init_timeout if given else PATIENCE,
    )
    print(fine("host", f"{platform.node()}, {platform.platform()}"), flush=True)
    failed = 0
    for finding in examine(machine, call.words):
        print(finding, flush=True)
        failed += finding.ok is False
    if failed:
        raise UserError(f"{failed} thing(s) to mend: the lines with !!, each with its remedy")


DOCTOR = Job(
    "Check this machine before a run: versions, devices, ports, storage, ...; a remedy a line.",
    "score-jax doctor --workdir=runs/score --config=configs/cifar10_score.py\n"
    "score-jax doctor storage ports --workdir=runs/score --coordinator=10.0.0.2:8476 "
    "--num_processes=2 --process_id=0",
    ("workdir", "data_dir", "config", *CLUSTER),
    doctor,
    takes_words=True,
    joins=False,
)
