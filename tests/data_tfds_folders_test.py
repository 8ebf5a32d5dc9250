"""Folders that TFDS prepared, in both its formats, as the source of a dataset."""

import io
import shutil
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from score_jax import prepare
from score_jax.data import mnist, readers, record_files, sources, tfds_folders
from score_jax.types import UserError
from tests import official_files
from tests.helpers import whole

SHAPE = (32, 32, 3)
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def random_split(count, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return images, generator.permutation(np.arange(count) % 10)


def example(image, label, name, kind):
    record = tf_example_pb2.Example()
    feature = record.features.feature
    if kind == "png":
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        feature["image"].bytes_list.value.append(content.getvalue())
    elif kind == "bytes":
        feature["image"].bytes_list.value.append(image.tobytes())
    else:
        feature["image"].int64_list.value.extend(image.ravel().tolist())
    feature["label"].int64_list.value.append(int(label))
    if name:
        feature["id"].bytes_list.value.append(name.encode())
    return record.SerializeToString()


def write_records(path, form, records):
    if form == "array_record":
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return
    lengths = [struct.pack("<Q", len(record)) for record in records]
    crcs = [record_files.masked_crc32c(parts) for parts in (lengths, records)]
    with path.open("wb") as file:
        for length, record, first, second in zip(lengths, records, *crcs, strict=True):
            file.write(length + struct.pack("<I", first) + record + struct.pack("<I", second))


def write_tfds(folder, splits, form="tfrecord", kind="png", ids=True, shards=2):
    """A folder as TFDS writes it: shuffled records in shards, features.json, dataset_info.json."""
    image = tfds.features.Image(shape=SHAPE)
    if kind != "png":
        encoding = "bytes" if kind == "bytes" else None
        image = tfds.features.Tensor(shape=SHAPE, dtype=np.uint8, encoding=encoding or "none")
    features = {"image": image, "label": tfds.features.ClassLabel(names=CLASSES)}
    if ids:
        features["id"] = tfds.features.Text()
    folder.mkdir(parents=True)
    infos = []
    for split, (images, labels) in splits.items():
        order = np.random.default_rng(7).permutation(len(labels))
        records = [example(images[i], labels[i], ids and f"{split}_{i:05d}", kind) for i in order]
        parts = np.array_split(np.arange(len(records)), shards)
        for shard, part in enumerate(parts):
            name = f"toy-{split}.{form}-{shard:05d}-of-{shards:05d}"
            write_records(folder / name, form, [records[i] for i in part])
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(part) for part in parts],
                num_bytes=0,
                filename_template=tfds.core.ShardedFileTemplate(
                    dataset_name="toy",
                    data_dir=folder,
                    split=split,
                    filetype_suffix=form,
                ),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=tfds.features.FeaturesDict(features),
        split_infos=infos,
        check_data=False,
    )
    return folder, order


@pytest.fixture
def splits():
    return {"train": random_split(40), "test": random_split(20, seed=1)}


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        for raw in readers.read_source(*arguments)[1].values():
            whole(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["tfrecord", "array_record"])
@pytest.mark.parametrize("kind", ["png", "bytes", "numbers"])
def test_a_known_dataset_comes_in_the_official_order(form, kind, splits, tmp_path, monkeypatch):
    official_files.shrink(monkeypatch, "cifar10", train=40, test=20)
    monkeypatch.setattr(tfds_folders, "BLOCK", 30)
    folder, _ = write_tfds(tmp_path / "cifar10" / "3.0.2", splits, form, kind)
    spec, found = readers.read_source("cifar10", [str(folder)])
    assert spec == sources.DATASETS["cifar10"] and list(found) == ["train", "test"]
    for split, (images, labels) in splits.items():
        read_images, read_labels = whole(found[split])
        np.testing.assert_array_equal(read_images, images)
        np.testing.assert_array_equal(read_labels, labels)
    _, found = readers.read_source("cifar10", [str(folder.parent)])
    later = list(found["train"].blocks(5))
    np.testing.assert_array_equal(np.concatenate([x for x, _ in later]), splits["train"][0][5:])


def test_without_ids_the_order_is_that_of_the_records(splits, tmp_path):
    folder, order = write_tfds(tmp_path / "1.0.0", {"train": splits["train"]}, ids=False)
    spec, found = readers.read_source("own", [str(folder)])
    assert spec.class_names == tuple(CLASSES) and spec.split_sizes == {"train": 40}
    np.testing.assert_array_equal(whole(found["train"])[0], splits["train"][0][order])


def test_encoded_images_are_brought_to_a_size_and_others_have_one(splits, tmp_path):
    folder, _ = write_tfds(tmp_path / "a", {"train": splits["train"]}, kind="png")
    for size in (16, 32):
        spec, found = readers.read_source("own", [str(folder)], size=size)
        assert spec.image_shape == (size, size, 3)
        assert whole(found["train"])[0].shape == (40, size, size, 3)
    folder, _ = write_tfds(tmp_path / "b", {"train": splits["train"]}, kind="bytes")
    _, found = readers.read_source("own", [str(folder)], size=32)
    assert whole(found["train"])[0].shape == (40, 32, 32, 3)
    with pytest.raises(UserError, match="not files that --size could bring to a size"):
        whole(readers.read_source("own", [str(folder)], size=16)[1]["train"])


