"""Damaged checkpoints: found in every file, set aside, not deleted, and the one before is used."""

import shutil

import numpy as np
import pytest

from score_jax import checkpoint, config, workdir
from score_jax.types import UserError
from tests.checkpoint_states import abstract, assert_is, folders, numbers, state_at

KINDS = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: flip(path),
    "missing": lambda path: path.unlink(),
}
WORDS = {"truncated": "bytes, was saved with", "flipped": "other bytes than", "missing": "missing"}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 1 and 2, and the best of step 2."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    run = workdir.open_workdir(folder, config.default(), ["test"])
    checkpoints = checkpoint.Checkpoints(run, {}, keep=2)
    checkpoints.save(state_at(1), checkpoint.Best(), is_validated=True)
    checkpoints.save_best(state_at(2), {"val/clean_accuracy": 0.5})
    checkpoints.save(state_at(2), checkpoint.Best(0.5, 2), is_validated=True)
    checkpoints.close()
    return run


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved.path, tmp_path / "run")
    return workdir.find_workdir(tmp_path / "run")


def restore(run, target=None):
    checkpoints = checkpoint.Checkpoints(run, {}, keep=2)
    try:
        return checkpoints.restore(target or abstract())
    finally:
        checkpoints.close()


def files(step):
    """Every file of a step but Orbax's own record of the commit."""
    mutable = checkpoint.checkpoint_store.checkpoint_digests.UNSEALED
    return [path for path in sorted(step.rglob("*")) if path.is_file() and path.name not in mutable]


