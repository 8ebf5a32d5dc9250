"""TinyImageNet and Restricted ImageNet, from small files in the official layouts."""

import functools
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from score_jax.data import readers, restricted_imagenet, sources, tiny_imagenet, wnids
from score_jax.types import UserError
from tests import official_files
from tests.helpers import whole

TINY_SHAPE = (64, 64, 3)
TINY_SIZES = {"train": 400, "test": 12}


def picture(value, size=(64, 64), form="PNG"):
    """An image of one colour, which tells where it came from."""
    content = io.BytesIO()
    colour = (value % 251, value // 251 % 251, value % 7)
    Image.new("RGB", size, colour).save(content, form)
    return content.getvalue()


def value_of(images):
    return images[:, 0, 0, 0].astype(int) + 251 * images[:, 0, 0, 1].astype(int)


@functools.cache
def _tiny_files():
    """Name to content of a tiny-imagenet-200 with two images a class, of which each tells its
    class; the pictures are lossless whatever their names say.
    """
    files = {}
    for label, wnid in enumerate(sorted(wnids.TINY_IMAGENET)):
        for i in range(2):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = picture(label)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"0 0 63 63"
    lines = []
    for i in (3, 0, 11, 2, 1, 10, 4, 9, 8, 7, 6, 5):
        wnid = wnids.TINY_IMAGENET[7 * i]
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
        files[f"val/images/val_{i}.JPEG"] = picture(7 * i)
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files["test/images/test_0.JPEG"] = b"without a label, not read"
    return files


def tiny_files():
    """`_tiny_files`, to be changed."""
    return dict(_tiny_files())


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def pack(path, files):
    """A zip of files, as the official one has them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    return str(path)


def read_tiny(*paths):
    return tiny_imagenet.read_tiny_imagenet(paths, TINY_SHAPE, TINY_SIZES)


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200", tiny_files())


def test_tiny_imagenet_from_its_folder_and_its_zip(tiny_folder, tmp_path):
    contents = []
    for source in (tiny_folder, pack(tmp_path / "t.zip", tiny_files())):
        found = read_tiny(source)
        assert {split: raw.count for split, raw in found.items()} == TINY_SIZES
        for raw in found.values():
            images, labels = whole(raw)
            np.testing.assert_array_equal(value_of(images), labels)
            contents.append((images, labels))
        # Validation images in the order of their numbers, whatever that of the lines.
        np.testing.assert_array_equal(labels, 7 * np.arange(12))
    for (first, labels), (again, same) in zip(contents[:2], contents[2:], strict=True):
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(labels, same)
    # The first images, which validate, are of many classes.
    assert len(set(contents[0][1][:100])) > 60


def test_validation_images_that_were_sorted_into_classes(tiny_folder, tmp_path):
    files = tiny_files()
    for i in range(12):
        files[f"val/{wnids.TINY_IMAGENET[7 * i]}/images/val_{i}.JPEG"] = files.pop(
            f"val/images/val_{i}.JPEG"
        )
    images, labels = whole(read_tiny(pack(tmp_path / "sorted.zip", files))["test"])
    np.testing.assert_array_equal(labels, 7 * np.arange(12))
    np.testing.assert_array_equal(value_of(images), labels)


def test_tiny_imagenet_from_two_npz(tmp_path):
    data = {}
    for name, count in (("val", 12), ("train", 400)):
        images = np.random.default_rng(count).integers(0, 256, (count, *TINY_SHAPE), np.uint8)
        data[name] = images, np.arange(count) % 200
        np.savez(tmp_path / f"{name}.npz", image=images, label=data[name][1])
    paths = [str(tmp_path / "val.npz"), str(tmp_path / "train.npz")]
    for split, name in (("train", "train"), ("test", "val")):
        images, labels = whole(read_tiny(*paths)[split])
        np.testing.assert_array_equal(images, data[name][0])
        np.testing.assert_array_equal(labels, data[name][1])
    assert "hold 12 and 12 images; 400 are expected" in refusal(read_tiny, paths[0], paths[0])


def test_what_is_missing_in_tiny_imagenet_is_told(tmp_path):
    files = tiny_files()
    first = wnids.TINY_IMAGENET[0]
    one = f"train/{first}/images/{first}_0.JPEG"
    gone = {name: content for name, content in files.items() if f"train/{first}" not in name}
    for name, changed, message in (
        ("a", gone, f"train has no class {first}"),
        ("b", files | {"train/n00000000/x.JPEG": b""}, "train has an unknown class n00000000"),
        ("c", {k: v for k, v in files.items() if k != one}, "holds 399 train images where 400"),
        ("d", {k: v for k, v in files.items() if "val_4." not in k}, "val has no val_4.JPEG"),
        ("e", {k: v for k, v in files.items() if "annot" not in k}, "has no val/val_annotations"),
        ("f", files | {"val/val_annotations.txt": b"val_0.JPEG"}, "val_annotations.txt is damaged"),
        ("g", files | {"val/val_annotations.txt": b"v\tn1\t"}, "val_annotations.txt is damaged"),
    ):
        assert message in refusal(read_tiny, pack(tmp_path / f"{name}.zip", changed))
    assert "is no form of tiny_imagenet" in refusal(read_tiny, __file__)
    assert "--source=FILE is needed" in refusal(read_tiny)


def imagenet_files(per_class=1):
    """ImageNet's layout: pictures of many sizes, which tell their class of nine."""
    files = {"train/n01440764/n01440764_1.JPEG": b"tench is not among the nine; not read"}
    for label, group in enumerate(sorted(wnids.RESTRICTED_IMAGENET)):
        content = picture(label, (90 + label, 80))
        for wnid in wnids.RESTRICTED_IMAGENET[group]:
            for i in range(per_class):
                files[f"train/{wnid}/{wnid}_{i}.JPEG"] = content
            files[f"val/{wnid}/ILSVRC2012_val_{label}.JPEG"] = content
    return files


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return write(tmp_path_factory.mktemp("imagenet"), imagenet_files())


def test_the_nine_groups_are_the_published_ranges():
    assert sorted(wnids.RESTRICTED_IMAGENET) == list(wnids.RESTRICTED_IMAGENET)
    sizes = {group: len(inside) for group, inside in wnids.RESTRICTED_IMAGENET.items()}
    assert sizes == {
        "bird": 21, "cat": 5, "crab": 4, "dog": 118, "fish": 9, "frog": 3, "insect": 20,
        "primate": 18, "turtle": 5,
    }  # fmt: skip
    every = [wnid for inside in wnids.RESTRICTED_IMAGENET.values() for wnid in inside]
    assert len(set(every)) == 203
    assert all(inside == sorted(inside) for inside in wnids.RESTRICTED_IMAGENET.values())
    # Indices 151, 281, 33 and 388 + 1 of ImageNet's classes: chihuahua, tabby, loggerhead,
    # barracouta.
    groups = wnids.RESTRICTED_IMAGENET
    first = [groups[name][0] for name in ("dog", "cat", "turtle", "fish")]
    assert first == ["n02085620", "n02123045", "n01664065", "n02514041"]


@pytest.mark.parametrize("size", [0, 32])
def test_restricted_imagenet_from_imagenets_folder(size, imagenet, monkeypatch):
    official_files.shrink(monkeypatch, "restricted_imagenet", train=None, test=203)
    spec, found = readers.read_source("restricted_imagenet", [imagenet], size=size)
    assert spec.image_shape == ((size or 64), (size or 64), 3)
    for split, raw in found.items():
        images, labels = whole(raw)
        assert images.shape == (203, *spec.image_shape), split
        np.testing.assert_array_equal(value_of(images), labels)
        np.testing.assert_array_equal(
            np.bincount(labels), [len(group) for group in wnids.RESTRICTED_IMAGENET.values()]
        )
        assert len(set(labels[:30].tolist())) > 3


@pytest.mark.parametrize(("size", "side"), [(64, 72), (32, 36), (224, 252)])
def test_the_shorter_side_is_first_brought_to_nine_eighths(size, side, imagenet, monkeypatch):
    sides = []
    monkeypatch.setattr(
        restricted_imagenet.image_files,
        "split_of",
        lambda *arguments, resize: sides.append(resize),
    )
    restricted_imagenet.read_restricted_imagenet(
        [imagenet], (size, size, 3), {"train": None, "test": None}
    )
    assert sides == [side, side]


def test_what_is_missing_in_imagenet_is_told(imagenet, tmp_path):
    def read(*folders):
        shape, sizes = (64, 64, 3), {"train": None, "test": 203}
        return restricted_imagenet.read_restricted_imagenet(folders, shape, sizes)

    assert "needs exactly one folder" in refusal(read)
    assert "needs exactly one folder" in refusal(read, __file__)
    (tmp_path / "train").mkdir()
    assert "has no folders of classes; sort its images" in refusal(read, str(tmp_path))
    (tmp_path / "train" / "n01440764").mkdir()
    assert "has no images of class n01795545" in refusal(read, str(tmp_path))
    assert "has no folder 'train'" in refusal(read, str(tmp_path / "train"))
    message = refusal(
        lambda: restricted_imagenet.read_restricted_imagenet(
            [imagenet], (64, 64, 3), sources.DATASETS["restricted_imagenet"].split_sizes
        )
    )
    assert "val holds 203 images of these classes where 10150 are expected" in message


def test_a_validation_image_in_another_classs_folder_is_told(tmp_path):
    files = imagenet_files()
    files |= {f"{name}.png": b"" for name in files if name.startswith("val/")}
    files["val/n02123394/x.png"] = files.pop("val/n02123045/ILSVRC2012_val_1.JPEG.png")
    message = refusal(
        restricted_imagenet.read_restricted_imagenet,
        [write(tmp_path, files)],
        (64, 64, 3),
        {"train": None, "test": 406},
    )
    assert "val/n02123045 holds 1 images where 2 are expected" in message


def test_sizes_are_for_what_has_a_choice():
    assert "--size=32: the images of mnist have 28 pixels" in refusal(
        lambda: readers.read_source("mnist", ["x"], size=32)
    )
    for size in (7, 4096):
        assert f"--size={size} is not within 8 to 1024" in refusal(
            lambda size=size: readers.read_source("restricted_imagenet", ["x"], size=size)
        )
