"""The data job: what it writes, what it refuses, and what a killed one leaves."""

import importlib.util
import pathlib

import numpy as np
import pytest

from score_jax import dataset_info, prepare
from score_jax.data import builders, cifar, sources
from score_jax.types import UserError
from tests import official_files as official
from tests.helpers import whole

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def small_cifar10(monkeypatch):
    """CIFAR-10's entry with ten images a file; everything else as it is."""
    official.shrink(monkeypatch, "cifar10", train=50, test=10)


@pytest.fixture
def data():
    return official.random_cifar10()


def write_tar(path, data):
    return str(
        official.write_tar(path / "p.tar.gz", "cifar-10-batches-py", official.python_files(data))
    )


def test_what_was_prepared_is_what_was_given(small_cifar10, data, tmp_path, capsys):
    path = prepare.prepare("cifar10", (write_tar(tmp_path, data),), str(tmp_path / "data"))
    assert path == str(tmp_path / "data" / "score_jax_cifar10" / "1.0.0")
    for split, images, labels in (("train", *data[:2]), ("test", *data[2:])):
        found = sources.read_split("cifar10", split, str(tmp_path / "data"))
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
        assert f"{split} sha256 {found.fingerprint}" in capsys.readouterr().err or split == "test"
    left = sorted(p.name for p in (tmp_path / "data").iterdir())
    assert left == [".score_jax_preparing_cifar10.lock", "score_jax_cifar10"]


def test_it_tells_how_far_it_is(small_cifar10, data, tmp_path, capsys):
    prepare.prepare("cifar10", (write_tar(tmp_path, data),), str(tmp_path))
    output = capsys.readouterr()
    assert output.out == ""
    assert "writing train: 50 of 50 images (100%)" in output.err
    assert "notice: 0 of 6 official files have this content" in output.err
    assert "prepared in" in output.err.splitlines()[-1]


def test_cifar100_is_prepared_with_its_fine_labels(tmp_path, monkeypatch):
    official.shrink(monkeypatch, "cifar100", train=200, test=100)
    data, folder = official.random_cifar100(), str(tmp_path / "data")
    files = official.python100_files(data)
    source = str(official.write_tar(tmp_path / "p.tar.gz", "cifar-100-python", files))
    prepare.prepare("cifar100", (source,), folder)
    for split, images, labels in (("train", *data[:2]), ("test", *data[2:])):
        found = sources.read_split("cifar100", split, folder)
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
    assert "apple 2, aquarium_fish 2" in dataset_info.info("cifar100", folder)


def test_coarse_labels_are_not_taken_for_fine_ones(tmp_path, monkeypatch):
    official.shrink(monkeypatch, "cifar100", train=200, test=100)
    x_train, y_train, x_test, y_test = official.random_cifar100()
    data = (x_train, official.coarse(y_train), x_test, official.coarse(y_test))
    source = str(official.write_npz(tmp_path / "c.npz", data))
    message = refusal("cifar100", (source,), tmp_path / "data")
    assert "has 0 to 10 images a class where each has 2" in message


def test_a_second_time_says_it_is_there(small_cifar10, data, tmp_path, capsys):
    first = prepare.prepare("cifar10", (write_tar(tmp_path, data),), str(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in pathlib.Path(first).iterdir()}
    capsys.readouterr()
    assert prepare.prepare("cifar10", (), str(tmp_path)) == first
    assert "already prepared" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in pathlib.Path(first).iterdir()}


def test_what_is_there_can_be_on_a_read_only_disk(small_cifar10, data, tmp_path, monkeypatch):
    first = prepare.prepare("cifar10", (write_tar(tmp_path, data),), str(tmp_path))

    def read_only(*arguments):
        raise OSError("read-only file system")

    monkeypatch.setattr(prepare.Path, "mkdir", read_only)
    monkeypatch.setattr(prepare, "_only_one", read_only)
    assert prepare.prepare("cifar10", (), str(tmp_path)) == first


def test_official_content_is_recognised(small_cifar10, data, tmp_path, monkeypatch, capsys):
    source = str(official.write_npz(tmp_path / "c.npz", data))
    splits = cifar.read_cifar10((source,), (32, 32, 3), {"train": 50, "test": 10})
    hashes = {s: cifar.binary_hashes(splits[s], n) for s, n in (("train", 5), ("test", 1))}
    monkeypatch.setitem(prepare.OFFICIAL, "cifar10", hashes)
    prepare.prepare("cifar10", (source,), str(tmp_path))
    assert "equals the official one, byte for byte" in capsys.readouterr().err


def test_the_known_official_hashes_are_complete():
    hashes = [h for split in cifar.OFFICIAL_CIFAR10.values() for h in split]
    assert [len(split) for split in cifar.OFFICIAL_CIFAR10.values()] == [5, 1]
    assert len(set(hashes)) == 6 and all(len(bytes.fromhex(h)) == 32 for h in hashes)


def refusal(name, files, data_dir) -> str:
    with pytest.raises(UserError) as caught:
        prepare.prepare(name, files, str(data_dir))
    assert "\n" not in str(caught.value)
    assert sources.find(name, str(data_dir)) is None
    left = [p.name for p in pathlib.Path(data_dir).glob("*") if p.is_dir()]
    assert left in ([], ["downloads"])
    return str(caught.value)


def test_classes_of_tiny_imagenet_have_as_many_images_each(tmp_path, monkeypatch):
    official.shrink(monkeypatch, "tiny_imagenet", train=400, test=200)
    files = [str(tmp_path / f"{name}.npz") for name in ("train", "val")]
    for file, count in zip(files, (400, 200), strict=True):
        images = np.zeros((count, 64, 64, 3), np.uint8)
        np.savez(file, image=images, label=np.arange(count).clip(max=198) % 200)
    message = refusal("tiny_imagenet", files, tmp_path / "data")
    assert "split 'train' has 0 to 202 images a class where each has 2" in message


