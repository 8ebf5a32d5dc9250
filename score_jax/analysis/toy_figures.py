"""Figures 1 and 2 of SCORE (Pang et al. 2022): what each way of training makes of the toy."""

from collections.abc import Mapping
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.analysis import toy, toy_training, toy_words
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.toy_bench import NUM_SIX, Bench, Key
from score_jax.analysis.toy_words import DIVERGENCE_LABELS, HEAD, LABELS, MEASURED

SHOWN = (10, 50, 100, 300)  # Steps, of those up to 300 of Figure 1; the last step comes after them.
CURVE = np.linspace(*toy_training.PLOTTED, 261)
Curves = Mapping[tuple, np.ndarray]


def methods(bench: Bench) -> Finding:
    """Figure 2, expectation: what is learned from the whole distribution, by method and D."""
    keys = _keys(bench, "even")
    trained = bench.train("methods", keys)
    found = [bench.numbers(key) for key in keys]
    curves = {key[:2]: _curve(trained[key][0].params) for key in keys}
    table = [HEAD, toy_words.truth_row(), *map(toy_words.row, found)]
    cells = [toy_words.script_cell(*key[:2]) for key in keys]
    if bench.num_steps == toy_words.SCRIPT_STEPS and any(cells):
        beside = [toy_words.SCRIPT_HEAD, "", *cells]
        table = [(*row, cell) for row, cell in zip(table, beside, strict=True)]
    return Finding(
        name=f"toy_methods{bench.suffix}",
        title="Toy of SCORE: learned from the whole distribution (Figure 2, expectation)",
        summary=[
            *toy_words.verdicts(found),
            f"Each step has {bench.num_draws} points, spread evenly over the distribution and "
            "shifted at random at each; 600 of them average as well as thousands of independent "
            "draws, of which the paper takes 60,000.",
            MEASURED,
        ],
        facts={**bench.facts(), "trainings": found, "script": toy_words.script_facts()},
        table=table,
        pictures={
            "learned": Picture(
                "p(Y=0|x), the truth, and q(Y=0|x), learned from the whole distribution, by "
                "method and divergence D.",
                lambda: _draw(bench, "Learned from the whole distribution", curves),
            )
        },
        arrays=_arrays(curves),
    )


def six(bench: Bench) -> Finding:
    """Figure 2, finite sample: six points, five to one, kept or redrawn at every step."""
    found, drawn = [], {}
    for sampling in ("kept", "redrawn"):
        keys = _keys(bench, sampling)
        trained = bench.train(f"six points, {sampling}", keys)
        runs = {key: [bench.numbers(key, index) for index in range(NUM_SIX)] for key in keys}
        found += [toy_words.mean(runs[key]) for key in keys]
        drawn[sampling] = {
            key[:2]: np.stack([_curve(t.params) for t in trained[key]]) for key in keys
        }
    seeds = range(bench.seed, bench.seed + NUM_SIX)
    points = np.stack([np.asarray(toy_training.kept_points(seed, 6))[:, 0] for seed in seeds])
    arrays = {
        f"{sampling}_{name}": array
        for sampling, curves in drawn.items()
        for name, array in _arrays(curves).items()
    }

    def kept():
        return _draw(bench, "Learned from six training pairs (dots)", drawn["kept"], points[0])

    def redrawn():
        return _draw(bench, "Learned from six pairs, redrawn at every step", drawn["redrawn"])

    return Finding(
        name=f"toy_six{bench.suffix}",
        title="Toy of SCORE: learned from six pairs (Figure 2, finite sample)",
        summary=[
            *toy_words.six_words(found),
            'kept: six pairs drawn once (the paper\'s slide: "6 training pairs"); redrawn: six '
            "others at every step (the released script, with the counts 5 and 1). The labels are "
            f"p(y|x). Every number is the mean over {NUM_SIX} seeds.",
            MEASURED,
        ],
        facts={**bench.facts(), "draws_per_step": 6, "num_seeds": NUM_SIX, "trainings": found},
        table=[
            (*HEAD, "six pairs"),
            *((*toy_words.row(numbers), numbers["sampling"]) for numbers in found),
        ],
        pictures={
            "kept": Picture(
                "Learned from six pairs (x, p(y|x)) drawn once, as on the paper's slide; thin: "
                f"from each of {NUM_SIX - 1} other draws of six.",
                kept,
            ),
            "redrawn": Picture(
                "Learned from six pairs drawn anew at every step, as in the released script; "
                f"thin: {NUM_SIX - 1} other seeds.",
                redrawn,
            ),
        },
        arrays=arrays | {"training_points": points},
    )


