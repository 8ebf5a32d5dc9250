"""`score-jax analyze toy`: what SCORE and others learn where the truth is known.

Figures 1 and 2 of Pang et al. 2022, by parts: each is a function of a `Bench` that gives a finding.
"""

from collections.abc import Callable, Iterator

from score_jax.analysis import toy, toy_change, toy_figures, toy_training
from score_jax.analysis.finding import Finding
from score_jax.analysis.toy_bench import Bench
from score_jax.command_line import Call, UsageError, suggest

PARTS: dict[str, Callable[[Bench], Finding]] = {
    "change": toy_change.finding,
    "training": toy_figures.over_training,
    "methods": toy_figures.methods,
    "six": toy_figures.six,
}


def run(call: Call) -> Iterator[Finding]:
    """Each part asked for; with --demo one way of training, and how it went.

    Raises:
      UsageError: a part that there is not.
      UserError: too few draws.
    """
    for part in call.show:
        if part not in PARTS:
            raise UsageError(f"--show={part} is no part of the toy; {suggest(part, PARTS)}")
    one_demo, one_divergence = bool(call.demo), call.demo or call.values["divergence"].present
    bench = Bench(
        demos=(call.demo,) if one_demo else tuple(toy_training.DEMOS),
        divergences=(call.divergence,) if one_divergence else toy.DIVERGENCES,
        divergence=call.divergence,
        num_steps=call.train_steps,
        num_draws=call.num_examples or toy_training.NUM_DRAWS,
        seed=call.seed if call.values["seed"].present else toy_training.SEED,
        suffix="_".join(["", *[call.demo] * one_demo, *[call.divergence] * bool(one_divergence)]),
    )
    usual = ("training",) if one_demo else tuple(PARTS)
    for part in call.show or usual:
        yield PARTS[part](bench)
