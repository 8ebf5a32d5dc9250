"""How bounds are told: the table, the verdict in words, the picture."""

from collections.abc import Mapping

from score_jax.analysis.finding import Picture
from score_jax.analysis.score_bounds import ROOT, Bound

WORDS = {
    "kl": "KL (no metric)", "squared_error": "squared error (no metric)",
    ROOT: "root of squared error", "l1": "L1", "l2": "L2", "linf": "L∞", "sqrt_js": "root of JS",
}  # fmt: skip
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


def picture_of(rows: Mapping[str, Mapping[str, Bound]], title: str) -> Picture:
    """Every interval, divergence by divergence."""

    def draw():
        from score_jax.analysis import score_bounds_plots

        words = {of: WORDS[of] for of in next(iter(rows.values()))}
        return score_bounds_plots.intervals(rows, words, title)

    return Picture("R_SCORE in the interval that R_Madry and C leave it.", draw)


def verdict(rows: Mapping[str, Mapping[str, Bound]]) -> list[str]:
    """Where the interval holds, in words."""
    cases = [(name, of, bound) for name, found in rows.items() for of, bound in found.items()]
    theorem = [bound.holds for _, _, bound in cases if bound.is_theorem]
    other = [(name, of) for name, of, bound in cases if not bound.is_theorem and not bound.holds]
    said = []
    if theorem:
        said.append(
            f"R_SCORE lies between |R_Madry - C| and R_Madry + C in {sum(theorem)} of "
            f"{len(theorem)} cases where D is a metric, for which that is a theorem."
        )
    free = sum(not bound.is_theorem for _, _, bound in cases)
    if free:
        where = ", ".join(f"{of} of {name}" for name, of in other)
        said.append(
            f"KL and squared error are no metrics, and there it lies outside in {len(other)} of "
            f"{free} cases{': ' + where if where else ''}."
        )
    return said
