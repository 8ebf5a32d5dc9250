"""The finding of SCORE's bounds on what n training pairs can teach."""

from collections.abc import Sequence

from score_jax.analysis import ball_words, score_bounds_finite
from score_jax.analysis.finding import Finding, Picture
from score_jax.analysis.score_bounds_finite import Sample
from score_jax.analysis.score_bounds_problems import Problem
from score_jax.analysis.score_bounds_words import COLUMNS, WORDS, cells_of
from score_jax.writers_progress import counted


def _range(sample: Sample) -> str:
    """The least R_Madry(q; n): a number, or between which two it lies."""
    if sample.is_minimum:
        return f"{sample.lower:.4f}"
    return f"{sample.lower:.4f} to {sample.reached:.4f}"


def _searched(problem: Problem) -> str:
    """How the maxima on all of the data were found."""
    ball = ball_words.in_titles(problem.norm, problem.eps)
    said = f"Maxima over the ball, {ball}: {problem.searched}"
    if problem.dimensions <= 2:
        return f"{said}."
    return (
        f"{said}, and its points nearest to each pair: R_Madry and R_SCORE are estimates from "
        "below, the more so the more dimensions there are."
    )


def finding(problem: Problem, asked: Sequence[str], seed: int) -> Finding:
    """The least R_Madry(q; n), and what the nearest kept pair costs, for each of `SIZES` and
    each metric asked for."""
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
                *cells_of(sample.nearest_kept),
            ])  # fmt: skip
    is_best = all(samples[name].is_minimum for samples in found for name in asked)
    answers = "the minimiser (the nearest kept pair)" if is_best else "the nearest kept pair"
    first, last = found[0][asked[0]], found[-1][asked[0]]
    shown = [samples[asked[0]] for samples in found]

    def draw():
        from score_jax.analysis import score_bounds_plots

        return score_bounds_plots.finite(shown, WORDS[asked[0]], problem.title)

    return Finding(
        name=f"score_bounds_{problem.name}_finite",
        title=f"SCORE's bounds for n training pairs of {problem.title}",
        summary=[
            "Adversarial training on n pairs with one-hot labels minimises R_Madry(q; n). Pairs of "
            "different labels cost something only where their balls meet: a linear program says "
            "what no function is below, and the nearest of the kept pairs, as many as can be kept "
            "with no two such balls meeting, reaches what an integer program says. The minimum is "
            "at least the first, exactly where both agree.",
            f"In {asked[0]} it is {_range(first)} for {first.num_pairs} pairs and "
            f"{_range(last)} for {last.num_pairs}; the R_SCORE of {answers} on all of "
            f"the data is {first.nearest_kept.score:.4f} and {last.nearest_kept.score:.4f}, the "
            f"truth's 0. C is {last.nearest_kept.change:.4f}.",
            _searched(problem),
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
                    "nearest_kept": samples[name].nearest_kept.facts(),
                }
                for samples in found
                for name in asked
            ],
        },
        table=table,
        pictures={
            "cost": Picture(
                f"{'The best fit' if is_best else 'The nearest kept pair'} of n pairs, on them and "
                f"on all of the data: {problem.title}.",
                draw,
            )
        },
    )
