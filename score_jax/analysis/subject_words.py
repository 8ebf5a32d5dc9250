"""Which weights of which runs a finding tells of, in words."""

from collections.abc import Sequence

from score_jax.analysis.subject import Subject

WEIGHTS = {"ema": "averaged weights (EMA)", "live": "live weights"}


def tell_models(runs: Sequence[Subject]) -> list[str]:
    """A sentence on the weights, checkpoint and step of each run; none where no export tells."""
    told = [(run.name, words) for run in runs if (words := _model(run))]
    if not told:
        return []
    if len(runs) == 1:
        return [f"Measured: {told[0][1]}."]
    return [f"Measured: {'; '.join(f'{name}: {words}' for name, words in told)}."]


def _model(run: Subject) -> str:
    """'averaged weights (EMA) of the best checkpoint, step 276', as far as it is known."""
    known = run.measured_model()
    parts = [WEIGHTS.get(known["weights"], f"{known['weights']} weights")]
    if known["weights"] is None:
        parts = ["weights"]
    if known["checkpoint"] is not None:
        parts.append(f"of the {known['checkpoint']} checkpoint")
    words = " ".join(parts) + ("" if known["step"] is None else f", step {known['step']}")
    return "" if words == "weights" else words
