"""The job `score-jax compare`."""

from score_jax.command_line import Call, Job, UsageError
from score_jax.command_line_run import radius_of


def compare(call: Call) -> list[str]:
    """Compares the one or two networks that the bare words name."""
    if not 1 <= len(call.words) <= 2:
        raise UsageError("write score-jax compare A [B]: folders of exports or runs, or .pt files")
    eps = radius_of(call, call.words[0], call.norm)
    from score_jax import compare, compare_table

    result = compare.compare(
        *call.words,
        model=call.model,
        dataset=call.dataset,
        weights=call.weights,
        normalization=call.normalization,
        data_dir=call.data_dir,
        num_examples=call.num_examples,
        batch_size=call.batch_size,
        norm=call.norm,
        eps=eps,
        steps=compare.NUM_STEPS if call.steps == -1 else call.steps,
        precisions=tuple(call.precisions) or compare.DEFAULT_PRECISIONS,
        attacks=tuple(call.attacks) or ("pgd",),
        seed=call.seed,
        out=call.out,
    )
    lines = compare_table.describe(result)
    return [*lines, *_draw(result), f"written to {result['folder']}"]


def _draw(result: dict) -> list[str]:
    try:
        from score_jax import compare_plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return ["no pictures: pip install 'score_jax[plots]'"]
    compare_plots.write(result)
    return []


COMPARE = Job(
    "Compare two networks, JAX or PyTorch, on the same images: logits, gradients, attacks, layers.",
    "score-jax compare runs/score/export checkpoint.pt\n"
    "score-jax compare runs/score   # against its own PyTorch export",
    (
        "model", "dataset", "weights", "normalization", "data_dir", "num_examples", "batch_size",
        "eps", "norm", "steps", "precisions", "attacks", "seed", "out",
    ),
    compare,
    takes_words=True,
)  # fmt: skip
