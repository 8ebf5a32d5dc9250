"""Contact sheets: every pixel of every image is found on the page."""

import io

import numpy as np
import pytest

from score_jax.data import sheet as sheet_module
from score_jax.data.sheet import sheet
from score_jax.types import UserError

Image = pytest.importorskip("PIL.Image")


def images(count=7, size=8, channels=3):
    shape = (count, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(png):
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB"))


def places(page, image, scale):
    """Where the enlarged image stands on the page."""
    large = np.kron(image, np.ones((scale, scale, 1), np.uint8))
    tall, wide, _ = large.shape
    first = (page == large[0, 0]).all(-1)
    return [
        (y, x)
        for y, x in np.argwhere(first)
        if np.array_equal(page[y : y + tall, x : x + wide], np.broadcast_to(large, (tall, wide, 3)))
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_there_once_in_reading_order(channels):
    shown = images(channels=channels)
    page = read(sheet(shown, columns=3, scale=4))
    found = [places(page, image, 4) for image in shown]
    assert all(len(each) == 1 for each in found)
    rows, columns = np.array([each[0] for each in found]).T
    assert [list(np.unique(rows)).index(row) for row in rows] == [0, 0, 0, 1, 1, 1, 2]
    assert [list(np.unique(columns)).index(column) for column in columns] == [0, 1, 2, 0, 1, 2, 0]


def test_captions_are_drawn_under_their_images_and_none_over_an_image():
    shown = images(4)
    captions = [
        "cat, at home",
        "",
        "a name that is much too long for one cell of this sheet",
        "two\nlines",
    ]
    page = read(sheet(shown, captions, columns=2, title="Seven images", scale=4))
    found = [places(page, image, 4) for image in shown]
    assert [len(each) for each in found] == [1] * 4

    def ink(i):
        (y, x), side = found[i][0], 8 * 4
        return (page[y + side + 2 : y + side + 16, x - 6 : x + side + 6] < 128).any()

    assert [ink(i) for i in range(4)] == [True, False, True, True]
    bare = read(sheet(shown, columns=2, scale=4))
    assert bare.shape[0] < page.shape[0] and bare.shape[1] < page.shape[1]


def test_a_cell_is_as_wide_as_its_caption():
    shown = images(4)
    page = read(sheet(shown, ["horse 4817"] * 4, columns=2, scale=4))
    found = [places(page, image, 4)[0] for image in shown]
    assert 32 + 10 < found[1][1] - found[0][1] < 64 + 10


def test_the_same_arguments_give_the_same_bytes():
    assert sheet(images(), list("abcdefg")) == sheet(images(), list("abcdefg"))


def test_large_images_are_not_shrunk():
    shown = images(2, size=100)
    page = read(sheet(shown))
    assert all(len(places(page, image, 1)) == 1 for image in shown)


def test_what_cannot_be_drawn_is_told(monkeypatch):
    with pytest.raises(UserError, match="no images"):
        sheet(images(0))
    with pytest.raises(ValueError, match="uint8"):
        sheet(images().astype(np.float32))
    with pytest.raises(ValueError, match="2 captions for 7 images"):
        sheet(images(), ["a", "b"])
    monkeypatch.setattr(sheet_module, "MAX_PIXELS", 1000)
    with pytest.raises(UserError, match="draw fewer"):
        sheet(images())
