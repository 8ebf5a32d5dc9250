"""`data verify` and `data info`: damage is found, duplicates are told, sheets are drawn."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_jax import cli, dataset_info, dataset_verify
from score_jax.data import builders, memory_maps, sources
from score_jax.data.raw_split import in_memory
from score_jax.types import UserError
from tests import official_files as official
from tests.data_duplicates_test import CHANGES, IMAGES, scenes

LABELS = np.arange(48, dtype=np.int32) % 10
OTHERS = scenes(100, seed=9, side=32)
# Test image 3 is in train twice, 5 as a mirror image, and 7 of the training images come again: one
# under another label.
TRAIN = np.concatenate([OTHERS, IMAGES[[3, 3]], CHANGES["mirrored"][[5]], OTHERS[:7]])
TRAIN_LABELS = np.arange(len(TRAIN), dtype=np.int32) % 10
TRAIN_LABELS[103:] = TRAIN_LABELS[:7]
TRAIN_LABELS[101] = TRAIN_LABELS[100]
TRAIN_LABELS[104] = 9


def prepare(folder: Path, name: str, parts: dict) -> Path:
    spec = sources.DATASETS[name]
    splits = {split: in_memory([part]) for split, part in parts.items()}
    path = builders.write(folder, name, spec=spec, splits=splits, report=lambda line: None)
    final = folder / builders.relative_path(name)
    if path != final:
        final.parent.mkdir(parents=True, exist_ok=True)
        path.rename(final)
    return final


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a small cifar10 and images generated for it, in every test of this module."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        official.shrink(patch, "cifar10", train=len(TRAIN), test=48)
        prepare(folder, "cifar10", {"train": (TRAIN, TRAIN_LABELS), "test": (IMAGES, LABELS)})
        generated = np.concatenate([scenes(60, seed=10, side=32), CHANGES["moved"][:4]])
        labels = np.arange(64, dtype=np.int32) % 10
        prepare(folder, "cifar10_ddpm", {"train": (generated, labels)})
        yield folder


@pytest.fixture
def copy(prepared, tmp_path):
    """The folder's cifar10, to be damaged."""
    shutil.copytree(prepared / "score_jax_cifar10", tmp_path / "score_jax_cifar10")
    return tmp_path / builders.relative_path("cifar10")


def test_duplicates_of_test_images_are_told_and_written(prepared, tmp_path):
    text = dataset_verify.verify("cifar10", str(prepared), out=str(tmp_path / "found"))
    lines = text.splitlines()
    assert "shards: 2 files" in lines[1] and lines[1].endswith("as written")
    assert lines[2].startswith("train: 110 images of 32x32x3, 10 to 13 a class, sha256 ")
    assert "cifar10 test in train: 2 exact and 1 near pairs; 2 of 48 test images" in text
    assert ": 3-100, 3-101, 5-102 (mirrored)" in text
    assert "within train: 8 images equal an earlier one and 0 near pairs; 1 pairs of diff" in text
    assert lines[-1] == (
        "verdict: cifar10 is whole; 2 of 48 test images of cifar10 have a duplicate in train"
    )
    found = json.loads((tmp_path / "found" / "duplicates.json").read_text())["found"]
    pairs = [(p["first"], p["second"], p["exact"], p["mirrored"]) for p in found[0]["pairs"]]
    assert pairs == [(3, 100, True, False), (3, 101, True, False), (5, 102, False, True)]
    assert found[0]["pairs"][0]["labels"] == [3, int(TRAIN_LABELS[100])]
    assert found[0]["test_images"] == 2
    assert ", but for 7 of equal labels" in text and found[1]["pairs_left_out"] == 7
    (conflict,) = found[1]["pairs"]
    assert (conflict["first"], conflict["second"], conflict["labels"]) == (1, 104, [1, 9])
    sheets = sorted((tmp_path / "found").glob("*.png"))
    assert [path.name for path in sheets] == [
        "duplicates-cifar10-test-cifar10-train.png",
        "duplicates-cifar10-train-cifar10-train.png",
    ]
    assert all(Image.open(path).size[0] > 100 for path in sheets)


def test_generated_images_are_compared_with_the_test_images_of_what_they_extend(prepared, capsys):
    assert cli.main(["data", "verify", "cifar10_ddpm", f"--data_dir={prepared}"]) == 0
    output = capsys.readouterr().out
    assert "cifar10 test in train: 0 exact and 4 near pairs; 4 of 48 test images" in output
    assert all(f"{index}-{60 + index}" in output for index in range(4))
    assert "within train: 0 images equal an earlier one; 0 pairs" in output