@pytest.mark.parametrize("label, part", [(10, "label 10"), (3, "images a class")])
def test_wrong_labels_are_refused(label, part, small_cifar10, data, tmp_path):
    data[1][data[1] == 4] = label
    message = refusal("cifar10", (write_tar(tmp_path, data),), tmp_path / "data")
    assert part in message


def test_the_real_name_needs_the_real_counts(data, tmp_path):
    source = str(official.write_npz(tmp_path / "c.npz", data))
    assert "50000" in refusal("cifar10", (source,), tmp_path / "data")


def test_missing_sources_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_JAX_OFFLINE", "1")
    for name in ("cifar10", "cifar10_ddpm"):
        message = refusal(name, (), tmp_path / "data")
        assert f"score-jax data prepare {name} --source=/" in message, message
    assert "does not exist" in refusal("cifar10", ("absent",), tmp_path / "data")
    assert "unknown dataset 'imagenet'" in str(
        pytest.raises(UserError, prepare.prepare, "imagenet").value
    )


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written .* give another with --data_dir"):
            prepare.prepare("digits", data_dir=str(folder))


def test_too_little_space_is_told(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage)
    assert "1000 bytes free where " in refusal("digits", (), tmp_path)


def write_generated(path, count=25, shape=(32, 32, 3)):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = generator.integers(0, 10, count)
    np.savez(path, image=images, label=labels)
    return images, labels


@pytest.mark.parametrize("name", [n for n, s in sources.DATASETS.items() if s.extends])
def test_generated_images_are_prepared(name, tmp_path):
    shape = sources.DATASETS[name].image_shape
    images, labels = write_generated(tmp_path / "g.npz", shape=shape)
    prepare.prepare(name, (str(tmp_path / "g.npz"),), str(tmp_path))
    found = sources.train_split(name, str(tmp_path))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    with pytest.raises(UserError, match="no split 'test'"):
        sources.test_split(name, str(tmp_path))


def test_damage_that_shows_while_writing_leaves_nothing(tmp_path):
    write_generated(tmp_path / "g.npz")
    content = bytearray((tmp_path / "g.npz").read_bytes())
    content[50_000] ^= 1
    (tmp_path / "g.npz").write_bytes(content)
    files = (str(tmp_path / "g.npz"),)
    assert "damaged or cut short" in refusal("cifar10_ddpm", files, tmp_path / "data")


def test_the_list_tells_what_is_prepared_and_how_to_prepare_the_rest(tmp_path):
    pytest.importorskip("sklearn")
    prepare.prepare("digits", data_dir=str(tmp_path))
    lines = dataset_info.list_datasets(str(tmp_path)).splitlines()
    assert str(tmp_path) in lines[0] and len(lines) == 1 + len(sources.DATASETS)
    digits = next(line for line in lines if line.split()[0] == "digits")
    assert "1438 train, 359 test; prepared in" in digits
    cifar10 = next(line for line in lines if line.split()[0] == "cifar10")
    assert "50000 train, 10000 test; run: score-jax data prepare cifar10" in cifar10


def test_info_tells_counts_content_mean_and_deviation(small_cifar10, data, tmp_path):
    prepare.prepare("cifar10", (write_tar(tmp_path, data),), str(tmp_path))
    text = dataset_info.info("cifar10", str(tmp_path))
    assert "train: 50 images of 32x32x3" in text and "test: 10 images" in text
    assert "airplane 5, automobile 5" in text and "truck 1" in text
    assert builders.fingerprint(data[0], data[1].astype(np.int32)) in text
    pixels = data[0].reshape(-1, 3) / 255
    assert "mean " + ", ".join(f"{v:.4f}" for v in pixels.mean(0)) in text
    assert "std  " + ", ".join(f"{v:.4f}" for v in pixels.std(0)) in text
    with pytest.raises(UserError, match="data prepare digits"):
        dataset_info.info("digits", str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images in {SHARED}")
def test_the_real_images_are_the_same_in_all_forms(tmp_path, capsys):
    """About half a minute; nothing else here needs the real counts."""
    module = importlib.util.spec_from_file_location("unpack", SHARED / "unpack.py")
    unpack = importlib.util.module_from_spec(module)
    module.loader.exec_module(unpack)
    splits = {split: unpack.cifar10(split) for split in ("train", "test")}
    unpack.cifar10 = splits.__getitem__
    for form in ("cifar10-py", "cifar10-bin", "cifar10-npz"):
        unpack.main(form, str(tmp_path))
    spec = sources.DATASETS["cifar10"]
    for file in ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar10.npz"):
        found = cifar.read_cifar10((str(tmp_path / file),), spec.image_shape, spec.split_sizes)
        for split, (images, labels) in splits.items():
            blocks, found_labels = whole(found[split])
            np.testing.assert_array_equal(blocks, images)
            np.testing.assert_array_equal(found_labels, labels)
    prepare.prepare("cifar10", (str(tmp_path / "cifar-10-batches-bin"),), str(tmp_path))
    assert "notice: 0 of 6 official files" in capsys.readouterr().err
    train = sources.train_split("cifar10", str(tmp_path))
    np.testing.assert_array_equal(train.images, splits["train"][0])
    np.testing.assert_array_equal(train.labels, splits["train"][1])
    pixels = train.images.reshape(-1, 3)
    np.testing.assert_allclose(pixels.mean(0) / 255, spec.mean, atol=1e-4)
    np.testing.assert_allclose(pixels.std(0) / 255, spec.std, atol=2e-4)
