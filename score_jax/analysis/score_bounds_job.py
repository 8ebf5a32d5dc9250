"""`score-jax analyze score-bounds`: does SCORE's robust error lie between its bounds?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax.analysis import (
    ball_words,
    score_bounds,
    score_bounds_finite_job,
    score_bounds_models,
    score_bounds_problems,
    toy,
)
from score_jax.analysis.finding import Finding
from score_jax.analysis.score_bounds import METRICS, Bound, Errors
from score_jax.analysis.score_bounds_problems import Problem
from score_jax.analysis.score_bounds_words import picture_of, table_of, verdict
from score_jax.command_line import Call, UsageError
from score_jax.writers_progress import counted

NUM_POINTS = 1000
IMAGES_ONLY = ("artifact", "surrogate", "temperature", "data_dir", "batch_size")
# Flags that mean nothing for a problem.
FOREIGN = {
    "toy": (*IMAGES_ONLY, "dimensions", "norm", "eps", "num_examples"),
    "mixture": IMAGES_ONLY,
    "images": ("dimensions", "norm", "train_steps"),
}


def run(call: Call) -> Iterator[Finding]:
    """The four errors of several models of known data, and of n pairs; or estimates on images."""
    for flag in FOREIGN[call.problem]:
        if call.values[flag].present:
            raise UsageError(f"--{flag} is not for --problem={call.problem}")
    for flag in ("steps", "restarts"):
        if getattr(call, flag) < -1 or getattr(call, flag) == 0:
            raise UsageError(f"--{flag}={getattr(call, flag)} searches nothing; give 1 or more")
    names = (call.divergence,) if call.values["divergence"].present else toy.DIVERGENCES
    if call.problem == "images":
        from score_jax.analysis import score_bounds_images_job

        yield from score_bounds_images_job.run(call, names)
        return
    problem = _problem(call)
    yield _known(call, problem, names)
    metrics = [name for name in names if name in METRICS] or METRICS
    yield score_bounds_finite_job.finding(problem, metrics, call.seed)


def _problem(call: Call) -> Problem:
    if call.problem == "toy":
        return score_bounds_problems.create_toy()
    eps = score_bounds_problems.MIXTURE_EPS
    norm = call.norm or "linf"
    if norm == "l1":
        raise UsageError("--norm=l1 has no ball here; give linf or l2")
    if call.eps:
        from score_jax import overrides

        try:
            eps = overrides.parse_number(call.eps)
        except ValueError:
            eps = 0.0
        if not 0 < eps < float("inf"):
            raise UsageError(f"--eps={call.eps} is no radius; give a number above 0, such as 0.5")
    num_draws = call.num_examples or NUM_POINTS
    if num_draws < 10:
        raise UsageError(f"--num_examples={num_draws} draws tell nothing; give 10 or more")
    return score_bounds_problems.create_mixture(
        call.dimensions, norm=norm, eps=eps, num_draws=num_draws, seed=call.seed
    )


def _known(call: Call, problem: Problem, names: tuple[str, ...]) -> Finding:
    models = {"truth": problem.truth, "cells": score_bounds_models.cells(problem)}
    demos = score_bounds_models.DEMOS
    with counted(f"{problem.name}: steps of training", call.train_steps * len(demos)) as tell:
        for number, demo in enumerate(demos):
            before = number * call.train_steps
            models[demo] = score_bounds_models.train(
                problem, demo, num_steps=call.train_steps, seed=call.seed,
                tell=lambda done, before=before: tell(before + done),
            )  # fmt: skip
    steps = score_bounds.NUM_STEPS if call.steps == -1 else call.steps
    restarts = score_bounds.NUM_RESTARTS if call.restarts == -1 else call.restarts
    each = restarts * len(score_bounds.objectives(names, problem.truth))
    errors: dict[str, Errors] = {}
    with counted(f"{problem.name}: ascents", each * len(models)) as tell:
        for name, model in models.items():
            before = each * len(errors)
            errors[name] = score_bounds.measure(
                names, problem.truth, model, jnp.asarray(problem.x), ball=problem.ball,
                offsets=problem.offsets, num_steps=steps, restarts=restarts, seed=call.seed,
                tell=lambda done, before=before: tell(before + done),
            )  # fmt: skip
    rows = {
        name: score_bounds.bounds(names, found, problem.weights) for name, found in errors.items()
    }
    shares = {
        name: score_bounds.found_share(found, problem.weights) for name, found in errors.items()
    }
    facts: dict[str, Any] = {
        **problem.facts,
        "seed": call.seed,
        "train_steps": call.train_steps,
        "ascent_steps": steps,
        "restarts": restarts,
        "errors": {
            name: {of: bound.facts() for of, bound in found.items()} for name, found in rows.items()
        },
        "share_found_by_ascent": {
            name: {
                of: dict(zip(("madry", "score", "change"), map(float, column), strict=True))
                for of, column in zip(names, share.T, strict=True)
            }
            for name, share in shares.items()
        },
    }
    if not problem.is_exact:
        facts["standard_error_of_score"] = {
            name: score_bounds.standard_errors(names, found) for name, found in errors.items()
        }
    return Finding(
        name=f"score_bounds_{problem.name}",
        title=f"SCORE's bounds for {problem.title}",
        summary=[
            *verdict(rows), *_lesson(rows), _how(problem, errors, names),
            _ascents(problem, shares),
        ],
        facts=facts,
        table=table_of(rows, f"model, {ball_words.in_titles(problem.norm, problem.eps)}"),
        pictures={
            "intervals": picture_of(rows, "Does R_SCORE lie between its bounds?", problem.title)
        },
    )  # fmt: skip


def _lesson(rows: Mapping[str, Mapping[str, Bound]]) -> list[str]:
    """What the errors say of the models, in the first metric there is."""
    metric = next((of for of in rows["truth"] if of in METRICS), None)
    if metric is None:
        return []
    found = {name: bounds[metric] for name, bounds in rows.items()}
    least = {
        of: min(score_bounds_models.DEMOS, key=lambda name: getattr(found[name], of))
        for of in ("madry", "score")
    }
    truth = found["truth"]
    return [
        f"In {metric} the truth itself has R_Madry = C = {truth.change:.4f} and R_SCORE "
        f"{truth.score:.4f}. Of the networks {least['madry']} has the lowest R_Madry, "
        f"{found[least['madry']].madry:.4f}, with R_SCORE {found[least['madry']].score:.4f}; "
        f"{least['score']} has the lowest R_SCORE, {found[least['score']].score:.4f}, with "
        f"R_Madry {found[least['score']].madry:.4f}."
    ]


def _how(problem: Problem, errors: Mapping[str, Errors], names: Sequence[str]) -> str:
    if problem.is_exact:
        averages = f"Averages by quadrature over {len(problem.x)} places"
    else:
        largest = max(
            value
            for found in errors.values()
            for value in score_bounds.standard_errors(names, found).values()
        )
        averages = (
            f"Averages over {len(problem.x)} draws, R_SCORE within {largest:.4f} (one standard "
            "error) of other draws'"
        )
    return (
        f"{averages}; maxima over the ball, {ball_words.in_titles(problem.norm, problem.eps)}: "
        f"{problem.searched}, and all that the ascents went through."
    )


def _ascents(problem: Problem, shares: Mapping[str, np.ndarray]) -> str:
    if problem.dimensions <= 2:
        least = min((float(share.min()), name) for name, share in shares.items())
        return (
            f"Without the grid the ascents alone find {100 * least[0]:.1f}% of a maximum or more "
            f"(least for {least[1]})."
        )
    change = min(float(share[score_bounds.CHANGE].min()) for share in shares.values())
    return (
        f"For C the grid covers all that the truth sees of the ball, and the ascents alone find "
        f"{100 * change:.1f}% of what it finds; "
        "R_Madry and R_SCORE of a network are estimates from below."
    )
