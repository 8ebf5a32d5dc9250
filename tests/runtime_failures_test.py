"""What the runtime's failures become: mended by the user, started again, or a bug."""

import jax
import pytest

from score_jax import cli, runtime_failures
from score_jax.command_line import Job


def failure(text: str) -> Exception:
    return jax.errors.JaxRuntimeError(text)


@pytest.mark.parametrize(
    "text, code, words",
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes", 2, "config.data.microbatches"),
        ("INTERNAL: TPU slice lost health", 75, "the same command goes on"),
        ("UNAVAILABLE: connection reset", 75, "connection reset"),
        ("DATA_LOSS: a cable", 75, "a cable"),
    ],
)
def test_a_failure_is_a_line_and_a_code(text, code, words):
    found, line = runtime_failures.describe(failure(text))
    assert found == code and words in line and "\n" not in line


@pytest.mark.parametrize("error", [failure("INVALID_ARGUMENT: shapes"), ValueError("INTERNAL")])
def test_mistakes_of_the_program_are_not_told_as_failures(error):
    assert runtime_failures.describe(error) is None


def run(job_flags: tuple[str, ...], text: str, monkeypatch) -> int:
    def fail(call):
        raise failure(text)

    monkeypatch.setitem(cli.JOBS, "failing", Job("Fails.", "", job_flags, fail))
    return cli.main(["failing"])


def test_a_run_asks_for_a_restart_and_another_job_shows_its_traceback(monkeypatch, capsys):
    text = "INTERNAL: a device failed"
    assert run(cli.CLUSTER, text, monkeypatch) == 75
    assert capsys.readouterr().err.strip().startswith("score-jax failing: the runtime failed")
    with pytest.raises(jax.errors.JaxRuntimeError):
        run((), text, monkeypatch)
    assert run((), "RESOURCE_EXHAUSTED: too much", monkeypatch) == 2
