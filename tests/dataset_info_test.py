"""`data info` and `data list`: what is drawn, what is gone, what is damaged."""

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from score_jax import cli, dataset_info
from score_jax.data import builders, sources
from score_jax.data.raw_split import in_memory
from score_jax.types import UserError
from tests import tiny_sets


def write(folder: Path, name: str, labels: np.ndarray, classes: int = 5) -> Path:
    """Prepares images of one colour each, of a name that the user gave."""
    spec = dataclasses.replace(
        tiny_sets.spec(),
        num_classes=classes,
        class_names=tuple(f"class {number}" for number in range(classes)),
        split_sizes={"train": len(labels)},
    )
    images = np.tile(labels.astype(np.uint8).reshape(-1, 1, 1, 1), (1, *tiny_sets.SHAPE))
    splits = {"train": in_memory([(images, labels.astype(np.int32))])}
    builders.write(folder, name, spec=spec, splits=splits, report=lambda line: None)
    found = sources.find(name, str(folder))
    assert found is not None
    return found


@pytest.fixture
def drawn(monkeypatch):
    """The captions of sheets."""
    captions = []

    def draw(images, texts, *_, **options):
        captions.extend(texts)
        return b"png"

    monkeypatch.setattr(dataset_info, "sheet", draw)
    return captions


def classes_of(captions):
    return {int(text.split("\n")[0].removeprefix("class ")) for text in captions}


def test_each_class_of_a_sorted_set_is_drawn_though_few_images_are_read(
    tmp_path, drawn, monkeypatch
):
    monkeypatch.setattr(dataset_info, "LOOKED_AT", 60)
    monkeypatch.setattr(dataset_info, "ROUND", 20)
    write(tmp_path, "sorted", np.repeat(np.arange(5), 100))
    read, take = [], sources.records.Records.take
    monkeypatch.setattr(
        sources.records.Records,
        "take",
        lambda self, indices: read.extend(indices) or take(self, indices),
    )
    text = dataset_info.info("sorted", str(tmp_path), str(tmp_path / "s.PNG"))
    assert classes_of(drawn) == set(range(5)) and len(drawn) == 5 * dataset_info.PER_CLASS
    assert len(read) <= 60
    assert text.endswith(f"sheet in {tmp_path / 's.PNG'}")


def test_a_class_that_was_not_come_upon_is_told(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(dataset_info, "LOOKED_AT", 60)
    labels = np.zeros(500, int)
    labels[3] = 4
    write(tmp_path, "rare", labels)
    text = dataset_info.info("rare", str(tmp_path), str(tmp_path / "s.png"))
    assert classes_of(drawn) == {0}
    assert text.endswith("s.png; no image of class 4 of train was come upon")


def test_a_full_disk_leaves_no_sheet(tmp_path, monkeypatch, capsys):
    write(tmp_path, "some", np.arange(20) % 5)

    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / "new" / "sheet.png"
    assert cli.main(["data", "info", "some", f"--data_dir={tmp_path}", f"--out={out}"]) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(
    ("out", "message"), [("sheet", "is not the name of a PNG"), ("x.png/a.png", "cannot be writ")]
)
def test_a_sheet_that_cannot_be_written_is_one_line(out, message, tmp_path):
    write(tmp_path, "some", np.arange(20) % 5)
    (tmp_path / "x.png").write_bytes(b"a file")
    with pytest.raises(UserError, match=message):
        dataset_info.info("some", str(tmp_path), str(tmp_path / out))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(Path.unlink, "No such file or directory"), (shorten, "has 100 bytes, not")],
)
def test_shards_that_are_not_as_noted_are_told(damage, reason, tmp_path, capsys):
    folder = write(tmp_path, "some", np.arange(20) % 5)
    damage(next(folder.glob("*.array_record*")))
    assert cli.main(["data", "info", "some", f"--data_dir={tmp_path}"]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert not output.out and "some is damaged: 1 of 1 files of split 'train'" in line
    assert reason in line


def test_a_damaged_set_does_not_hide_the_others(tmp_path, capsys):
    write(tmp_path, "whole", np.arange(20) % 5)
    (write(tmp_path, "broken", np.arange(20) % 5) / "metadata.json").write_text("{")
    assert cli.main(["data", "list", f"--data_dir={tmp_path}"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " damaged: " in lines["broken"] and "prepare it again" in lines["broken"]
    assert "20 train; prepared in" in lines["whole"]
    assert "cifar10_ddpm" in sources.generated_for("cifar10", str(tmp_path))
