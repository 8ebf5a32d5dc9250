"""Image files: decoded as torchvision does it, in order, by blocks, and refused where damaged."""

import io
import threading
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from score_jax.data import image_files
from score_jax.types import UserError

SHAPE = (8, 8, 3)


def png(pixels, form="PNG"):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def pictures():
    return random_pixels(50, *SHAPE)


@pytest.fixture(params=["folder", "zip"])
def place(request, pictures, tmp_path):
    """A folder or a zip of the pictures 'a/0.png', ..., with what is not to be seen beside them."""
    files = {f"a/{i}.png": png(picture) for i, picture in enumerate(pictures)}
    files |= {"a/._0.png": b"?", "a/notes.txt": b"?", "__MACOSX/a/0.png": b"?", "b/c/d.PNG": b"!"}
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return tmp_path / "z.zip"
    for name, content in files.items():
        path = tmp_path / "f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "f"


def test_files_are_found_by_folder(place):
    with image_files.open_files(place) as files:
        assert files.folders() == ["a", "b"] and files.folders("b") == ["c"]
        assert files.images("a") == sorted(f"{i}.png" for i in range(50))
        assert files.images("b") == ["c/d.PNG"] and files.images("b", depth=0) == []
        assert files.has("a/notes.txt") and not files.has("a/none.txt")
        assert files.read("b/c/d.PNG") == b"!"


@pytest.mark.parametrize("start", [0, 3, 17, 49])
def test_a_split_is_given_in_order_from_any_index(start, place, pictures, monkeypatch):
    monkeypatch.setattr(image_files, "BLOCK_BYTES", 7 * 8 * 8 * 3)  # At least eight at a time.
    names = [f"a/{i}.png" for i in range(50)]
    labels = np.arange(50, dtype=np.int32)
    split = image_files.split_of(place, names, labels, SHAPE)
    assert split.count == 50 and split.independent
    blocks = list(split.blocks(start))
    assert {len(y) for _, y in blocks[:-1]} <= {8}
    np.testing.assert_array_equal(np.concatenate([x for x, _ in blocks]), pictures[start:])
    np.testing.assert_array_equal(np.concatenate([y for _, y in blocks]), labels[start:])


def test_a_split_may_be_left_in_the_middle(place):
    split = image_files.split_of(place, ["a/0.png"] * 2000, np.zeros(2000, np.int32), SHAPE)
    blocks = split.blocks(0)
    assert len(next(blocks)[0]) == 512
    blocks.close()


@pytest.mark.parametrize("content", [b"", b"no image", png(random_pixels(8, 8, 3))[:-40]])
def test_a_damaged_file_is_named(content, place, tmp_path):
    (tmp_path / "g" / "a").mkdir(parents=True)
    (tmp_path / "g" / "a" / "0.png").write_bytes(content)
    split = image_files.split_of(tmp_path / "g", ["a/0.png"], np.zeros(1, np.int32), SHAPE)
    with pytest.raises(UserError, match="a/0.png is damaged or no image of this dataset") as caught:
        list(split.blocks(0))
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a/0.bmp", png(random_pixels(8, 8, 3), "BMP"))
    content = bytearray((tmp_path / "z.zip").read_bytes())
    content[100] ^= 1
    (tmp_path / "z.zip").write_bytes(content)
    split = image_files.split_of(tmp_path / "z.zip", ["a/0.bmp"], np.zeros(1, np.int32), SHAPE)
    with pytest.raises(UserError, match="Bad CRC-32"):
        list(split.blocks(0))


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (37, 37), (64, 200), (81, 80)])
def test_resizing_is_torchvisions(height, width):
    """Resize(72) then CenterCrop(64), as torchvision writes them for Pillow's images."""
    image = Image.fromarray(random_pixels(height, width, 3))
    short, long = (width, height) if width <= height else (height, width)
    scaled = int(72 * long / short)
    size = (72, scaled) if width <= height else (scaled, 72)
    expected = image.resize(size, Image.Resampling.BILINEAR)
    top, left = int(round((size[1] - 64) / 2.0)), int(round((size[0] - 64) / 2.0))
    expected = expected.crop((left, top, left + 64, top + 64))
    found = image_files.decode(png(np.asarray(image)), (64, 64, 3), resize=72)
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_grey_and_palette_images_become_what_the_dataset_has():
    grey = random_pixels(8, 8)
    found = image_files.decode(png(grey), SHAPE)
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(image_files.decode(png(grey), (8, 8, 1))[..., 0], grey)
    with pytest.raises(ValueError, match="it is of mode RGB, the others are grey"):
        image_files.decode(png(random_pixels(8, 8, 3)), (8, 8, 1))
    with pytest.raises(ValueError, match="it has 9x8 pixels, not 8x8"):
        image_files.decode(png(random_pixels(8, 9, 3)), SHAPE)


