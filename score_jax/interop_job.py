"""The job `score-jax import`."""

from typing import Any

from score_jax.command_line import Call, Job, UsageError
from score_jax.command_line_run import radius_of


def import_weights(call: Call) -> dict[str, Any]:
    """Makes an artifact from a file of weights.

    Raises:
      UsageError: not one file, or no folder to write to.
    """
    if len(call.words) != 1:
        raise UsageError("write score-jax import FILE --out=DIR, such as: import model.pt")
    if not call.out:
        raise UsageError("--out=DIR is needed: the artifact is DIR/export")
    norm = call.norm or "linf"
    eps = radius_of(call, call.out, norm)
    from score_jax import interop_import

    return interop_import.import_checkpoint(
        call.words[0],
        call.out,
        model=call.model,
        dataset=call.dataset or "cifar10",
        eps=eps,
        norm=norm,
        weights=call.weights,
        normalization=call.normalization,
        num_examples=call.num_examples,
        data_dir=call.data_dir,
    )


IMPORT = Job(
    "Make an artifact from a file of weights: PyTorch, safetensors, or Haiku's .npy.",
    "score-jax import model.pt --model=wrn-28-10-swish --dataset=cifar10 --out=imported/wrn "
    "--eps=8/255 --num_examples=500",
    (
        "out", "model", "dataset", "eps", "norm", "weights", "normalization", "num_examples",
        "data_dir",
    ),
    import_weights,
    takes_words=True,
)  # fmt: skip
