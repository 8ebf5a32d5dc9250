"""Shards merged are one evaluation; what does not belong together is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch

from score_jax import artifact as artifacts
from score_jax import cli, export, models, official_autoattack, official_autoattack_merge
from score_jax.data import sources
from score_jax.types import UserError
from tests import official_autoattack_tiny as tiny
from tests.official_autoattack_runner_test import left_by, without_times

torch.set_num_threads(1)
MODEL = dict(name="cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.3,), std=(0.4,))
ATTACKS = ("apgd-ce", "square")
NUM_IMAGES = 7  # Chunks of 2, 2, 2 and 1.


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    classifier = models.create(**MODEL)
    params, batch_stats = classifier.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: 3 * leaf, params)  # Logits further apart than rounding.
    folder = export.save_artifact(
        tmp_path_factory.mktemp("run") / "export", model=MODEL, params=params,
        batch_stats=batch_stats, info=dict(dataset="digits", eps=0.015, norm="linf"),
    )  # fmt: skip
    return export.load(folder)


@pytest.fixture(scope="module")
def split(artifact):
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 8, 8, 1), dtype=np.uint8)
    logits = artifacts.logits_fn(artifact)(images.astype(np.float32) / np.float32(255))
    labels = np.asarray(logits).argmax(1).astype(np.int32)
    labels[4] = (labels[4] + 1) % 10
    return sources.Images(
        images=images, labels=labels, fingerprint="0" * 64, name="digits", split="test", path=""
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch, split):
    tiny.shorten_library(monkeypatch)
    monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)


def run(artifact, folder, **changes):
    options = dict(
        out=folder, chunk_size=2, attacks=ATTACKS, backend="torch", report=lambda line: None
    )
    return official_autoattack.run(artifact, **{**options, **changes})


def merge(artifact, folder, others=()):
    return official_autoattack_merge.merge(
        artifact, others, out=folder, report=lambda line: None
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(artifact, split, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny.shorten_library(monkeypatch)
        monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)
        folder = tmp_path_factory.mktemp("whole")
        result = run(artifact, folder, name="autoattack")
    assert 0 < result["robust_accuracy"] < result["clean_accuracy"] == 6 / 7
    return folder


@pytest.fixture(scope="module")
def shards(artifact, split, tmp_path_factory):
    """Two shards in folders of their own, one shard of another seed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny.shorten_library(monkeypatch)
        monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)
        folder = tmp_path_factory.mktemp("shards")
        for index in range(2):
            told = run(artifact, folder / str(index), shard=f"{index}/2")
            assert told == {"shard": f"{index}/2", "files": 6, "folder": str(folder / str(index))}
        run(artifact, folder / "other", shard="1/2", seed=1)
    return folder


def test_shards_of_folders_of_their_own_are_one_evaluation(artifact, tmp_path, whole, shards):
    assert not list(shards.rglob("result.json"))
    assert (shards / "0" / "log-0-of-2.txt").exists()
    merge(artifact, tmp_path / "x", [shards / "1", shards / "0"])
    assert left_by(tmp_path / "x") == left_by(whole)
    log = (tmp_path / "x" / "log.txt").read_text()
    lines = [line for line in (whole / "log.txt").read_text().splitlines() if "ETA" not in line]
    assert [line.partition(" (total")[0] for line in log.splitlines()[1:]] == [
        line.partition(" (total")[0] for line in lines[1:]
    ]
    # What was gathered goes on as if it had been computed here.
    (tmp_path / "x" / "result.json").unlink()
    run(artifact, tmp_path / "x")
    assert left_by(tmp_path / "x") == left_by(whole)


def test_shards_of_one_folder_are_one_evaluation(artifact, tmp_path, whole):
    for index in range(3):
        run(artifact, tmp_path, shard=f"{index}/3")
    first = merge(artifact, tmp_path)
    assert left_by(tmp_path) == left_by(whole)
    assert merge(artifact, tmp_path) == first


def test_what_is_missing_is_named(artifact, tmp_path, shards):
    with pytest.raises(UserError, match=r"6 of 12 files are missing \(clean-0001\.npz, clean-0003"):
        merge(artifact, tmp_path / "x", [shards / "0"])
    assert not (tmp_path / "x").exists()
    shutil.copytree(shards / "1", tmp_path / "1")
    torn = tmp_path / "1" / "chunks" / "apgd-ce-0003.npz"
    torn.write_bytes(torn.read_bytes()[:50])
    with pytest.raises(UserError, match=r"1 of 12 files are missing \(apgd-ce-0003\.npz\)"):
        merge(artifact, tmp_path / "x", [shards / "0", tmp_path / "1"])
    assert torn.exists()


def test_what_does_not_belong_together_is_refused(artifact, tmp_path, shards, whole, split):
    with pytest.raises(UserError, match="are of two evaluations .seed 0 there, 1 here"):
        merge(artifact, tmp_path / "x", [shards / "0", shards / "other"])
    with pytest.raises(UserError, match="holds no chunks of an evaluation; give an eval/NAME"):
        merge(artifact, tmp_path / "x", [tmp_path])
    with pytest.raises(UserError, match="there are no chunks to merge; name the folders"):
        merge(artifact, tmp_path / "x")
    split.labels[0] += 1
    try:
        with pytest.raises(UserError, match="not of this export and dataset .other images or lab"):
            merge(artifact, tmp_path / "x", [shards / "0", shards / "1"])
    finally:
        split.labels[0] -= 1
    assert not (tmp_path / "x").exists()


def test_the_command_line_runs_shards_and_merges_them(artifact, whole, shards, capsys):
    place = f"--artifact={artifact.path}"
    common = ["--chunk_size=2", f"--attacks={','.join(ATTACKS)}", "--backend=torch"]
    for index in range(2):
        code = cli.main(["autoattack", place, "--name=c", *common, f"--shard={index}/2"])
        assert code == 0
        assert '"then": "score-jax autoattack merge' in capsys.readouterr().out
    assert cli.main(["autoattack", "merge", place, "--name=c"]) == 0
    folder = artifact.path.parent / "eval" / "c"
    result = json.loads((folder / "result.json").read_text())
    expected = json.loads((whole / "result.json").read_text())
    assert without_times(result) == without_times({**expected, "name": "c"})
    capsys.readouterr()
    refused = [
        (["autoattack", "split", place], "unexpected 'split'; write score-jax autoattack, or"),
        (["autoattack", "merge", place, "--seed=1"], "merge takes --seed from the chunks"),
        (["autoattack", place, "--shard=2/2"], "--shard=2/2 is not one of the parts"),
        (["autoattack", place, "--norm=l3"], "value should be one of"),
        (["autoattack", place, "--name=c"], "chunk_size 2 there, 7 here"),
        (["autoattack", "merge", place, str(shards / "other"), "--name=d", "--eps=1"], "--eps"),
    ]
    for arguments, message in refused:
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