def test_an_image_of_absurd_size_is_refused_by_its_header():
    header = bytearray(png(random_pixels(8, 8, 3)))
    header[16:24] = (10_000).to_bytes(4, "big") + (8_000).to_bytes(4, "big")
    checksum = zlib.crc32(header[12:29])
    header[29:33] = checksum.to_bytes(4, "big")
    with pytest.raises(ValueError, match="it has 10000x8000 pixels$"):
        image_files.decode(bytes(header), SHAPE, resize=8)


def test_the_order_mixes_classes_and_is_known_by_names_alone():
    names = [f"{folder}/{i}.png" for folder in "abcd" for i in range(500)]
    order = image_files.mixed_order(names)
    assert sorted(order) == list(range(2000)) and order[:3] == [1225, 761, 1701]
    counts = np.bincount(np.array(order[:400]) // 500, minlength=4)
    assert counts.min() > 70  # 100 each are expected, +- 9.
    fewer = [names[i] for i in range(0, 2000, 2)]
    kept = [names[i] for i in order if i % 2 == 0]
    assert [fewer[i] for i in image_files.mixed_order(fewer)] == kept


def test_names_that_are_not_utf8_come_by_their_bytes():
    names = ["a/\udcff.png", "a/0.png", "a/1.png"]
    assert [i for i in image_files.mixed_order(names) if i] == [
        i + 1 for i in image_files.mixed_order(names[1:])
    ]


@pytest.mark.parametrize("form", ["PNG", "PPM", "float"])
def test_images_of_more_than_eight_bits_are_refused(form):
    pixels = np.full((8, 8), 1000, np.float32 if form == "float" else np.uint16)
    content = png(pixels, "PPM" if form == "float" else form)
    with pytest.raises(ValueError, match="holds 16-bit values or larger ones; 8-bit images are"):
        image_files.decode(content, SHAPE)


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(image_files, "LARGE_PIXELS", 8 * 8)
    inside, most, meeting = [], [], threading.Event()
    pixels_of = image_files._pixels

    def watched(*arguments):
        inside.append(1)
        most.append(len(inside))
        meeting.wait(0.02)
        found = pixels_of(*arguments)
        inside.pop()
        return found

    monkeypatch.setattr(image_files, "_pixels", watched)
    for side, expected in ((9, 1), (8, 4)):
        most.clear()
        content = png(random_pixels(side, side, 3))
        shape = (side, side, 3)
        threads = [
            threading.Thread(target=image_files.decode, args=(content, shape)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 4 and (max(most) == 1) == (expected == 1)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a/0.png", "a/0.png"], "holds two files of the name 'a/0.png'; pack it again"),
        (["/abs/0.png"], "holds a file '/abs/0.png', which is no name below the zip's folder"),
        (["a/../0.png"], "holds a file 'a/../0.png', which is no name"),
    ],
)
def test_a_zip_of_names_that_nobody_unpacks_is_refused(names, told, tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ["a/", "a/1.png", *names]:
            archive.writestr(name, b"")
    with pytest.raises(UserError) as caught:
        image_files.open_files(tmp_path / "z.zip")
    assert told in str(caught.value)