def largest(step):
    return max(files(step), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_in_every_file(run, kind):
    step = run.checkpoints / "2"
    names = [path.relative_to(step) for path in files(step)]
    assert len(names) > 8
    for name in names:
        content = (step / name).read_bytes()
        KINDS[kind](step / name)
        damage = checkpoint.checkpoint_choice.find_damage(step)
        assert damage.startswith(str(name)) and WORDS[kind] in damage
        (step / name).write_bytes(content)
    assert checkpoint.checkpoint_choice.find_damage(step) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_before_is_used_and_the_damaged_one_is_kept(run, kind, caplog):
    KINDS[kind](largest(run.checkpoints / "2"))
    restored = restore(run)
    assert_is(restored.state, 1)
    assert restored.best == checkpoint.Best()
    line = f"checkpoint {run.checkpoints / '2'} is damaged: state/"
    assert caplog.text.count(line) == 1 and WORDS[kind] in caplog.text
    assert folders(run.checkpoints) == [1] and folders(run.checkpoints / "damaged") == [2]
    # The run goes on, and may come to the same step again.
    again = checkpoint.Checkpoints(run, {}, keep=2)
    again.save(state_at(2), checkpoint.Best(), is_validated=True)
    again.close()
    KINDS[kind](largest(run.checkpoints / "2"))
    assert_is(restore(run).state, 1)
    aside = {path.name for path in (run.checkpoints / "damaged").iterdir()}
    assert aside == {"2", "2.1"}


def test_a_run_of_damaged_checkpoints_alone_does_not_begin_anew(run):
    for step in "12":
        flip(largest(run.checkpoints / step))
    for _ in range(2):  # The same command again finds no checkpoint, and the damaged ones.
        with pytest.raises(UserError, match="no checkpoint in .* is whole: .* --workdir"):
            restore(run)
    assert folders(run.checkpoints / "damaged") == [1, 2]
    assert folders(run.best) == [2]  # Not even then.
    shutil.rmtree(run.checkpoints / "damaged")
    assert restore(run) is None


def test_where_all_checkpoints_are_gone_the_best_is_kept_aside(run, caplog):
    for _ in range(2):
        for step in folders(run.checkpoints):
            shutil.rmtree(run.checkpoints / str(step))
        assert restore(run) is None
        assert folders(run.best) == []
        again = checkpoint.Checkpoints(run, {}, keep=2)  # The run begins anew.
        again.save_best(state_at(2), {"val/clean_accuracy": 0.25})
        again.close()
    assert {path.name for path in (run.best / "before").iterdir()} == {"2", "2.1"}
    assert f"moved from {run.best / '2'} to {run.best / 'before' / '2'}" in caplog.text
    kept, about = checkpoint.checkpoint_choice.read(run.best / "before" / "2")
    assert about["accuracies"] == {"val/clean_accuracy": 0.5}
    np.testing.assert_array_equal(
        kept["params"]["logits"]["kernel"], numbers(2).params["logits"]["kernel"]
    )


def test_a_best_that_is_gone_is_told(run, caplog):
    shutil.rmtree(run.best / "2")
    assert restore(run).best == checkpoint.Best()
    assert "best checkpoint so far, step 2 with a validation accuracy of 50.00%, is lost" in (
        caplog.text
    )
    assert "the selection begins anew" in caplog.text


def test_another_config_is_no_damage(run):
    message = r"2 is of another version or config: .*kernel is float32\[64, 16\], in this run .*32"
    with pytest.raises(UserError, match=message):
        restore(run, abstract(rows=32))
    assert folders(run.checkpoints) == [1, 2]


def test_another_version_is_no_damage(run):
    target = abstract()
    more = {**target.sums, "health": target.sums["train/loss"]}
    with pytest.raises(UserError, match="another version or config: it lacks sums/health"):
        restore(run, target.__class__(**{**vars(target), "sums": more}))
    with pytest.raises(UserError, match="another version or config: it has sums/train/loss"):
        restore(run, target.__class__(**{**vars(target), "sums": {}}))
    assert folders(run.checkpoints) == [1, 2]


def test_a_checkpoint_without_digests_must_be_readable(run, caplog):
    for step in "12":
        (run.checkpoints / step / "digests.json").unlink()
    assert_is(restore(run).state, 2)
    (run.checkpoints / "2" / "state" / "manifest.ocdbt").write_bytes(b"")
    assert_is(restore(run).state, 1)
    assert "2 is damaged: it cannot be read" in caplog.text


def test_a_checkpoint_without_digests_must_hold_numbers(run, caplog):
    state = state_at(3)
    broken = {"batchnorm_0": {"mean": state.batch_stats["batchnorm_0"]["mean"] * np.float32("nan")}}
    saved = checkpoint.Checkpoints(run, {}, keep=3)
    broken = state.__class__(**{**vars(state), "batch_stats": broken})
    saved.save(broken, checkpoint.Best(), is_validated=True)
    saved.close()
    (run.checkpoints / "3" / "digests.json").unlink()
    assert_is(restore(run).state, 2)
    assert "batch_stats/batchnorm_0/mean holds NaN" in caplog.text


def test_damaged_digests_are_damage(run):
    (run.checkpoints / "2" / "digests.json").write_text('{"files": [')
    assert_is(restore(run).state, 1)


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "commit_success.txt"])
def test_what_nothing_reads_may_be_damaged(run, name):
    (run.checkpoints / "2" / name).write_bytes(b"")
    assert_is(restore(run).state, 2)


def test_a_damaged_best_is_set_aside_too(run, caplog):
    flip(largest(run.best / "2"))
    with pytest.raises(UserError, match="checkpoints_best/2 is damaged: .*--checkpoint=last"):
        checkpoint.load_for_export(run, "best", "ema")
    assert folders(run.best) == [2]  # Reading moves nothing: the run may be going on.
    restored = restore(run)
    assert_is(restored.state, 2)
    assert restored.best == checkpoint.Best()
    assert folders(run.best / "damaged") == [2]
    assert "checkpoints_best/2 is damaged" in caplog.text
    assert "step 2 with a validation accuracy of 50.00%, is lost" in caplog.text


def test_half_written_checkpoints_are_removed_where_they_are_the_runs_own(run):
    (run.checkpoints / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (run.best / "3.orbax-checkpoint-tmp").mkdir()
    (run.checkpoints / "mine.orbax-checkpoint-tmp").mkdir()
    (run.checkpoints / "notes").mkdir()
    assert_is(restore(run).state, 2)
    assert {path.name for path in run.checkpoints.iterdir()} == {
        "1", "2", "mine.orbax-checkpoint-tmp", "notes",
    }  # fmt: skip
    assert {path.name for path in run.best.iterdir()} == {"2"}
