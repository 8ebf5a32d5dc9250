"""C of the toy: how far the truth itself changes within a ball, exactly and as the script says."""

import jax
import numpy as np

from score_jax.analysis import toy, toy_training
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.toy_bench import Bench
from score_jax.analysis.toy_words import DIVERGENCE_LABELS

HEAD = ("D", "C on a dense grid", "C by the script", "± (10 batches)", "bias", "mean of the sides")


def finding(bench: Bench) -> Finding:
    """C = E max D(p(x), p(x')) by divergence: dense grid beside the official estimator."""
    rows = {name: _row(name, bench) for name in bench.divergences}
    biases = [row["bias"] for row in rows.values()]
    table = [
        (
            DIVERGENCE_LABELS[name], f"{row['dense_grid']:.5f}", f"{row['official_estimate']:.5f}",
            f"{row['standard_error']:.5f}", f"{row['bias']:+.0%}",
            f"{row['mean_of_sides']:.5f}",
        )
        for name, row in rows.items()
    ]  # fmt: skip
    share = " to ".join(dict.fromkeys(f"{-bias:.0%}" for bias in (max(biases), min(biases))))
    summary = [
        "How far the true p(y|x) itself changes within |x' - x| <= 1, on average: C, the constant "
        "of SCORE's bounds |R_Madry - C| <= R_SCORE <= R_Madry + C (a theorem for metrics: L1, L2, "
        "L∞, √JS).",
        f"The released estimator is too small by {share}: its "
        "sign attack starts once and climbs away from x on the side where it starts, so it finds "
        "about the mean of the two one-sided maxima instead of the larger one.",
        "The script's √JS is the root of the mean, and so are both values here; the mean of the "
        "roots, which is a metric, is in the JSON (dense_grid_of_roots).",
    ]
    if "sqrt_js" not in rows:
        summary.pop()
    places = jax.numpy.asarray(toy_training.PLACES)[:, None]
    return Finding(
        name=f"toy_change{bench.suffix}",
        title="Toy of SCORE: how far the truth changes within the ball (C)",
        summary=summary,
        facts={
            "class_0_at": toy_training.by_place(toy.truth(places)),
            "eps": toy.EPS,
            "widest_change": rows,
        },
        table=[HEAD, *table],
        pictures={
            "sides": Picture(
                "Largest change of the truth within the ball, by x: over the whole ball, and "
                "the mean of its two sides, which the official estimator finds.",
                lambda: _draw(bench.divergence),
            )
        },
    )


def _draw(divergence):
    from score_jax.analysis import toy_plots

    x, whole = toy.widest_changes(divergence)
    sides = [toy.widest_changes(divergence, **side)[1] for side in ({"low": 0.0}, {"high": 0.0})]
    weights = np.asarray(toy.density(x[:, None]))
    return toy_plots.changes(
        DIVERGENCE_LABELS[divergence], np.asarray(x), np.asarray(whole),
        np.asarray(sides).mean(0), weights,
    )  # fmt: skip


def _row(name, bench):
    # The script takes the root of the mean.
    inner, outer = ("js", np.sqrt) if name == "sqrt_js" else (name, float)
    dense = float(outer(toy.dense_change(inner)))
    sides = (toy.dense_change(inner, low=0.0) + toy.dense_change(inner, high=0.0)) / 2
    batches = toy.attacked_changes(name, jax.random.key(bench.seed))
    found = {
        "dense_grid": dense,
        "official_estimate": float(batches.mean()),
        "standard_error": float(batches.std(ddof=1) / len(batches) ** 0.5),
        "bias": float(batches.mean()) / dense - 1,
        "mean_of_sides": float(outer(sides)),
    }
    return found | ({"dense_grid_of_roots": toy.dense_change(name)} if name == "sqrt_js" else {})
