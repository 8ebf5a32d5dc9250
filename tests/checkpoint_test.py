"""Checkpoints: what is kept, what comes back, what a save in the background may not change."""

import errno
import os
import resource
import shutil
import sys
import time
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from score_jax import checkpoint, config, workdir
from score_jax.types import UserError
from tests.checkpoint_states import (
    abstract,
    assert_is,
    folders,
    layout,
    numbers,
    shardings,
    state_at,
)


@pytest.fixture
def run(tmp_path):
    return workdir.open_workdir(tmp_path / "run", config.default(), ["test"])


def saved_at(run, *steps, keep=2, is_validated=True, sharding=None):
    """Checkpoints of these steps, on the disk."""
    checkpoints = checkpoint.Checkpoints(run, {"seed": 7}, keep)
    for step in steps:
        checkpoints.save(state_at(step, sharding), checkpoint.Best(), is_validated=is_validated)
    checkpoints.close()


def restore(run, target=None, keep=2):
    checkpoints = checkpoint.Checkpoints(run, {}, keep)
    try:
        return checkpoints.restore(target or abstract())
    finally:
        checkpoints.close()


def test_newest_comes_back_with_the_best_score(run):
    saved = checkpoint.Checkpoints(run, {"seed": 0}, keep=2)
    saved.save_best(state_at(2), {})
    for step in (1, 2, 3):
        saved.save(state_at(step), checkpoint.Best(0.25, 2), is_validated=step == 3)
    saved.wait()
    assert folders(run.checkpoints) == [2, 3] and checkpoint.latest_step(run.path) == 3
    restored = saved.restore(abstract())
    assert (restored.best, restored.is_validated) == (checkpoint.Best(0.25, 2), True)
    assert_is(restored.state, 3)
    assert restored.state.params["logits"]["kernel"].sharding == layout()
    saved.close()


def test_a_validation_that_is_still_due_is_remembered(run):
    saved_at(run, 1, is_validated=False)
    assert restore(run).is_validated is False


def test_a_checkpoint_of_an_older_version_is_validated(run):
    saved_at(run, 1)
    about, step = run.checkpoints / "1" / "about" / "metadata", run.checkpoints / "1"
    about.write_text(about.read_text().replace('"is_validated": true, ', ""))
    (step / "digests.json").unlink()
    restored = restore(run)
    assert restored.is_validated is True
    assert_is(restored.state, 1)


def test_fresh_run_has_nothing_to_restore(run):
    assert restore(run) is None
    assert checkpoint.latest_step(run.path) is None


def test_what_is_saved_is_the_state_of_that_moment(run):
    """The next steps get the same buffers, donated; the copy may be a view of them on the CPU."""
    saved = checkpoint.Checkpoints(run, {}, keep=9)
    # Buffers of a program's own, as a step's are: those of `device_put` may never be reused.
    copy = jax.jit(lambda tree: jax.tree.map(lambda x: x + 0, tree))
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = copy(state_at(1, rows=4096))
    # Two matrices in parts and one whole: split, and replicated arrays are copied differently.
    split = shardings(state, layout(spec=PartitionSpec("fsdp")))
    parts = dict(params=split.params, opt_state=split.opt_state)
    state = copy(jax.device_put(state, split.__class__(**{**vars(split), **parts})))
    for _ in range(3):
        saved.save(state, checkpoint.Best(), is_validated=True)
        saved.save_best(state, {})
        for _ in range(50):
            state = advance(state)
    saved.close()
    for step in (1, 51, 101):
        wanted = jax.tree.map(lambda x: x + 0, numbers(1, rows=4096))
        for _ in range(step - 1):
            wanted = jax.tree.map(lambda x: (x + 1).astype(x.dtype), wanted)
        found, _ = checkpoint.checkpoint_choice.read(run.checkpoints / str(step))
        for name in ("params", "ema_params", "batch_stats"):
            jax.tree.map(np.testing.assert_array_equal, found[name], getattr(wanted, name))
    best = checkpoint.load_for_export(run, "best", "live")
    jax.tree.map(np.testing.assert_array_equal, best["params"], wanted.params)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("fsdp")], ids=["whole", "split"])
def test_split_state_loads_on_other_devices(run, devices, spec):
    saved_at(run, 5, sharding=layout(spec=PartitionSpec("fsdp")))
    target = abstract(layout(devices, spec))
    state = restore(run, target).state
    assert_is(state, 5)
    assert state.params["logits"]["kernel"].sharding == layout(devices, spec)


