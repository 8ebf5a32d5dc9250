"""One self-contained page of a report: text, tables and drawings, no script and no network."""

import html
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from score_jax.report_analyses import Section
from score_jax.report_css import STYLE_SHEET
from score_jax.report_run import Run


def percent(value: float | None) -> str:
    """'61.6%', or a dash."""
    return "–" if value is None else f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """'1h04m', '2m05s', '9s', or a dash."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def command(job: str, run: Run) -> str:
    """`score-jax JOB` for the folder of a run, as it is typed."""
    return f"score-jax {job} --workdir={shlex.quote(str(run.workdir.path))}"


def render(
    runs: Sequence[Run],
    drawings: Mapping[str, str],
    palettes: tuple[Sequence[str], Sequence[str]],
    analyses: Sequence[Section] = (),
) -> str:
    """The page; the first run is its subject.

    Args:
      drawings: name -> inline SVG; {} without the plotting library.
      palettes: the colours of the runs, light and dark.
      analyses: what `score-jax analyze` found of the first run; pictures are inline SVG.
    """
    run = runs[0]
    light, dark = (
        " ".join(f"--run-{i}: {tint};" for i, tint in enumerate(palette)) for palette in palettes
    )
    body = [
        f"<header><h1>{_text(run.name)}</h1>{_sentence(run)}{_tiles(run)}</header>",
        *_warnings(runs, drawings),
        "<h2>Results</h2>",
        _headline(runs),
        *_sections(run, drawings),
        "<h2>Evaluations</h2>",
        _evaluations(runs),
        *_analyses(analyses),
        "<h2>How it was made</h2>",
        *(_provenance(entry) for entry in runs),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(run.name)} – score_jax</title>"
        f"<style>{STYLE_SHEET % {'light': light, 'dark': dark}}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _breakable(name: str) -> str:
    """May go to the next line after its separators."""
    return re.sub(r"([_/-])", r"\1<wbr>", _text(name))


def _code(value: Any) -> str:
    return f"<code>{_text(value)}</code>"


def _note(sentence: str, is_warning: bool = False) -> str:
    return f'<p class="note{" warn" if is_warning else ""}">{sentence}</p>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Cells are HTML already; the first column heads its row."""

    def cell(tag: str, index: int, content: str) -> str:
        return f"<{tag}{' class=number' if index in numbers else ''}>{content}</{tag}>"

    lines = ["".join(cell("th", index, content) for index, content in enumerate(head))]
    for row in rows:
        cells = [cell("td" if index else "th", index, content) for index, content in enumerate(row)]
        lines.append("".join(cells))
    inside = "".join(f"<tr>{line}</tr>" for line in lines[1:])
    return (
        f'<div class="scroll"><table><thead><tr>{lines[0]}</tr></thead>'
        f"<tbody>{inside}</tbody></table></div>"
    )


def _sentence(run: Run) -> str:
    config = run.config
    epochs = max((line["epoch"] for line in run.metrics), default=0)
    progress = f"{epochs:g} of {config['num_epochs']} epochs"
    return (
        f'<p class="muted">{_text(config["model"]["name"])} on {_text(config["data"]["name"])}, '
        f"objective {_text(config['objective']['name'])}, {progress}; attacks within "
        f"{_text(run.norm)} ε&nbsp;=&nbsp;{_text(run.eps)}.</p>"
    )


def _tiles(run: Run) -> str:
    official, quick = run.official_result, run.quick_result
    tiles = []
    if run.clean_accuracy is not None:
        tiles.append(("", "Clean", run.clean_accuracy, "test images as they are"))
    if quick:
        words = f"{quick['num_examples']} test images; an upper estimate"
        tiles.append(("", _pgd(quick), quick["robust_accuracy"], words))
    if official:
        words = f"{official['num_examples']} test images; the official figure"
        tiles.append(("official", "AutoAttack", official["robust_accuracy"], words))
    return '<div class="tiles">{}</div>'.format(
        "".join(
            f'<div class="{kind}">{_text(name)}<b>{percent(value)}</b><small>{words}</small></div>'
            for kind, name, value, words in tiles
        )
    )


def _pgd(result: Mapping[str, Any]) -> str:
    return f"PGD-{result['num_steps']}" if "num_steps" in result else str(result.get("attack"))


def _warnings(runs: Sequence[Run], drawings: Mapping[str, str]) -> Iterable[str]:
    if not drawings:
        install = _code("pip install 'score_jax[plots]'")
        yield _note(f"The plots are left out: they need matplotlib; {install}, then report again.")
    for run in runs:
        name = _text(run.name)
        if not run.model:
            yield _note(f"{name} has no exported model yet: {_code(command('export', run))}")
        if run.outdated:
            names = ", ".join(_code(entry) for entry in run.outdated)
            yield _note(
                f"{name}: left out are results of an earlier export ({names}); measure again.", True
            )
        if run.model and not run.official:
            yield _note(f"{name} was not judged yet: {_code(command('autoattack', run))}")
        if run.model and not run.quick:
            yield _note(f"{name} has no PGD figures yet: {_code(command('evaluate', run))}")


def _named(run: Run, index: int) -> str:
    dot = f'<span class="dot" style="background: var(--run-{index})"></span>'
    facts = f"{run.config['model']['name']}, {run.config['objective']['name']}"
    return f"{dot}{_breakable(run.name)}<small>{_breakable(facts)}</small>"


def _counted(value: float | None, result: Mapping[str, Any]) -> str:
    if not result:
        return "–"
    return f"{percent(value)}<small>n = {result['num_examples']}</small>"


