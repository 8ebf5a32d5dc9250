"""The finding of SCORE's bounds on what n training pairs can teach."""

from collections.abc import Sequence

from score_jax.analysis import score_bounds_finite
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.score_bounds_finite import Sample
from score_jax.analysis.score_bounds_problems import Problem
from score_jax.analysis.score_bounds_words import COLUMNS, WORDS, cells_of
from score_jax.writers_progress import counted


def _range(sample: Sample) -> str:
    """The least R_Madry(q; n): a number, or between which two it lies."""
    if sample.reached - sample.lower < 1e-6:
        return f"{sample.lower:.4f}"
    return f"{sample.lower:.4f} to {sample.reached:.4f}"


def finding(problem: Problem, asked: Sequence[str], seed: int) -> Finding:
    """What the minimiser of R_Madry(q; n) costs, for each of `SIZES` and each metric asked for."""
    sizes = score_bounds_finite.SIZES
    found: list[dict[str, Sample]] = []
    with counted(f"{problem.name}: sizes of a sample", len(sizes)) as tell:
        for done, size in enumerate(sizes, 1):
            found.append(score_bounds_finite.measure(problem, size, seed))
            tell(done)
    table = [["D", "n", "least R_Madry(n)", "kept", *COLUMNS]]
    for name in asked:
        for samples in found:
            sample = samples[name]
            table.append([
                name, str(sample.num_pairs), _range(sample), f"{sample.kept:.0%}",
                *cells_of(sample.minimiser),
            ])  # fmt: skip
    first, last = found[0][asked[0]], found[-1][asked[0]]
    shown = [samples[asked[0]] for samples in found]

    def draw():
        from score_jax.analysis import score_bounds_plots

        return score_bounds_plots.finite(shown, WORDS[asked[0]])

    return Finding(
        name=f"score_bounds_{problem.name}_finite",
        title=f"SCORE's bounds for n training pairs of {problem.title}",
        summary=[
            "Adversarial training on n pairs with one-hot labels minimises R_Madry(q; n); its "
            "minimum over all functions is known, as pairs of different labels cost something "
            "only where their balls meet: a linear program, and a minimiser answers with the "
            "label of the nearest pair that it keeps.",
            f"In {asked[0]} the minimum is {_range(first)} for {first.num_pairs} pairs and "
            f"{_range(last)} for {last.num_pairs}; the minimiser's R_SCORE on all of the data "
            f"is {first.minimiser.score:.4f} and {last.minimiser.score:.4f}, the truth's 0. C is "
            f"{last.minimiser.change:.4f}.",
            f"Means over {score_bounds_finite.NUM_DRAWS} samples of each size.",
            "With certain answers KL is infinite; squared error has another minimiser, between "
            "the labels.",
        ],
        facts={
            **problem.facts,
            "seed": seed,
            "num_samples": score_bounds_finite.NUM_DRAWS,
            "samples": [
                {
                    "divergence": name,
                    "num_pairs": samples[name].num_pairs,
                    "least_madry": samples[name].lower,
                    "reached_madry": samples[name].reached,
                    "kept": samples[name].kept,
                    "minimiser": samples[name].minimiser.facts(),
                }
                for samples in found
                for name in asked
            ],
        },
        table=table,
        pictures={
            "cost": Picture("The best fit of n pairs, on them and on all of the data.", draw)
        },
    )
