"""Prepared folders: written and read without TensorFlow, in order, and never read damaged."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from score_jax.data import builders, shards
from score_jax.data.datasets import DatasetSpec
from score_jax.data.raw_split import in_memory
from score_jax.types import UserError

SHAPE = (8, 8, 3)
CLASSES = ("cat", "dog", "frog")
SPEC = DatasetSpec(
    num_classes=3,
    image_shape=SHAPE,
    mean=(0.5, 0.5, 0.5),
    std=(0.3, 0.3, 0.3),
    split_sizes={"train": None, "test": None},
    class_names=CLASSES,
)


def random_split(count, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    labels = generator.integers(0, len(CLASSES), count).astype(np.int32)
    return images, labels


def raw(images, labels):
    parts = zip(np.array_split(images, 3), np.array_split(labels, 3), strict=True)
    return in_memory(list(parts))


def write(folder, **splits):
    raws = {name: raw(*arrays) for name, arrays in splits.items()}
    return builders.write(folder, "tiny", spec=SPEC, splits=raws, report=lambda line: None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    train, test = random_split(40), random_split(9, seed=1)
    return write(tmp_path_factory.mktemp("tiny"), train=train, test=test), train, test


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "score_jax_tiny" / "1.0.0")


def shard(folder, split="train"):
    return next(folder.glob(f"*-{split}.array_record-00000*"))


def refusal(folder, split="train"):
    with pytest.raises(UserError) as caught:
        builders.read(folder, split, SHAPE)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_what_is_written_is_read_in_its_order(written):
    folder, *splits = written
    assert folder.name == "1.0.0" and folder.parent.name == "score_jax_tiny"
    for name, (images, labels) in zip(("train", "test"), splits, strict=True):
        found_images, found_labels, fingerprint = builders.read(folder, name, SHAPE)
        np.testing.assert_array_equal(found_images, images)
        np.testing.assert_array_equal(found_labels, labels)
        assert found_images.dtype == np.uint8 and found_labels.dtype == np.int32
        assert fingerprint == builders.fingerprint(images, labels)


def test_the_order_holds_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SMALL", 0)
    monkeypatch.setattr(shards, "SHARD_BYTES", (20_000, 20_000))
    images, labels = random_split(1000)
    folder = write(tmp_path, train=(images, labels))
    assert len(list(folder.glob("*array_record-*-of-00014"))) == 14
    found, _, _ = builders.read(folder, "train", SHAPE)
    np.testing.assert_array_equal(found, images)
    again = list(builders.stored(folder, "train").blocks(345))
    np.testing.assert_array_equal(np.concatenate([x for x, _ in again]), images[345:])
    np.testing.assert_array_equal(np.concatenate([y for _, y in again]), labels[345:])


def test_tfds_itself_reads_the_folder(written):
    folder, (images, labels), _ = written
    builder = tfds.builder_from_directory(str(folder))
    source = builder.as_data_source("train")
    np.testing.assert_array_equal(source[17]["image"], images[17])
    assert source[17]["label"] == labels[17]
    assert builder.info.features["label"].names == list(CLASSES)


def test_the_fingerprint_is_of_content_not_of_blocks():
    images, labels = random_split(10)
    content = builders.ContentHash()
    content.add(images[:3], labels[:3])
    content.add(images[3:], labels[3:])
    whole = builders.fingerprint(images, labels)
    assert content.hexdigest() == whole
    assert builders.fingerprint(images, labels[::-1]) != whole
    assert builders.fingerprint(images[::-1], labels) != whole


@pytest.mark.parametrize("index", [0, 17, 39])
def test_a_flipped_byte_is_noticed(index, copy, written):
    path = shard(copy)
    content = bytearray(path.read_bytes())
    content[content.index(written[1][0][index].tobytes()) + 100] ^= 1
    path.write_bytes(content)
    assert "prepare it again" in refusal(copy)


def test_a_cut_or_missing_shard_is_noticed(copy):
    path = shard(copy)
    path.write_bytes(path.read_bytes()[:3000])
    assert "prepare it again" in refusal(copy)
    path.unlink()
    assert "prepare it again" in refusal(copy)


def test_another_content_than_was_written_is_noticed(copy, tmp_path):
    other = write(tmp_path / "other", train=random_split(40, seed=5))
    shutil.copy(shard(other), shard(copy))
    assert "was written" in refusal(copy)


def test_another_count_than_was_written_is_noticed(copy, tmp_path):
    shutil.copy(shard(copy, "test"), shard(copy))
    assert "holds 9 images" in refusal(copy)


def test_an_unknown_split_lists_the_known(copy):
    assert "no split 'validation'; it has: train, test" in refusal(copy, "validation")


def test_a_tfrecord_folder_has_a_remedy(copy):
    path = copy / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "tfrecord"}))
    message = refusal(copy)
    assert "'tfrecord'" in message and f"--source={copy}" in message


def test_a_folder_without_format_is_tfrecord(copy):
    path = copy / "dataset_info.json"
    content = json.loads(path.read_text())
    del content["fileFormat"]
    path.write_text(json.dumps(content))
    assert "tfrecord" in refusal(copy)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"splits": 3}'])
def test_damaged_descriptions_are_noticed(file, content, copy):
    (copy / file).write_text(content)
    assert "prepare it again" in refusal(copy)


class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS's own cifar10, with other images: PNG files, shuffled by key, with ids."""

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")

    def __init__(self, splits, with_ids=True, **options):
        self.splits, self.with_ids = splits, with_ids
        super().__init__(**options)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=SHAPE),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        if self.with_ids:
            features["id"] = tfds.features.Text()
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        for index, (image, label) in enumerate(zip(*self.splits[split], strict=True)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            file.seek(0)
            record = {"image": file, "label": int(label)}
            yield index, {**record, "id": f"{split}_{index:05d}"} if self.with_ids else record


def write_tfds_cifar10(folder, splits, **options):
    builder = Cifar10(splits, data_dir=str(folder), file_format="array_record", **options)
    builder.download_and_prepare()
    return builder.data_path


def test_a_folder_of_tfds_itself_is_read_in_the_official_order(tmp_path):
    images, labels = random_split(60)
    folder = write_tfds_cifar10(tmp_path, {"train": (images, labels)})
    stored = tfds.builder_from_directory(str(folder)).as_data_source("train")
    assert [record["id"] for record in stored] != [b"train_%05d" % i for i in range(60)]
    found_images, found_labels, fingerprint = builders.read(folder, "train", SHAPE)
    np.testing.assert_array_equal(found_images, images)
    np.testing.assert_array_equal(found_labels, labels)
    assert fingerprint == builders.fingerprint(images, labels)


def test_without_ids_the_stored_order_is_kept(tmp_path):
    images, labels = random_split(60)
    folder = write_tfds_cifar10(tmp_path, {"train": (images, labels)}, with_ids=False)
    stored = tfds.builder_from_directory(str(folder)).as_data_source("train")
    found, _, _ = builders.read(folder, "train", SHAPE)
    for index in (0, 31, 59):
        np.testing.assert_array_equal(found[index], stored[index]["image"])


def test_a_png_of_another_size_is_refused(tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    folder = write_tfds_cifar10(tmp_path, {"train": (images, np.zeros(4, int))})
    with pytest.raises(UserError, match="damaged"):
        builders.read(folder, "train", (32, 32, 3))


def test_tensorflow_is_not_needed(tmp_path):
    program = f"""
import sys
import numpy as np
from pathlib import Path
from score_jax.data import builders, shards
from score_jax.data.raw_split import in_memory
from tests.data_builders_test import SPEC
images, labels = np.ones((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32)
splits = {{"train": in_memory([(images, labels)])}}
folder = builders.write(Path({str(tmp_path)!r}), "tiny", spec=SPEC, splits=splits, report=print)
assert (builders.read(folder, "train", (8, 8, 3))[0] == images).all()
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["train: 4 of 4 images (100%)"]