def over_training(bench: Bench) -> Finding:
    """Figure 1: q(Y=0|x) and R_SCORE over the steps of training, by method."""
    keys = {demo: (demo, bench.divergence, "even") for demo in bench.demos}
    trained = bench.train("training", keys.values())
    found = [bench.numbers(key) for key in keys.values()]
    snapshots = {demo: trained[key][0].snapshots for demo, key in keys.items()}
    steps = sorted(snapshots[bench.demos[0]])
    shown = [step for step in SHOWN if step < steps[-1]] + [steps[-1]]
    curves = {(demo, step): _curve(snapshots[demo][step]) for demo in bench.demos for step in shown}
    risks = {demo: [_risk(params[step]) for step in steps] for demo, params in snapshots.items()}
    label = DIVERGENCE_LABELS[bench.divergence]

    def learned():
        from score_jax.analysis import toy_plots

        return toy_plots.multiples(
            f"Learned over training, D = {label}", CURVE, _truth(), curves,
            rows={demo: LABELS[demo] for demo in bench.demos},
            columns={step: f"step {step}" for step in shown},
        )  # fmt: skip

    def progress():
        from score_jax.analysis import toy_plots

        named = {LABELS[demo]: values for demo, values in risks.items()}
        return toy_plots.over_steps(f"R_SCORE in L1 over training, D = {label}", steps, named)

    return Finding(
        name=f"toy_training{bench.suffix}",
        title=f"Toy of SCORE: learned over training, D = {label} (Figure 1)",
        summary=[
            toy_words.progress_words(steps, risks), *toy_words.verdicts(found), MEASURED,
        ],
        facts={
            **bench.facts(), "trainings": found, "steps": steps, "dense_score_risk": risks,
        },
        table=[HEAD, toy_words.truth_row(), *map(toy_words.row, found)],
        pictures={
            "snapshots": Picture(
                "p(Y=0|x), the truth, and q(Y=0|x), learned after some steps, by method.", learned
            ),
            "risk": Picture("R_SCORE in L1, by quadrature, over the steps of training.", progress),
        },
        arrays=_arrays(curves),
    )  # fmt: skip


def _keys(bench: Bench, sampling: str) -> list[Key]:
    pairs = product(bench.divergences, bench.demos)
    return [(demo, divergence, sampling) for divergence, demo in pairs]


_answers = jax.jit(toy_training.model)


def _curve(params) -> np.ndarray:
    """q(Y=0|x) at `CURVE`, f32[261]."""
    return np.asarray(_answers(params, jnp.asarray(CURVE, jnp.float32)[:, None]).probs[:, 0])


def _truth() -> np.ndarray:
    return np.asarray(toy.truth(jnp.asarray(CURVE, jnp.float32)[:, None]).probs[:, 0])


def _risk(params) -> float:
    return toy.dense_risks(toy_training.model, params, metric="l1")["dense_score_risk"]


def _draw(bench: Bench, title: str, curves: Curves, points: np.ndarray | None = None):
    from score_jax.analysis import toy_plots

    return toy_plots.multiples(
        title, CURVE, _truth(), {key[::-1]: y for key, y in curves.items()},
        rows={name: DIVERGENCE_LABELS[name] for name in bench.divergences},
        columns={demo: LABELS[demo] for demo in bench.demos}, points=points,
    )  # fmt: skip


def _arrays(curves: Curves) -> dict[str, np.ndarray]:
    named = {"_".join(map(str, key)): y for key, y in curves.items()}
    return {"x": CURVE, "truth": _truth()} | named
