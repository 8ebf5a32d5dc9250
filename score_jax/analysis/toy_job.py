"""`score-jax analyze toy`: what SCORE and others learn where the truth is known."""

from collections.abc import Iterator

import jax

from score_jax.analysis import toy, toy_training
from score_jax.analysis.finding import Finding
from score_jax.command_line import Call


def run(call: Call) -> Iterator[Finding]:
    """The truth, or one way of training."""
    num_draws = call.num_examples or sum(toy.COUNTS)
    if not call.demo:
        key = jax.random.key(call.seed)
        places = jax.numpy.asarray(toy_training.PLACES)[:, None]
        facts = {
            "class_0_at": toy_training.by_place(toy.truth(places)),
            "widest_change": {
                name: {
                    "dense_grid": toy.dense_change(name),
                    "official_estimate": toy.attacked_change(name, key, num_draws),
                }
                for name in ("kl", "squared_error", "l1", "l2")
            },
        }
    else:
        params, loss = toy_training.train(
            call.demo, divergence=call.divergence, num_steps=call.train_steps,
            num_draws=num_draws, seed=call.seed,
        )  # fmt: skip
        facts = {
            "demo": call.demo,
            "divergence": call.divergence,
            "train_steps": call.train_steps,
            "draws_per_step": num_draws,
            "train_loss": loss,
            **toy_training.measure(params, num_draws=num_draws, seed=call.seed),
        }
    yield Finding(name="toy", title="The toy problem of SCORE", summary=[], facts=facts)
