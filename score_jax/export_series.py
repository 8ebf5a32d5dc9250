"""The checkpoints of one run as artifacts in memory: models over its training."""

import hashlib
import os
from collections.abc import Iterator

from score_jax.artifact import WEIGHTS, Artifact, build_classifier, check_finite
from score_jax.export import as_bytes, as_tensors, describe
from score_jax.workdir import find_workdir


def artifacts(
    workdir: str | os.PathLike[str], checkpoints: str = "all", weights: str = "ema"
) -> Iterator[Artifact]:
    """What `score-jax export` would make of each checkpoint, one at a time; nothing is written.

    Args:
      workdir: folder of a run.
      checkpoints: 'all', or any of 'best', 'last' and steps, comma separated.
      weights: 'ema', the averaged weights, or 'live'.

    Yields:
      In the order of steps. `spec` has the fields of model.json that describe the model and the
      run: 'step', 'checkpoint' (such as 'step 138 (best, last)'), 'sha256' of its weights, ...

    Raises:
      UserError: no run, no such checkpoint, or only damaged ones; weights that are not finite.
    """
    # Here, because whoever only loads an artifact needs no Orbax.
    from score_jax import checkpoint_series

    run = find_workdir(workdir)
    chosen, classifier = checkpoint_series.choose(run, checkpoints), None
    for one, found in checkpoint_series.networks(chosen, weights):
        model, info = describe(run, found, one.name, weights)
        # One for all: what is compiled for the first serves the others.
        classifier = classifier or build_classifier(model)
        params, batch_stats = found["params"], found["batch_stats"]
        tensors = as_tensors(params, batch_stats)
        check_finite(tensors, str(one.folder))
        sha256 = hashlib.sha256(as_bytes(tensors)).hexdigest()
        yield Artifact(
            classifier=classifier,
            params=params,
            batch_stats=batch_stats,
            spec={"model": model, **info, "sha256": {WEIGHTS: sha256}},
            path=one.folder,
        )
