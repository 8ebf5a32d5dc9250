"""The report job: `plots/` and one self-contained `report.html` of a run, beside others."""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from score_jax import report_analyses, report_page, report_run
from score_jax.report_run import Run
from score_jax.types import UserError
from score_jax.workdir import write_text_atomic

COLUMNS = ("model", "clean", "PGD", "AutoAttack", "eps", "seconds")


def report(
    workdir: str | os.PathLike[str],
    beside: Sequence[str | os.PathLike[str]] = (),
    data_dir: str = "",
) -> str:
    """Writes DIR/plots and DIR/report.html, and returns the text of `summary_table`.

    Args:
      beside: run folders drawn in the same plots and tables.
      data_dir: of datasets, for pictures of AutoAttack's images where PGD has left none.

    Raises:
      UserError: not the folder of a run, or no metrics in it yet.
    """
    runs = report_run.read_all((workdir, *beside), data_dir)
    place = runs[0].workdir
    if not runs[0].metrics:
        raise UserError(
            f"{place.metrics} holds no metrics yet; train first: score-jax train "
            f"--workdir={place.path}"
        )
    drawings, palettes = {}, ((), ())
    analyses, outdated = report_analyses.sections(runs[0])
    runs[0] = dataclasses.replace(runs[0], outdated=(*runs[0].outdated, *outdated))
    if importlib.util.find_spec("matplotlib") is not None:
        from score_jax import report_style

        drawings = _draw(runs, place.plots)
        palettes = (report_style.COLORS, report_style.DARK_COLORS)
        analyses = [section.drawn(report_style.to_inline) for section in analyses]
    write_text_atomic(place.report, report_page.render(runs, drawings, palettes, analyses))
    return _table(runs)


def _draw(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """Writes every plot as PNG and SVG; returns them for the page."""
    from score_jax import report_plots, report_style

    folder.mkdir(exist_ok=True)
    inline = {}
    for name, figure in report_plots.draw(runs).items():
        svg = report_style.to_svg(figure)
        (folder / f"{name}.svg").write_text(svg)
        (folder / f"{name}.png").write_bytes(report_style.to_png(figure))
        inline[name] = report_style.to_inline(svg, f"Plot: {name.replace('_', ' ')}")
    for path in folder.glob("*.[ps][nv]g"):
        # Of an earlier report: what it shows may not hold any longer.
        if report_plots.is_name(path.stem) and path.stem not in inline:
            path.unlink()
    return inline


def summary_table(workdirs: Sequence[str | os.PathLike[str]]) -> str:
    """The runs' main numbers as plain text, with the paths of the first run's files.

    'eps' is the radius of the attacks, 'seconds' the time of the training.
    """
    return _table(report_run.read_all(workdirs))


def _table(runs: Sequence[Run]) -> str:
    steps = sorted({run.quick_result["num_steps"] for run in runs if run.quick})
    pgd = f"PGD-{steps[0]}" if len(steps) == 1 else "PGD"
    rows = [tuple(pgd if column == "PGD" else column for column in COLUMNS)]
    for run in runs:
        accuracies = (
            run.clean_accuracy,
            run.quick_result.get("robust_accuracy"),
            run.official_result.get("robust_accuracy"),
        )
        seconds = run.training_seconds
        rows.append(
            (
                run.name,
                *("-" if value is None else f"{100 * value:.1f}%" for value in accuracies),
                run.eps,
                "-" if seconds is None else f"{seconds:.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *_paths(runs[0])])


def _paths(run: Run) -> list[str]:
    result = run.workdir.eval(run.official or run.quick) / "result.json"
    paths = {"model": run.workdir.export, "result": result, "report": run.workdir.report}
    return [f"{name + ':':<8}{path}" for name, path in paths.items() if path.exists()]
