"""`score-jax analyze table`: the seeds' columns for any set of runs, measured alike."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from score_jax.analysis import jobs, table, table_tasks, table_words
from score_jax.analysis.finding import Finding
from score_jax.analysis.table import Protocol
from score_jax.command_line import Call, UsageError
from score_jax.command_line_run import radius_of
from score_jax.report_run import Run
from score_jax.workdir import write_text_atomic
from score_jax.writers import LOGGER


def run(call: Call) -> Iterator[Finding]:
    """One line a run; what is missing is measured first, unless that is not wanted."""
    folders = [*([call.workdir] if call.workdir else []), *_folders(call.runs)]
    if not folders:
        raise UsageError("--runs=DIR,DIR is needed: folders of runs, or folders that hold them")
    runs = table.read(folders)
    protocol = Protocol(
        num_examples=call.num_examples, eps=_radius(call, runs), data_dir=call.data_dir,
        seed=call.seed, batch_size=call.batch_size,
    )  # fmt: skip
    if call.measure:
        table_tasks.measure(runs, protocol)
    told = found(folders, protocol, jobs.folder_of(call))
    if call.workdir:  # It belongs to the report of this run, as long as its export is the same.
        told = replace(told, facts={**told.facts, "model_sha256": runs[0].model_sha256})
    yield told


def _radius(call: Call, runs: Sequence[Run]) -> float | None:
    """The --eps of all; one radius is none for several norms."""
    norms = sorted({run.config["norm"] for run in runs})
    if call.eps and len(norms) > 1:
        raise UsageError(
            f"--eps={call.eps} is no radius of several norms ({', '.join(norms)}); leave it out, "
            "or give runs of one norm"
        )
    eps = radius_of(call, "", norms[0])
    if eps is not None and not 0 < eps < float("inf"):
        raise UsageError(f"--eps={call.eps} leaves nothing to attack; give one such as 8/255")
    return eps


def _folders(parts: Sequence[str]) -> Iterator[str]:
    """What a list cut at commas names; folders of a sweep have commas in their own names."""
    rest = list(parts)
    while rest:
        ends = range(len(rest), 0, -1)
        size = next((end for end in ends if Path(",".join(rest[:end])).is_dir()), 1)
        yield ",".join(rest[:size])
        del rest[:size]


def found(folders: Sequence[str | Path], protocol: Protocol, out: Path) -> Finding:
    """The finding about the runs of some folders, as they are; also writes its table.md."""
    rows = [table.row(run, protocol) for run in table.read(folders)]
    finding = table_words.finding(rows, protocol)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{finding.name}.md"
    write_text_atomic(path, table_words.markdown(finding.table))
    LOGGER.info("the table as Markdown: %s", path)
    return finding
