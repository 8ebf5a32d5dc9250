"""How bounds are told: the table, the verdict in words, the picture."""

from collections.abc import Mapping

from score_jax.analysis.finding import Picture
from score_jax.analysis.score_bounds import METRICS, ROOT, Bound

WORDS = {
    "kl": "KL (no metric)", "squared_error": "squared error (no metric)",
    ROOT: "root of squared error", "l1": "L1", "l2": "L2", "linf": "L∞", "sqrt_js": "root of JS",
}  # fmt: skip
NO_METRICS = {"kl": "KL", "squared_error": "squared error"}
COLUMNS = ("R_Standard", "R_Madry", "R_SCORE", "C", "lower", "upper", "interval")


def cells_of(bound: Bound) -> list[str]:
    """A row's `COLUMNS`."""
    values = (
        bound.standard, bound.madry, bound.score, bound.change, bound.lower, bound.upper,
    )  # fmt: skip
    kind = "holds" if bound.holds else "broken"
    kind += "" if bound.is_theorem else ", no theorem"
    return [*(f"{value:.4f}" for value in values), kind]


def table_of(rows: Mapping[str, Mapping[str, Bound]], what: str = "model") -> list[list[str]]:
    """A row for each divergence and model: name -> divergence -> bound."""
    table = [["D", what, *COLUMNS]]
    for of in next(iter(rows.values())):
        for name, bounds in rows.items():
            table.append([of, name, *cells_of(bounds[of])])
    return table


def picture_of(rows: Mapping[str, Mapping[str, Bound]], title: str, what: str) -> Picture:
    """Every interval, divergence by divergence; below the title what was measured."""

    def draw():
        from score_jax.analysis import score_bounds_plots

        words = {of: WORDS[of] for of in next(iter(rows.values()))}
        return score_bounds_plots.intervals(rows, words, title, what)

    return Picture(f"R_SCORE in the interval that R_Madry and C leave it: {what}.", draw)


def verdict(rows: Mapping[str, Mapping[str, Bound]]) -> list[str]:
    """Where the interval holds, in words."""
    cases = [(name, of, bound) for name, found in rows.items() for of, bound in found.items()]
    theorem = [bound.holds for _, _, bound in cases if bound.is_theorem]
    other = [(name, of) for name, of, bound in cases if not bound.is_theorem and not bound.holds]
    said = []
    if theorem:
        metrics = ["a metric"] if any(of in METRICS for _, of, _ in cases) else []
        metrics += ["the root of squared error"] if any(of == ROOT for _, of, _ in cases) else []
        said.append(
            f"R_SCORE lies between |R_Madry - C| and R_Madry + C in {sum(theorem)} of "
            f"{len(theorem)} cases where D is {' or '.join(metrics)}, for which that is a theorem. "
            "Each maximum is over the same points, so that the theorem holds "
            "for estimates too: 'holds' is true there by construction, and no test of the search."
        )
    free = sum(not bound.is_theorem for _, _, bound in cases)
    if free:
        asked = [word for of, word in NO_METRICS.items() if any(of == case[1] for case in cases)]
        where = ", ".join(f"{of} of {name}" for name, of in other)
        said.append(
            f"{' and '.join(asked)} {'is no metric' if len(asked) == 1 else 'are no metrics'}, and "
            f"there it lies outside in {len(other)} of {free} cases{': ' + where if where else ''}."
        )
    return said
