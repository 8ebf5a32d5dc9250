"""One self-contained page of a trust report: verdict, checks, remedies, drawings, thresholds."""

import html
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from score_jax.report_css import STYLE_SHEET
from score_jax.report_page import duration, percent
from score_jax.trust_check import THRESHOLDS, Check, Report

# Dark enough for text on white, light enough for text on black; each is named in words too.
LIGHTS = {
    "green": ("#00704a", "#3fd0a4"),
    "amber": ("#8a5a00", "#f0b060"),
    "red": ("#b3261e", "#ff8a80"),
    "grey": ("#66707a", "#a0abb5"),
}
BADGE = """
.badge { font-weight: 600; white-space: nowrap; }
.badge::before { content: "●"; margin-right: .4em; }
.verdict { border-left: 4px solid currentColor; padding: .2rem 0 .2rem .8rem; font-weight: 600; }
"""
# The drawings that belong together, in the order of the checks.
FIGURES = ("steps", "restarts", "radius", "loss", "gradients")
NO_PLOTS = "The plots are left out: they need matplotlib; pip install 'score_jax[plots]'."


def render(report: Report, title: str) -> str:
    """The page.

    Args:
      title: the name of the model, such as that of its run folder.
    """
    drawings, palettes = {}, ((), ())
    if importlib.util.find_spec("matplotlib") is not None:
        from score_jax import report_style, trust_plots

        drawings = trust_plots.draw(report)
        palettes = (report_style.COLORS, report_style.DARK_COLORS)
    light, dark = (
        " ".join(f"--run-{i}: {tint};" for i, tint in enumerate(palette))
        + " ".join(f" --{name}: {tints[theme]};" for name, tints in LIGHTS.items())
        for theme, palette in enumerate(palettes)
    )
    sheet = STYLE_SHEET % {"light": light, "dark": dark} + BADGE
    sheet += "".join(f".{name} {{ color: var(--{name}); }} " for name in LIGHTS)
    body = [
        f"<header><h1>Can {_text(title)} be trusted?</h1>{_sentence(report)}</header>",
        f'<p class="verdict {report.colour}">{_text(_capital(report.verdict))}.</p>',
        _tiles(report),
        "<h2>Checks</h2>",
        _checks(report.checks),
        *_figures(drawings),
        "<h2>What decides a colour</h2>",
        _thresholds(),
        "<h2>How it was made</h2>",
        _provenance(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)} – trust report – score_jax</title><style>{sheet}</style></head>"
        "<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _badge(colour: str) -> str:
    return f'<span class="badge {colour}">{colour}</span>'


def _sentence(report: Report) -> str:
    settings = report.settings
    facts = [f"{settings['model']} on {settings['dataset']}"] if "model" in settings else []
    eps = settings.get("eps_written", f"{report.eps:g}")
    facts.append(f"{report.num_examples} test images, {report.norm} eps = {eps}")
    return (
        f'<p class="muted">{_text("; ".join(facts))}. Each check looks for one reason to doubt an '
        "accuracy under attack. None found is no proof: the figure to report is the official "
        "AutoAttack's.</p>"
    )


def _tiles(report: Report) -> str:
    numbers = {check.name: check.numbers for check in report.checks}
    gap = numbers.get("gap", {})
    tiles = [
        ("Clean", numbers.get("outputs", {}).get("clean_accuracy"), "images as they are"),
        ("PGD-20", gap.get("pgd"), "cross-entropy, one random start"),
        ("Strongest", gap.get("strongest"), gap.get("source")),
    ]  # fmt: skip
    shown = "".join(
        f"<div>{_text(name)}<b>{percent(value)}</b><small>{_text(words)}</small></div>"
        for name, value, words in tiles
        if value is not None
    )
    return f'<div class="tiles">{shown}</div>'


def _checks(checks: Iterable[Check]) -> str:
    def told(check: Check) -> str:
        remedy = f"<br><b>{_text(check.remedy)}</b>" if check.remedy else ""
        return _text(_capital(check.finding)) + "." + remedy

    rows = [
        (
            _text(check.name.replace("_", " ")),
            _badge(check.colour),
            told(check),
            duration(check.seconds),
        )
        for check in checks
    ]
    return _table(("Check", "", "Finding and remedy", "Time"), rows, numbers=(3,))


def _figures(drawings: Mapping[str, str]) -> Iterable[str]:
    if not drawings:
        yield f'<p class="note">{_text(NO_PLOTS)}</p>'
        return
    shown = [f"<figure>{drawings[name]}</figure>" for name in FIGURES if name in drawings]
    yield "<h2>Attacks in pictures</h2>"
    yield f'<div class="figures">{"".join(shown)}</div>'


def _thresholds() -> str:
    rows = [
        (_text(name.replace("_", " ")), f"{entry.amber:g}", f"{entry.red:g}", _text(entry.reason))
        for name, entry in THRESHOLDS.items()
    ]
    head = ("Number", "Amber above", "Red above", "What it is, and why")
    table = _table(head, rows, numbers=(1, 2))
    return f"<details><summary>{len(rows)} thresholds</summary>{table}</details>"


def _provenance(report: Report) -> str:
    found = report.to_dict()
    facts = {
        "sha256 of the model": found.get("model_sha256"),
        "sha256 of the test images": found.get("data_sha256"),
        "Seed": str(report.seed),
        "Devices": ", ".join(found.get("devices", ())),
        "Libraries": ", ".join(f"{n} {v}" for n, v in found.get("versions", {}).items()),
        "Time": duration(found.get("seconds")) if "seconds" in found else "",
    }
    rows = [(_text(name), f"<code>{_text(fact)}</code>") for name, fact in facts.items() if fact]
    dumped = json.dumps({check["name"]: check["numbers"] for check in found["checks"]}, indent=2)
    return (
        f"{_table(('', ''), rows)}<details><summary>All numbers</summary>"
        f"<pre>{_text(dumped)}</pre></details>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Cells are HTML already; the first column heads its row."""

    def cell(tag: str, index: int, content: str) -> str:
        return f"<{tag}{' class=number' if index in numbers else ''}>{content}</{tag}>"

    top = "".join(cell("th", index, content) for index, content in enumerate(head))
    lines = ""
    for row in rows:
        cells = [cell("td" if index else "th", index, content) for index, content in enumerate(row)]
        lines += f"<tr>{''.join(cells)}</tr>"
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )
