"""The job `score-jax plan`."""

from typing import Any

from score_jax.command_line import Call, Job, UsageError


def plan(call: Call) -> Any:
    """Prints what a run would need and take; refuses, after that, one that does not fit.

    Raises:
      UserError: it does not fit, so that the exit code is 2.
    """
    if not call.config:
        raise UsageError("--config=PATH[:ARG] is needed, such as configs/cifar10_score.py")
    from score_jax import config, recipes, writers
    from score_jax import plan as plan_module
    from score_jax.data import sources

    resolved = recipes.load(call.config, call.overrides)
    train_size = sources.train_size(resolved.data.name, resolved.data.dir)
    for warning in config.validate(resolved, train_size=train_size):
        writers.LOGGER.warning(warning)
    answer = plan_module.plan(resolved, topology=call.topology, out=call.out, effort=call.effort)
    if answer.fits:
        return answer.text
    print(answer.text)
    raise plan_module.refusal(answer)


PLAN = Job(
    "Tell what a run needs and takes: memory, FLOPs, communication, hours; for a TPU slice too.",
    "score-jax plan --topology=v5e:4x4 --config=configs/cifar10_score.py "
    "--config.data.batch_size=1024",
    ("config", "topology", "out", "effort"),
    plan,
)
