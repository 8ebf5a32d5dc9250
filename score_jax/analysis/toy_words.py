"""What is said of the toy's trainings: rows of the table, sentences with the numbers in them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax.analysis import toy, toy_training

LABELS = {"standard": "Standard", "pgdat": "PGD-AT", "score": "SCORE", "trades": "TRADES"}
DIVERGENCE_LABELS = {
    "kl": "KL", "squared_error": "squared error", "l1": "L1", "l2": "L2", "linf": "L∞",
    "sqrt_js": "√JS",
}  # fmt: skip
PLACES = ("-1", "0", "1.667", "5")
NUMBERS = {
    "train_loss": "train loss", "score_risk": "R_SCORE", "dense_score_risk": "dense",
    "standard_risk": "R_Std", "largest_error": "error",
}  # fmt: skip
HEAD = ("trained by", "D", *NUMBERS.values(), *(f"q({place})" for place in PLACES))
MEASURED = (
    "R_SCORE and R_Std are in L1: R_SCORE by the script's attack, 'dense' by quadrature with the "
    "maximum over a grid. error: the largest |q(Y=0|x) - p(Y=0|x)| on [-5, 8]. q: of class 0."
)
# The released script run on a CPU with 5,000 and 1,000 draws, one seed: train loss, R_SCORE and
# R_Standard in L1 (means of the last ten steps), and the largest error on [-5, 8].
SCRIPT = {
    ("standard", "kl"): (0.0002, 0.0054, 0.0034, 0.042),
    ("pgdat", "kl"): (0.0463, 0.1163, 0.0763, 0.258),
    ("score", "kl"): (0.0003, 0.0048, 0.0030, 0.028),
    ("pgdat", "squared_error"): (0.0245, 0.1162, 0.0794, 0.254),
    ("trades", "kl"): (0.0436, 0.0756, 0.0494, 0.121),
}
SCRIPT_STEPS = 500
SCRIPT_HEAD = "script: loss, R_SCORE, R_Std, error"


def row(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """One training under `HEAD`."""
    *risks, error = (numbers[name] for name in NUMBERS)
    return (
        LABELS[numbers["demo"]],
        DIVERGENCE_LABELS[numbers["divergence"]],
        *(f"{risk:.4f}" for risk in risks),
        f"{error:.3f}",
        *(f"{numbers['class_0_at'][place]:.3f}" for place in PLACES),
    )


def truth_row() -> tuple[str, ...]:
    """The truth under `HEAD`."""
    at = toy_training.by_place(toy.truth(jnp.asarray(toy_training.PLACES)[:, None]))
    return ("the truth", "", "", "0", "0", "0", "0", *(f"{at[place]:.3f}" for place in PLACES))


def script_cell(demo: str, divergence: str) -> str:
    """What the released script reached, or nothing where it was not run."""
    found = SCRIPT.get((demo, divergence))
    return "{:.4f}  {:.4f}  {:.4f}  {:.3f}".format(*found) if found else ""


def script_facts() -> list[dict[str, Any]]:
    """`SCRIPT` for JSON."""
    names = ("train_loss", "score_risk", "standard_risk", "largest_error")
    return [
        {"demo": demo, "divergence": divergence, **dict(zip(names, values, strict=True))}
        for (demo, divergence), values in SCRIPT.items()
    ]


def mean(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means of one training's numbers over seeds, and their standard deviations."""
    numeric = {name: [run[name] for run in runs] for name in NUMBERS}
    at = {place: float(np.mean([r["class_0_at"][place] for r in runs])) for place in PLACES}
    return {
        **{name: runs[0][name] for name in ("demo", "divergence", "sampling", "metric")},
        **{name: float(np.mean(values)) for name, values in numeric.items()},
        "class_0_at": at,
        "standard_deviations": {
            name: float(np.std(values, ddof=1)) for name, values in numeric.items()
        },
    }


def verdicts(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """R_SCORE and largest error of each method, the least first, over the divergences."""
    told = []
    for name, words in (
        ("dense_score_risk", "R_SCORE (L1, dense)"), ("largest_error", "Largest error on [-5, 8]")
    ):  # fmt: skip
        values: dict[str, list[float]] = {}
        for numbers in found:
            values.setdefault(numbers["demo"], []).append(numbers[name])
        parts = [
            f"{LABELS[demo]} {_range(values[demo])}"
            for demo in sorted(values, key=lambda demo: np.mean(values[demo]))
        ]
        several = len(next(iter(values.values())))
        over = f", over {several} divergences" if several > 1 else ""
        told.append(f"{words}{over}: {', '.join(parts)}.")
    risks = {(n["divergence"], n["demo"]): n["dense_score_risk"] for n in found}
    ratios = [
        risk / risks[divergence, "score"]
        for (divergence, demo), risk in risks.items()
        if demo == "pgdat" and (divergence, "score") in risks
    ]
    if ratios:
        low, high = (f"{ratio:.1f}" for ratio in (min(ratios), max(ratios)))
        told.append(
            f"R_SCORE of PGD-AT is {low if low == high else f'{low} to {high}'} times that of "
            "SCORE: it asks for one answer in the whole ball, so the truth does not minimise it."
        )
    return told


def six_words(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """How near the truth six points bring each method, kept and redrawn: R_SCORE over D."""
    told = []
    for sampling, words in (("kept", "six pairs kept"), ("redrawn", "six redrawn at every step")):
        parts = [
            f"{LABELS[demo]} {_range(values)}"
            for demo in dict.fromkeys(numbers["demo"] for numbers in found)
            if (
                values := [
                    numbers["dense_score_risk"]
                    for numbers in found
                    if (numbers["demo"], numbers["sampling"]) == (demo, sampling)
                ]
            )
        ]
        told.append(f"R_SCORE (L1, dense) with {words}: {', '.join(parts)}.")
    return told


def progress_words(steps: Sequence[int], risks: Mapping[str, Sequence[float]]) -> str:
    """R_SCORE of each method half-way and at the end."""
    half = min(steps, key=lambda step: abs(step - steps[-1] / 2))
    parts = [
        f"{LABELS[demo]} {values[steps.index(half)]:.3f} and {values[-1]:.3f}"
        for demo, values in risks.items()
    ]
    return f"R_SCORE (L1, dense) after {half} and {steps[-1]} steps: {', '.join(parts)}."


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3f}" if len(values) == 1 else f"{low:.3f} to {high:.3f}"