def add_user_set(folder: Path, name: str, extends: str = "") -> None:
    """A prepared folder of training images alone, of a name that the user gave."""
    spec = dataclasses.replace(
        sources.DATASETS["cifar10"],
        split_sizes={"train": 20},
        extends=extends,
        official_folder="",
    )
    splits = {"train": in_memory([(TRAIN[:20], TRAIN_LABELS[:20])])}
    builders.write(folder, name, spec=spec, splits=splits, report=lambda line: None)


@pytest.mark.parametrize(
    ("extends", "why"),
    [
        ("", "mine has no test images of 32x32x3; give some with --against=NAME"),
        ("cifar10", "cifar10 is not prepared here; run: score-jax data prepare cifar10"),
        ("gone", "gone is not prepared here"),
    ],
)
def test_without_test_images_the_rest_is_verified(extends, why, tmp_path):
    add_user_set(tmp_path, "mine", extends)
    lines = dataset_verify.verify("mine", str(tmp_path)).splitlines()
    assert lines[2].startswith("train: 20 images of 32x32x3")
    assert f"not looked for: duplicates of test images: {why}" in lines
    assert lines[-1] == (
        f"verdict: mine is whole; duplicates of test images were not looked for: {why}"
    )


def test_test_images_of_other_classes_are_drawn(prepared, tmp_path):
    """Of more classes than the training images have."""
    with pytest.MonkeyPatch.context() as patch:
        official.shrink(patch, "cifar10", train=len(TRAIN), test=48)
        official.shrink(patch, "cifar100", train=48, test=48)
        shutil.copytree(prepared / "score_jax_cifar10", tmp_path / "score_jax_cifar10")
        parts = {split: (IMAGES, LABELS + 90) for split in ("train", "test")}
        prepare(tmp_path, "cifar100", parts)
        text = dataset_verify.verify("cifar10", str(tmp_path), ["cifar100"], str(tmp_path / "out"))
    assert "cifar100 test in train: 2 exact" in text and "pairs drawn in" in text


