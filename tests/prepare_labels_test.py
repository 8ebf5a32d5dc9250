"""Pseudo-labels: the network's own answers, in a file that training takes, whole or not there."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from score_jax import artifact as artifacts
from score_jax import cli, prepare_labels
from score_jax import config as config_module
from score_jax.data import pipeline, sources
from score_jax.data.datasets import DATASETS
from score_jax.data.sources import Images
from score_jax.types import UserError

COUNT = 70


class Linear:
    """A network that is quick to compile."""

    def logits(self, params, batch_stats, images):
        return images.reshape(len(images), -1) @ params["weights"]


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """What stands in the place of an exported model: its folder's name."""
    weights = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
    spec = dict(
        model=dict(image_shape=[8, 8, 1], num_classes=10), sha256={artifacts.WEIGHTS: "5ba256"}
    )
    loaded = artifacts.Artifact(
        classifier=Linear(), params={"weights": weights}, batch_stats={}, spec=spec,
        path=Path("/model"),
    )  # fmt: skip
    load = artifacts.load
    monkeypatch.setattr(artifacts, "load", lambda path: loaded if path == "/model" else load(path))
    return weights


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """A generated set of 70 images, which add to the digits."""
    generator = np.random.default_rng(0)
    split = Images(
        images=generator.integers(0, 256, (COUNT, 8, 8, 1)).astype(np.uint8),
        labels=generator.integers(0, 10, COUNT).astype(np.int32),
        fingerprint="da7a" * 16, name="made", split="train", path="",
    )  # fmt: skip
    spec = dataclasses.replace(DATASETS["digits"], extends="digits", split_sizes={"train": None})
    monkeypatch.setitem(DATASETS, "made", spec)
    monkeypatch.setattr(sources, "train_source", lambda name, *_: split)
    return split


def answers(network, images):
    return np.asarray(jax.nn.softmax((images / np.float32(255)).reshape(-1, 64) @ network))


def test_the_file_holds_the_networks_answers(network, made, tmp_path, capsys):
    file = tmp_path / "made.npz"
    facts = prepare_labels.label("made", "/model", str(file), batch_size=32)
    expected = answers(network, made.images)
    with np.load(file) as found:
        assert (found["label"].dtype, found["confidence"].dtype) == (np.int32, np.float32)
        np.testing.assert_array_equal(found["label"], expected.argmax(1))
        np.testing.assert_allclose(found["confidence"], expected.max(1), atol=1e-5)
        assert str(found["fingerprint"]) == made.fingerprint
    assert len(np.unique(expected.argmax(1))) > 2
    assert facts["images"] == COUNT
    assert facts["mean_confidence"] == pytest.approx(expected.max(1).mean(), abs=1e-4)
    assert facts["as_in_the_set"] == round((expected.argmax(1) == made.labels).mean(), 4)
    assert "made: labelled 70 of 70 images (100%)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_training_takes_the_file(network, made, tmp_path, monkeypatch):
    file = str(tmp_path / "made.npz")
    assert cli.main(["data", "label", "made", "--artifact=/model", f"--out={file}"]) == 0
    digits = dataclasses.replace(made, name="digits")
    held = {"digits": digits, "made": made}
    monkeypatch.setattr(sources, "train_source", lambda name, *_: held[name])
    config = config_module.default()
    config.data.update(
        name="digits", generated="made", pseudo_labels=file, batch_size=20, validation_size=10
    )
    data = pipeline.open_training_data(config)
    expected = answers(network, made.images).argmax(1)
    np.testing.assert_array_equal(data.sources[1].labels, expected)


def test_what_is_labelled_is_not_labelled_again(network, made, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_labels, "PART", 30)
    file, asked = tmp_path / "made.npz", []

    def take(self, indices):
        asked.append(int(indices[0]))
        if stops and indices[0] >= 60:
            raise KeyboardInterrupt
        return made.images[indices], made.labels[indices]

    monkeypatch.setattr(Images, "take", take)
    for stops in (True, True, False):
        asked.clear()
        with pytest.raises(KeyboardInterrupt) if stops else open("/dev/null"):
            prepare_labels.label("made", "/model", str(file), batch_size=32)
        assert not stops or not file.exists()
    assert asked == [60] and [path.name for path in tmp_path.iterdir()] == ["made.npz"]
    with np.load(file) as found:
        expected = answers(network, made.images).argmax(1)
        np.testing.assert_array_equal(found["label"], expected)


@pytest.mark.parametrize("damage", ["cut", "changed", "other network"])
def test_parts_that_are_not_whole_or_of_another_network_are_done_again(
    damage, network, made, tmp_path
):
    parts = tmp_path / ".made.npz.parts"
    parts.mkdir()
    identity = dict(
        format="score_jax pseudo-labels",
        dataset="made",
        fingerprint=made.fingerprint,
        model_sha256="5ba256",
    )
    wrong = np.zeros(COUNT, [("label", np.int32), ("confidence", np.float32)])
    prepare_labels._save_part(parts / "000000000000", wrong)
    content = bytearray((parts / "000000000000").read_bytes())
    if damage == "cut":
        del content[-8:]
    elif damage == "changed":
        content[-8] ^= 1
    else:
        identity["model_sha256"] = "another"
    (parts / "000000000000").write_bytes(content)
    (parts / "labelling.json").write_text(json.dumps(identity))
    prepare_labels.label("made", "/model", str(tmp_path / "made.npz"))
    with np.load(tmp_path / "made.npz") as found:
        expected = answers(network, made.images).argmax(1)
        np.testing.assert_array_equal(found["label"], expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="digits"), "digits has labels of its own"),
        (dict(name="none"), "unknown dataset 'none'"),
        (dict(out=""), "--out=FILE.npz is needed"),
        (dict(out="there.npz"), "there.npz is there already; move it away"),
        (dict(out="/proc/none/made.npz"), "cannot be written"),
        (dict(artifact="/nowhere"), "/nowhere holds no model.json"),
        (dict(name="cifar10_ddpm"), r"takes images of \(8, 8, 1\) in 10 classes and cifar10_ddpm"),
    ],
)
def test_what_cannot_be_labelled_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").touch()
    fields = dict(name="made", artifact="/model", out="made.npz") | arguments
    with pytest.raises(UserError, match=message) as caught:
        prepare_labels.label(**fields)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["label", "made", "--out=f.npz"], "--artifact=DIR is needed"),
        (["list", "--artifact=f"], "--artifact is for `data label`"),
    ],
)
def test_flags_that_are_missing_or_of_another_action(words, message, capsys):
    assert cli.main(["data", *words]) == 2
    assert message in capsys.readouterr().err