def _headline(runs: Sequence[Run]) -> str:
    rows = []
    for index, run in enumerate(runs):
        official, quick = run.official_result, run.quick_result
        most = max(run.results.values(), key=lambda result: result["num_examples"], default={})
        rows.append(
            (
                _named(run, index),
                _counted(run.clean_accuracy, most),
                _counted(quick.get("robust_accuracy"), quick),
                f"<b>{_counted(official.get('robust_accuracy'), official)}</b>",
                f"{_text(run.eps)}<small>{_text(run.norm)}</small>",
                duration(run.training_seconds),
            )
        )
    steps = {_pgd(run.quick_result) for run in runs if run.quick}
    pgd = steps.pop() if len(steps) == 1 else "PGD"
    head = ("Model", "Clean", _text(pgd), "AutoAttack<small>official</small>", "ε", "Training")
    numbers = range(1, 6)
    return _table(head, rows, numbers) + (
        '<p class="muted">Accuracy on the first n test images. Robust accuracy counts an image '
        "only if every attack fails on it. AutoAttack's is the figure to report; PGD is quicker "
        "and weaker.</p>"
    )


def _figures(drawings: Mapping[str, str], names: Iterable[str]) -> str:
    shown = [f"<figure>{drawings[name]}</figure>" for name in names if name in drawings]
    return f'<div class="figures">{"".join(shown)}</div>' if shown else ""


def _sections(run: Run, drawings: Mapping[str, str]) -> Iterable[str]:
    if not drawings:
        return
    robustness = _figures(drawings, ("autoattack", "eps_curve"))
    if robustness:
        yield "<h2>Robustness</h2>"
        yield robustness
    yield "<h2>Training</h2>"
    yield _figures(drawings, ("validation", "training", "loss", "learning_rate"))
    if not run.series("val/clean_accuracy")[0]:
        yield _note("No validation yet; the next is due by config.validation.every_epochs.")
    pictures = [name for name in drawings if name.startswith("examples_")]
    if pictures:
        yield "<h2>Adversarial examples</h2>"
        yield (
            '<p class="muted">The first test image of each class, with the answer of the model '
            "below it; wrong ones are bold. In the last row grey stands for no change.</p>"
        )
        yield _figures(drawings, pictures)
    if "gradients" in drawings:
        yield "<h2>What the models look at</h2>"
        yield (
            '<p class="muted">The gradient of the cross-entropy by the clean image, each scaled to '
            "its largest value. Those of robust models tend to follow the object.</p>"
        )
        yield _figures(drawings, ("gradients",))
    if "time" in drawings:
        yield "<h2>Time</h2>"
        yield _figures(drawings, ("time",))


def _evaluations(runs: Sequence[Run]) -> str:
    rows = []
    for index, run in enumerate(runs):
        for name, result in run.results.items():
            attack = result.get("attack", "")
            version = result.get("attack_version", "")
            rows.append(
                (
                    f"{_named(run, index)}<small>{_text(name)}</small>",
                    _text(f"{attack} {version}".strip()),
                    percent(result["clean_accuracy"]),
                    percent(result["robust_accuracy"]),
                    _text(result["eps"].get("written", result["eps"].get("value"))),
                    _text(result["num_examples"]),
                    duration(result.get("seconds")),
                )
            )
    if not rows:
        return _note("No evaluation of the exported model is here yet.")
    head = ("Model, result", "Attack", "Clean", "Robust", "ε", "Images", "Time")
    return _table(head, rows, range(2, 7))


def _analyses(analyses: Sequence[Section]) -> Iterable[str]:
    if analyses:
        yield "<h2>Measurements</h2>"
    for section in analyses:
        yield f"<h3>{_text(section.title)}</h3>"
        yield from (f"<p>{_text(sentence)}</p>" for sentence in section.summary)
        if section.table:
            head, *rows = [[_text(cell) for cell in row] for row in section.table]
            yield _table(head, rows, range(1, len(head)))
        shown = [
            f"<figure>{svg}<figcaption><small>{_text(caption)}</small></figcaption></figure>"
            for caption, svg in section.pictures.items()
        ]
        yield f'<div class="figures">{"".join(shown)}</div>' if shown else ""


def _provenance(run: Run) -> str:
    record, git = run.record, run.record.get("git") or {}
    history = record.get("history") or [{}]
    commit = git.get("commit", "not known") + (", files changed" if git.get("dirty") else "")
    versions = record.get("versions") or {}
    facts = {
        "Folder": run.workdir.path,
        "Command": shlex.join(str(word) for word in record.get("argv", ())),
        "Starts": len(record.get("history", ())),
        "Last outcome": history[-1].get("outcome", "still running"),
        "Git commit": commit,
        "Devices": ", ".join(record.get("devices", ())),
        "Python": record.get("python", ""),
        "Libraries": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Exported": f"{run.model.get('checkpoint', '')} checkpoint, {run.model.get('weights', '')} "
        f"weights, step {run.model.get('step', '')}" if run.model else "",
        "Parameters": run.model.get("num_parameters", ""),
        **{f"sha256 of {name}": digest for name, digest in (run.model.get("sha256") or {}).items()},
    }  # fmt: skip
    data = {result["data_sha256"] for result in run.results.values() if "data_sha256" in result}
    facts["sha256 of the test images"] = ", ".join(sorted(data))
    rows = [(_text(name), _code(fact)) for name, fact in facts.items() if fact not in ("", None)]
    return (
        f"<details><summary>{_text(run.name)}</summary>{_table(('', ''), rows)}"
        f"<pre>{_text(json.dumps(run.config, indent=2))}</pre></details>"
    )