def test_best_replaces_the_best_and_reads_back_on_the_host(run):
    saved = checkpoint.Checkpoints(run, {"seed": 7}, keep=1)
    for step in (1, 2):
        saved.save_best(state_at(step), {"val/clean_accuracy": step / 4})
    saved.save_best(state_at(2), {"val/clean_accuracy": 0.9})  # Already there: stays.
    saved.close()
    assert folders(run.best) == [2]
    loaded = checkpoint.load_for_export(run, "best", "live")
    assert loaded["step"] == 2 and loaded["accuracies"] == {"val/clean_accuracy": 0.5}
    assert loaded["config"] == {"seed": 7}
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], numbers(2).params)
    assert isinstance(loaded["params"]["logits"]["kernel"], np.ndarray)


def test_best_selected_after_the_restored_state_is_forgotten(run):
    """It belongs to steps that are now done anew, perhaps with other results."""
    saved = checkpoint.Checkpoints(run, {}, keep=1)
    saved.save(state_at(1), checkpoint.Best(0.5, 1), is_validated=True)
    saved.save_best(state_at(4), {})
    saved.close()
    saved = checkpoint.Checkpoints(run, {}, keep=1)
    assert saved.restore(abstract()).best == checkpoint.Best()
    assert folders(run.best) == []
    saved.save_best(state_at(3), {})
    saved.close()
    assert folders(run.best) == [3]


def test_a_checkpoint_waits_for_the_best_that_it_names(run, monkeypatch):
    """Committed before it, a kill between the two would lose the best for good."""
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    commits = []
    write = checkpoint.checkpoint_store.checkpoint_digests.write

    def slow(folder):
        commits.append(folder.parent.name)
        if folder.parent == run.best:
            time.sleep(0.5)
        write(folder)

    monkeypatch.setattr(checkpoint.checkpoint_store.checkpoint_digests, "write", slow)
    saved.save_best(state_at(1), {})
    saved.save(state_at(1), checkpoint.Best(0.5, 1), is_validated=True)
    saved.close()
    assert commits == ["checkpoints_best", "checkpoints"]


def test_exporting_leaves_a_save_in_progress_alone(run):
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    saved.save_best(state_at(1), {})
    saved.close()
    unfinished = run.best / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert checkpoint.load_for_export(run, "best", "ema")["step"] == 1
    assert unfinished.is_dir()


@pytest.mark.parametrize(
    "which, weights, message",
    [
        ("best", "ema", "holds no checkpoint; train first"),
        ("first", "ema", "checkpoints are best and last"),
        ("last", "raw", "weights are ema and live"),
    ],
)
def test_missing_checkpoints_are_refused(run, which, weights, message):
    with pytest.raises(UserError, match=message):
        checkpoint.load_for_export(run, which, weights)


def test_a_save_that_the_storage_refuses_is_one_line(run):
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    saved.save(state_at(1), checkpoint.Best(), is_validated=True)
    saved.wait()
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, allowed[1]))
    try:
        saved.save(state_at(2, rows=4096), checkpoint.Best(), is_validated=True)
        with pytest.raises(UserError, match=r"2 could not be written \(File too large\); the ear"):
            while True:
                saved.check()  # Tells as soon as it is known: nobody waits for it.
                time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    saved.wait()  # Told once.
    saved.close()
    assert [path.name for path in run.checkpoints.iterdir()] == ["1"]
    assert_is(restore(run).state, 1)


def test_a_failed_save_is_told_by_whoever_waits(run, monkeypatch, caplog):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.checkpoint_store.checkpoint_digests, "write", full)
    message = r"1 could not be written \(No space left on device\); .* make room"
    for waits in ("wait", "save"):
        saved = checkpoint.Checkpoints(run, {}, keep=2)
        saved.save_best(state_at(1), {})
        saved.save(state_at(1), checkpoint.Best(), is_validated=True)
        with pytest.raises(UserError, match=message):
            saved.wait() if waits == "wait" else saved.save_best(state_at(2), {})
        saved.close()
    assert "could not be written" not in "".join(r.message for r in caplog.records if ours(r))
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    saved.save(state_at(1), checkpoint.Best(), is_validated=True)
    saved.close()  # An error is on its way: this one is a line, and raises nothing.
    assert "could not be written" in "".join(r.message for r in caplog.records if ours(r))


def test_late_callbacks_of_a_failed_save_are_quiet(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable))
    for _ in range(2):
        checkpoint.checkpoint_store.drop_late_callbacks()
    for words in ("Event loop is closed", "another"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(words)))
    assert [str(unraisable.exc_value) for unraisable in told] == ["another"]


def ours(record):
    return record.name == "score_jax"


def test_save_that_does_not_fit_is_not_begun(run, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(
        checkpoint.checkpoint_store.shutil, "disk_usage", lambda path: usage._replace(free=1000)
    )
    saved = checkpoint.Checkpoints(run, {}, keep=2)
    with pytest.raises(UserError, match="No space left on device"):
        saved.save(state_at(1), checkpoint.Best(), is_validated=True)
    saved.close()
    assert not list(run.checkpoints.iterdir())