@pytest.mark.parametrize("out", ["file", "file/folder"])
def test_a_folder_that_cannot_be_made_is_told_before_the_run(out, prepared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(dataset_verify, "open_splits", lambda *_: pytest.fail("it ran"))
    with pytest.raises(UserError, match=f"--out={tmp_path / out} is no folder that can be"):
        dataset_verify.verify("cifar10", str(prepared), out=str(tmp_path / out))


@pytest.mark.parametrize("file", ["duplicates.json", "duplicates-cifar10-test-cifar10-train.png"])
def test_findings_that_cannot_be_written_are_told_all_the_same(file, prepared, tmp_path, capsys):
    (tmp_path / file).mkdir()
    flags = [f"--data_dir={prepared}", f"--out={tmp_path}"]
    assert cli.main(["data", "verify", "cifar10", *flags]) == 2
    *_, verdict, error = capsys.readouterr().err.splitlines()
    assert verdict.endswith("2 of 48 test images of cifar10 have a duplicate in train")
    assert file in error and "cannot be written: Is a directory" in error
    assert not list(tmp_path.glob("*partial*")) and not list(tmp_path.glob("*.tmp"))


def test_what_was_not_looked_for_is_told(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_verify, "MOVED_UP_TO", 50)
    monkeypatch.setattr(dataset_verify, "WITHIN_NEAR", 49)
    monkeypatch.setattr(dataset_verify, "WITHIN_EXACT", 48)
    monkeypatch.setattr(dataset_verify.dataset_duplicates, "KEPT", 1)
    text = dataset_verify.verify("cifar10", str(prepared), out=str(tmp_path))
    gaps = [
        "in train, moved copies of test images: more than 50 images",
        "in train, equal images within it: more than 48 images",
        "in train, near pairs within it: more than 49 images",
        "in test, near pairs within it: no labelled training images",
    ]
    assert [line for line in text.splitlines() if line.startswith("not looked for: ")] == [
        f"not looked for: {gap}" for gap in gaps
    ]
    assert f"pairs in {tmp_path}/duplicates.json, but for 1 beyond 1 of a test image" in text
    written = json.loads((tmp_path / "duplicates.json").read_text())
    assert written["not_looked_for"] == gaps
    assert written["found"][0]["pairs_left_out"] == 1


def test_many_images_are_not_looked_for_moved(prepared, monkeypatch):
    seen = []

    class Watched(dataset_verify.TestImages):
        def __init__(self, images, moved=True):
            seen.append(moved)
            super().__init__(images, moved)

    monkeypatch.setattr(dataset_verify, "TestImages", Watched)
    dataset_verify.verify("cifar10_ddpm", str(prepared))
    monkeypatch.setattr(dataset_verify, "MOVED_UP_TO", 63)
    dataset_verify.verify("cifar10_ddpm", str(prepared))
    assert seen == [True, False]


def flip_a_byte(folder):
    path = next(folder.glob("*train*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def flip_and_hide(folder):
    """As one who also wrote the new digest down: the content still tells."""
    flip_a_byte(folder)
    edit(folder, lambda facts: facts.pop("shards"))


def edit(folder, change):
    facts = json.loads((folder / "metadata.json").read_text())
    change(facts)
    (folder / "metadata.json").write_text(json.dumps(facts))


def decode_and_flip(folder):
    images, *_ = memory_maps.open_split(folder, "train", IMAGES.shape[1:], None)
    assert dataset_verify._check_decoded("cifar10", folder)[0].endswith("are as written")
    path = folder / memory_maps.FOLDER / "train.images.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


DAMAGES = {
    "a flipped byte of a decoded file": (decode_and_flip, "decoded, it is made again"),
    "a flipped byte": (flip_a_byte, "1 of 2 files are not as written (score_jax_cifar10-train"),
    "a flipped byte whose digest is gone": (flip_and_hide, "is damaged"),
    "a shorter shard": (
        lambda folder: next(folder.glob("*test*")).write_bytes(b"short"),
        "has 5 bytes, not",
    ),
    "a missing shard": (lambda folder: next(folder.glob("*test*")).unlink(), "No such file"),
    "another fingerprint": (
        lambda folder: edit(folder, lambda f: f["fingerprints"].update(test="0" * 64)),
        "where 000000000000 was written",
    ),
    "other class counts": (
        lambda folder: edit(folder, lambda f: f["class_counts"].update(test=[48] + [0] * 9)),
        "class_counts are [5, 5, 5, 5, 5, 5, 5, 5, 4, 4] where [48,",
    ),
    "no metadata": (
        lambda folder: (folder / "metadata.json").write_text("{"), "is missing or damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_one_line(damage, copy, capsys, prepared):
    apply, message = DAMAGES[damage]
    apply(copy)
    data_dir = copy.parents[1]
    assert cli.main(["data", "verify", "cifar10", f"--data_dir={data_dir}"]) == 2
    output = capsys.readouterr()
    assert "Traceback" not in output.err and not output.out
    assert message in output.err.splitlines()[-1]


def test_labels_out_of_range_are_damage(prepared, monkeypatch):
    spec = sources.DATASETS["cifar10"]
    monkeypatch.setattr(
        dataset_verify, "open_splits", lambda *_: [_with_label(prepared, spec, label=10)]
    )
    with pytest.raises(UserError, match="labels from 0 to 10, 10 classes"):
        dataset_verify.verify("cifar10", str(prepared))


def _with_label(folder, spec, label):
    source = sources.read_split("cifar10", "train", str(folder))
    labels = np.where(np.arange(len(source)) == 50, label, source.labels)
    made = sources.Images(
        images=source.images, labels=labels, fingerprint="", name="cifar10", split="train", path=""
    )
    return dataset_verify.Split("cifar10", "train", folder, spec, made)


@pytest.mark.parametrize("other", ["mnist", "cifar10_ddpm"])
def test_only_test_images_of_that_shape_are_looked_for(other, prepared):
    with pytest.raises(UserError, match=f"--against={other} has no test images of"):
        dataset_verify.verify("cifar10", str(prepared), against=(other,))


def test_what_is_not_prepared_is_told_with_the_command(prepared, monkeypatch):
    out = prepared / "not made"
    with pytest.raises(UserError, match="score-jax data prepare cifar100"):
        dataset_verify.verify("cifar100", str(prepared), out=str(out))
    assert not out.exists()
    monkeypatch.setattr(dataset_verify, "_check_shards", lambda *_: pytest.fail("it ran"))
    with pytest.raises(UserError, match="score-jax data prepare cifar100"):
        dataset_verify.verify("cifar10", str(prepared), against=("cifar100",))


def test_info_draws_images_of_each_class(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_info, "PER_CLASS", 3)
    text = dataset_info.info("cifar10", str(prepared), str(tmp_path / "new" / "sheet.png"))
    assert "train: 110 images of 32x32x3, uint8, 10 to 13 a class" in text
    assert "in 1 shards (data.storage=records)" in text
    sheet = Image.open(io.BytesIO((tmp_path / "new" / "sheet.png").read_bytes()))
    sheet.load()
    # Three columns, a row for each class of each split.
    assert sheet.format == "PNG" and 3 * 64 < sheet.size[0] < 4 * 100 and sheet.size[1] > 20 * 64


def test_info_does_not_count_again_what_was_noted(prepared, monkeypatch):
    monkeypatch.setattr(
        dataset_info.Split, "blocks", lambda self: pytest.fail("the images were read")
    )
    text = dataset_info.info("cifar10_ddpm", str(prepared))
    assert "generated for cifar10" in text and "train: 64 images" in text
