"""Folders of images that are not quite what they should be, and zips of them."""

import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from score_jax import prepare
from score_jax.data import readers, sources
from score_jax.types import UserError
from tests.helpers import whole


def fill(folder, *names):
    """PNGs of 8x8 pixels, each of another grey."""
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(path, "PNG")
    return folder


def refusal(folder, **options):
    with pytest.raises(UserError) as caught:
        for split in readers.read_source("pets", [str(folder)], **options)[1].values():
            whole(split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_file_names_that_are_not_utf8_are_prepared(tmp_path):
    fill(tmp_path / "f", "ant/\udcff.png", "bee/0.png")
    prepare.prepare("pets", [str(tmp_path / "f")], str(tmp_path))
    found = sources.train_split("pets", str(tmp_path))
    assert sorted(zip(found.images[:, 0, 0, 0], found.labels, strict=True)) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("name", ["\udcff", "a\nb", " a", "a\t"])
def test_class_names_that_no_line_can_hold_are_refused(name, tmp_path):
    fill(tmp_path, f"{name}/0.png", "bee/0.png")
    assert f"has a class {name!r}; give its folder a name" in refusal(tmp_path)


def test_images_of_sixteen_bits_are_refused(tmp_path):
    fill(tmp_path, "ant/0.png", "bee/0.png")
    deep = Image.fromarray(np.full((8, 8), 1000, np.uint16))
    for name in ("bee/1.png", "ant/0.png"):  # Not the first of a class; the first.
        deep.save(tmp_path / name)
        told = refusal(tmp_path)
        assert name in told and "8-bit images are expected" in told


def test_a_class_without_images_is_refused(tmp_path):
    fill(tmp_path, "ant/0.png", "bee/0.png", "cow/0.png")
    os.rename(tmp_path / "bee" / "0.png", tmp_path / "bee" / "0.gif")
    (tmp_path / "bee" / ".DS_Store").touch()
    assert "'bee' holds no images, and 1 other files; take it away, or conv" in refusal(tmp_path)


def test_test_images_without_classes_are_refused(tmp_path):
    fill(tmp_path, "train/ant/0.png", "train/bee/0.png", "test/0.png", "test/1.png")
    assert "test holds no folders of classes; sort its images into folders" in refusal(tmp_path)


def test_another_size_is_told_with_its_remedy(tmp_path):
    fill(tmp_path, "ant/0.png", "bee/0.png")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "ant" / "1.png")
    told = refusal(tmp_path)
    assert "ant/1.png" in told and "8x9 pixels, not 8x8" in told and "give --size=PIXELS" in told


def test_a_zip_has_the_order_of_its_folder(tmp_path):
    names = [f"train/{c}/{i}.png" for c in ("ant", "bee") for i in range(9)]
    fill(tmp_path / "f", *names)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "f" / name, f"pets/{name}")
    first, second = (
        whole(readers.read_source("pets", [str(tmp_path / name)])[1]["train"])
        for name in ("f", "z.zip")
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
