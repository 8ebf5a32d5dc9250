"""Writing a dataset: what is refused, what is noted of it, and what is not read twice."""

import hashlib

import numpy as np
import pytest

from score_jax.data import builders, content, shards, unfinished
from score_jax.data.raw_split import RawSplit, in_memory
from score_jax.types import UserError
from tests.data_builders_test import SHAPE, SPEC, random_split, raw


def write(folder, splits, **options):
    return builders.write(
        folder, "tiny", spec=SPEC, splits=splits, report=lambda line: None, **options
    )


def test_the_facts_tell_of_images_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SMALL", 0)
    monkeypatch.setattr(shards, "SHARD_BYTES", (20_000, 20_000))
    splits = {"train": random_split(300), "test": random_split(40, seed=1)}
    noted = [{"name": "a.npz", "size": 5}]
    raws = {name: raw(*arrays) for name, arrays in splits.items()}
    folder = write(tmp_path, raws, sources=noted)
    facts = builders.facts(folder)
    assert facts["counts"] == {"train": 300, "test": 40} and facts["sources"] == noted
    for name, (images, labels) in splits.items():
        assert facts["fingerprints"][name] == builders.fingerprint(images, labels)
        assert facts["class_counts"][name] == np.bincount(labels, minlength=3).tolist()
        pixels = images.reshape(-1, 3) / 255
        np.testing.assert_allclose(facts["mean"][name], pixels.mean(0), rtol=1e-12)
        np.testing.assert_allclose(facts["std"][name], pixels.std(0), rtol=1e-9)
        for shard in facts["shards"][name]:
            file = (folder / shard["file"]).read_bytes()
            sha256 = hashlib.sha256(file).hexdigest()
            assert (shard["size"], shard["sha256"]) == (len(file), sha256)
        assert sum(shard["count"] for shard in facts["shards"][name]) == len(labels)
    assert len(facts["shards"]["train"]) == 5
    assert facts["spec"]["split_sizes"] == {"train": 300, "test": 40}
    assert facts["spec"]["mean"] == list(SPEC.mean) and facts["spec"]["image_shape"] == list(SHAPE)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"fingerprints": {"train": 3}}',
                '{"fingerprints": {}, "shards": {"train": [{"file": "../x", "count": 1}]}}'],
)  # fmt: skip
def test_damaged_facts_are_told(text, tmp_path):
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(UserError, match="metadata.json is missing or damaged .* prepare it again"):
        builders.facts(tmp_path)


def test_a_split_that_is_not_there_is_told(tmp_path):
    folder = write(tmp_path, {"train": raw(*random_split(9))})
    with pytest.raises(UserError, match="does not tell of shards in split 'test'"):
        builders.stored(folder, "test")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda images, labels: (images[:, :4], labels), "images of uint8 and shape"),
        (lambda images, labels: (images.astype(np.float32), labels), "images of float32"),
        (lambda images, labels: (images, labels + 1), "has label 3 where 2 is the largest"),
        (lambda images, labels: (images, labels - 1), "has label -1 where 2 is the largest"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(change, part, tmp_path):
    images, labels = random_split(30)
    with pytest.raises(UserError, match=part):
        write(tmp_path, {"train": in_memory([change(images, labels)])})
    assert not list(tmp_path.rglob("dataset_info.json"))


@pytest.mark.parametrize(("count", "part"), [(29, "more images than 29"), (31, "has 30 images")])
def test_another_count_than_the_source_said_is_refused(count, part, tmp_path):
    whole = raw(*random_split(30))
    with pytest.raises(UserError, match=part):
        write(tmp_path, {"train": RawSplit(count, whole.blocks)})


def test_a_split_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="has 0 images"):
        write(tmp_path, {"train": in_memory([])})


def test_images_that_stand_alone_are_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SMALL", 0)
    monkeypatch.setattr(shards, "SHARD_BYTES", (60_000, 60_000))
    images, labels = random_split(2000)
    asked, stop = [], 1050

    def blocks(start):
        for index in range(start, 2000, 50):
            if index >= stop:
                raise KeyboardInterrupt
            asked.append(index)
            yield images[index : index + 50], labels[index : index + 50]

    split = {"train": RawSplit(2000, blocks, independent=True)}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, split)
    log = unfinished.ShardLog(tmp_path / builders.relative_path("tiny"))
    assert [facts.count for facts in log.whole.values()] == [200] * 5
    (log.folder / list(log.whole)[1]).unlink()
    asked, stop = [], 2000
    found, found_labels, fingerprint = builders.read(write(tmp_path, split), "train", SHAPE)
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(found_labels, labels)
    assert fingerprint == builders.fingerprint(images, labels)
    assert asked == [*range(200, 400, 50), *range(1000, 2000, 50)]


def test_labels_that_do_not_fit_in_memory_are_kept_in_an_unnamed_file(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "IN_MEMORY", 40)
    images, labels = random_split(30)
    found = content.ContentHash(tmp_path)
    for stop in (10, 20, 30):
        found.add(images[stop - 10 : stop], labels[stop - 10 : stop])
        assert found.hexdigest() == content.fingerprint(images[:stop], labels[:stop])
    assert found._labels._rolled and list(tmp_path.iterdir()) == []


def test_linked_folders_count_as_sources_and_loops_end(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "0.png").write_bytes(b"0")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "ant").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "loop").symlink_to(tmp_path / "near")
    source = str(tmp_path / "near")
    before = unfinished.source_key("pets", [source], {})
    assert unfinished.source_files([source]) == [{"name": "near", "size": 1}]
    (tmp_path / "far" / "0.png").write_bytes(b"01")
    assert unfinished.source_key("pets", [source], {}) != before