def test_the_newest_version_is_taken(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "dataset_info.json").write_text("{}")
    assert tfds_folders.tfds_folder(tmp_path) == tmp_path / "1.10.0"
    assert tfds_folders.tfds_folder(tmp_path / "1.9.0") == tmp_path / "1.9.0"
    assert tfds_folders.tfds_folder(tmp_path / "none") is None


def test_another_dataset_is_refused(splits, tmp_path, monkeypatch):
    folder, _ = write_tfds(tmp_path / "a", splits)
    assert "holds 40 train images where cifar10 has 50000" in refusal("cifar10", [str(folder)])
    assert "shape (32, 32, 3) where mnist has (28, 28, 1)" in refusal("mnist", [str(folder)])
    assert "holds 10 classes where cifar100 has 100" in refusal("cifar100", [str(folder)])
    folder, _ = write_tfds(tmp_path / "b", {"test": splits["test"]})
    assert "has no split 'train'; it has test" in refusal("cifar10", [str(folder)])
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    for path in (tmp_path / "c").glob("*.json"):
        path.write_text(path.read_text().replace('"label"', '"class"'))
    assert "an `image` and a `label` with classes are needed" in refusal(
        "cifar10", [str(tmp_path / "c")]
    )


def test_classes_of_another_name_are_refused(splits, tmp_path, monkeypatch):
    official_files.shrink(monkeypatch, "cifar10", train=40, test=20)
    folder, _ = write_tfds(tmp_path / "a", splits)
    names = folder / "label.labels.txt"
    names.write_text(names.read_text().replace("cat", "lion"))
    told = "has a class 'lion' where cifar10 has 'cat'; it is another dataset"
    assert told in refusal("cifar10", [str(folder)])
    names.write_text("\n".join("0123456789") + "\n")
    assert readers.read_source("cifar10", [str(folder)])[1]["train"].count == 40


def test_a_folder_of_fashion_mnist_is_not_mnist(tmp_path, monkeypatch):
    for name in ("mnist", "fashion_mnist"):
        official_files.shrink(monkeypatch, name, train=60, test=10)
    monkeypatch.setattr(mnist, "MNIST_COUNTS", (5, 7, *[6] * 8))
    folder = official_files.prepare_random(tmp_path, "fashion_mnist")
    assert "has a class 'T-shirt/top' where mnist has '0'" in refusal("mnist", [str(folder)])
    folder = official_files.prepare_random(tmp_path / "b", "mnist")
    assert "does not have the labels of MNIST: 6 are 0 where 5" in refusal("mnist", [str(folder)])


@pytest.mark.parametrize("form", ["tfrecord", "array_record"])
def test_damage_is_told(form, splits, tmp_path):
    folder, _ = write_tfds(tmp_path / "a", {"train": splits["train"]}, form, "bytes")
    path = sorted(folder.glob(f"*{form}*"))[1]
    content = path.read_bytes()
    inside = next(at for x in splits["train"][0] if (at := content.find(x.tobytes())) > 0)
    for at in (inside + 7, inside + 3000):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert "is not a whole TFDS folder" in refusal("own", [str(folder)])
    path.write_bytes(content[: len(content) // 2 + 5])
    assert "is not a whole TFDS folder" in refusal("own", [str(folder)])
    path.unlink()
    assert "is not a whole TFDS folder" in refusal("own", [str(folder)])
    path.write_bytes(content)
    info = folder / "dataset_info.json"
    told = info.read_text()
    info.write_text(told.replace("{SPLIT}", "{SPLAT}"))
    assert "is not a whole TFDS folder" in refusal("own", [str(folder)])
    info.write_text(told)
    (folder / "features.json").write_text("{")
    assert "is not a whole TFDS folder" in refusal("own", [str(folder)])


def test_the_checksum_is_crc_32c():
    """Of RFC 3720, appendix B.4, masked as TFRecord does it."""
    vectors = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E}
    expected = [(((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF for crc in vectors.values()]
    assert record_files.masked_crc32c(list(vectors)).tolist() == expected
    mixed = [*vectors, b"", b"123456789"]
    assert record_files.masked_crc32c(mixed).tolist()[:3] == expected
    assert record_files.masked_crc32c([]).shape == (0,)


def test_tfds_own_folder_in_the_older_format_names_the_way_out(splits, tmp_path, monkeypatch):
    official_files.shrink(monkeypatch, "cifar10", train=40, test=20)
    folder, _ = write_tfds(tmp_path / "cifar10" / "3.0.2", splits)
    with pytest.raises(UserError, match="is a TFDS folder in format 'tfrecord'") as caught:
        sources.train_split("cifar10", str(tmp_path))
    command = str(caught.value).rpartition("score-jax data prepare ")[2].split()
    assert command == ["cifar10", f"--source={folder}"]
    prepare.prepare("cifar10", [str(folder)], str(tmp_path))
    found = sources.train_split("cifar10", str(tmp_path))
    np.testing.assert_array_equal(found.images, splits["train"][0])
