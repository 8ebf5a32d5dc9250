"""Models q(y|x) whose errors are known or learned: the truth, cells, and small networks."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from score_jax import divergences
from score_jax.analysis import toy_training
from score_jax.analysis.score_bounds import STEP_SCHEDULE, Predictor
from score_jax.analysis.score_bounds_problems import Problem
from score_jax.attacks import PGD
from score_jax.types import Params

DEMOS = tuple(toy_training.DEMOS)
WIDTH, NUM_DRAWS, NUM_STEPS = 100, 2000, 10


def cells(problem: Problem) -> Predictor:
    """The truth at the centre of x's cell, a cube of 2·eps: constant but for jumps between cells,
    what invariance within a ball comes closest to.
    """
    return Predictor(_cells, {"truth": problem.truth, "width": jnp.float32(2 * problem.eps)})


def _cells(params, x):
    return params["truth"](jnp.round(x / params["width"]) * params["width"])


def network(params: Params) -> Predictor:
    """Dense layers with tanh between them."""
    return Predictor(toy_training.model, params)


def train(
    problem: Problem,
    demo: str,
    *,
    num_steps: int,
    seed: int,
    tell: Callable[[int], None] = lambda done: None,
) -> Predictor:
    """A network trained on new draws at every step, the truth as soft labels, in KL.

    Args:
      demo: one of `toy_training.DEMOS`; the toy's own training where the problem is the toy.
      tell: gets the number of steps that are done.
    """
    if problem.kind == "toy":
        params, _ = toy_training.train(demo, num_steps=num_steps, seed=seed, tell=tell)
        return network(params)
    init_key, data_key = jax.random.split(jax.random.key(seed))
    params = toy_training.init(init_key, (problem.dimensions, WIDTH, WIDTH, problem.num_classes))
    optimizer = optax.adam(toy_training.LEARNING_RATE)
    state = optimizer.init(params)
    step = jax.jit(functools.partial(_step, problem, demo, optimizer))
    for number in range(num_steps):
        params, state = step(params, state, jax.random.fold_in(data_key, number))
        if number % 50 == 49:
            jax.block_until_ready(params)
            tell(number + 1)
    return network(params)


def _step(problem, demo, optimizer, params, state, key):
    method = toy_training.DEMOS[demo]
    draw_key, attack_key = jax.random.split(key)
    x, _ = problem.draw(draw_key, NUM_DRAWS)
    kl, moved = divergences.divergence("kl"), x
    attack = PGD(
        threat=problem.ball, step_size=4 * problem.eps / NUM_STEPS, num_steps=NUM_STEPS,
        step_schedule=STEP_SCHEDULE,
    )  # fmt: skip
    if method.inner:
        q = functools.partial(toy_training.model, params)
        noise = problem.ball.noise(attack_key, x.shape, x.dtype)
        moved = attack(
            lambda moved: kl(*method.inner(q, problem.truth, x, moved)), attack_key, x, noise
        )

    def loss_fn(params):
        q = functools.partial(toy_training.model, params)
        return sum(kl(*term(q, problem.truth, x, moved)).mean() for term in method.outer)

    gradients = jax.grad(loss_fn)(params)
    # Optax raises a float to an integer power, which strict dtypes refuse.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state
