import json
import logging
import sys
from pathlib import Path

import pytest

from score_jax import writers
from score_jax.types import UserError

VALUES = {
    "train/loss": 1.4321,
    "train/clean_accuracy": 0.712,
    "train/adv_accuracy": 0.489,
    "train/learning_rate": 0.03123,
    "perf/images_per_second": 21304.4,
}


@pytest.fixture
def root_logger():
    """Keeps what the tests attach to the logging of the process to this test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), writers.LOGGER.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    writers.LOGGER.setLevel(level)


def writer(path, **fields):
    fields = dict(num_steps=39200, num_epochs=400, terminal=False) | fields
    return writers.Writer(path / "metrics.jsonl", **fields)


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_line_has_step_epoch_time_then_metrics(tmp_path):
    with writer(tmp_path) as out:
        out.write(98, 1.0, {"train/loss": 0.5})
        # The line is on disk before the file is closed.
        (line,) = lines(tmp_path)
    assert list(line) == ["step", "epoch", "time", "train/loss"]
    assert (line["step"], line["epoch"], line["train/loss"]) == (98, 1.0, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_becomes_null_and_is_told_on_the_console(tmp_path, value, caplog):
    with caplog.at_level(logging.INFO), writer(tmp_path) as out:
        out.write(1, 0.1, {"train/loss": value})
        out.progress(1, 0.1, {"train/loss": value})
    assert lines(tmp_path)[0]["train/loss"] is None
    assert f"loss {value}" in caplog.text


def test_going_on_drops_later_lines_and_a_torn_one(tmp_path):
    with writer(tmp_path) as out:
        for step in (10, 20, 30):
            out.write(step, 0.0, {"train/loss": float(step)})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 15, "epo')
    with writer(tmp_path, start_step=20) as out:
        assert [line["step"] for line in lines(tmp_path)] == [10, 20]
        out.write(30, 0.0, {})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_line_of_a_validation_that_comes_again_is_dropped(tmp_path):
    with writer(tmp_path) as out:
        for step in (10, 20):
            out.write(step, 0.0, {"train/loss": 1.0})
            out.write(step, 0.0, {"val/clean_accuracy": 0.5})
    with writer(tmp_path, start_step=20, is_validated=False):
        left = [("val/clean_accuracy" in line, line["step"]) for line in lines(tmp_path)]
    assert left == [(False, 10), (True, 10), (False, 20)]


def test_going_on_leaves_a_sound_file_untouched(tmp_path):
    with writer(tmp_path) as out:
        out.write(10, 0.0, {})
    before = (tmp_path / "metrics.jsonl").stat()
    writer(tmp_path, start_step=10).close()
    after = (tmp_path / "metrics.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_other_processes_write_nothing(tmp_path, caplog):
    with caplog.at_level(logging.INFO), writer(tmp_path, primary=False) as out:
        out.write(1, 0.1, VALUES)
        out.progress(1, 0.1, VALUES)
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_the_progress_line_is_the_one_people_grep(tmp_path, caplog, monkeypatch):
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(writers.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), writer(tmp_path, start_step=4670) as out:
        out.progress(4680, 11.9, VALUES)
    assert caplog.messages == [
        "epoch 12/400 step 4680/39200 loss 1.432 clean 71.2% adv 48.9% lr 0.03123 "
        "21304 images/s ETA 3d23h"
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.2, "9s"), (245, "4m05s"), (11520, "3h12m"), (90000, "1d01h"), (86400, "1d00h"), (-3, "0s")]
    + [(59.7, "1m00s"), (3599.9, "1h00m"), (float("inf"), "?")],
)
def test_durations_have_two_units(seconds, text):
    assert writers.write_duration(seconds) == text


def test_a_terminal_has_a_bar_and_the_log_file_has_the_lines(tmp_path, capsys, root_logger):
    writers.start_logging("info", tmp_path / "logs" / "host-0000.log")
    with writer(tmp_path, terminal=True) as out:
        out.progress(4680, 11.9, VALUES)
        writers.LOGGER.info("a note")
    shown = capsys.readouterr().err
    assert "━" in shown and "a note" in shown and "loss 1.432" in shown
    assert "epoch 12/400" in shown and "step 4680/39200 ETA" in shown
    assert "step 4680/39200 loss" not in shown  # The bar says it in two rows.
    log = (tmp_path / "logs" / "host-0000.log").read_text()
    assert "INFO epoch 12/400 step 4680/39200 loss 1.432" in log


def test_elsewhere_there_is_a_line_and_no_bar(tmp_path, capsys, root_logger):
    writers.start_logging("info")
    with writer(tmp_path) as out:
        out.progress(4680, 11.9, VALUES)
    assert capsys.readouterr().err.startswith("epoch 12/400 step 4680/39200 loss 1.432 ")


def test_the_console_shows_our_records_and_the_warnings_of_others(capsys, root_logger):
    writers.start_logging("info")
    writers.LOGGER.debug("hidden")
    writers.LOGGER.info("told")
    writers.LOGGER.warning("doubtful")
    logging.getLogger("orbax").info("hidden")
    logging.getLogger("orbax").warning("theirs")
    assert capsys.readouterr().err == "told\nwarning: doubtful\nwarning: theirs\n"


def test_logging_again_adds_the_file_and_keeps_the_level(tmp_path, capsys, root_logger):
    writers.start_logging("warning")
    for _ in range(2):
        writers.start_logging(file=tmp_path / "a.log")
    writers.LOGGER.info("hidden")
    writers.LOGGER.warning("once")
    assert capsys.readouterr().err == "warning: once\n"
    assert (tmp_path / "a.log").read_text().count("once") == 1


def test_a_log_on_a_full_disk_is_quiet(capsys, root_logger):
    writers.start_logging("info", file=Path("/dev/full"))
    writers.LOGGER.info("told")
    assert capsys.readouterr().err == "told\n"


def test_tensorboard_gets_the_scalars(tmp_path):
    pytest.importorskip("tensorboardX")
    with writer(tmp_path, tensorboard=tmp_path / "tb") as out:
        out.write(3, 0.1, {"train/loss": 0.25, "train/adv_accuracy": float("nan")})
    (events,) = (tmp_path / "tb").iterdir()
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"train/adv_accuracy" not in content


def test_tensorboard_without_its_library_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="log.tensorboard=True needs tensorboardX"):
        writer(tmp_path, tensorboard=tmp_path / "tb")


def test_other_processes_speak_of_trouble_alone_and_say_who_they_are(
    capsys, monkeypatch, root_logger
):
    writers.start_logging("info")
    monkeypatch.setattr(writers.CONSOLE, "process", 3)
    writers.LOGGER.info("step 7")
    writers.PROGRESS.info("step 7")
    writers.LOGGER.warning("hot")
    writers.CLUSTER.info("process 3 of 4: still waiting")
    logging.getLogger("absl").info("saving")
    assert capsys.readouterr().err == ("process 3: warning: hot\nprocess 3 of 4: still waiting\n")
