"""Datasets that the user names, and generated sets from folders of images."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from score_jax import prepare, recipes
from score_jax.data import npz, pipeline, readers, sources
from score_jax.types import UserError
from tests.helpers import digits_config, whole

SHAPE = (8, 8, 3)


def random_images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or SHAPE)), np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(folder, classes, counts, shape=SHAPE):
    """PNGs in folder/PART/CLASS; gives their pixels by part and class."""
    made = {}
    for part, count in counts.items():
        for index, name in enumerate(classes):
            images = random_images(count, *shape, seed=index + 10 * len(part))
            made[part, name] = images
            for i, image in enumerate(images):
                save(folder / part / name / f"{i}.png", image)
    return made


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        readers.read_source(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same_images(found, label, images):
    """Whether the split holds just these images under a label, in whatever order."""
    pixels, labels = whole(found)
    return sorted(x.tobytes() for x in pixels[labels == label]) == sorted(
        x.tobytes() for x in images
    )


@pytest.mark.parametrize("test_folder", ["test", "val", "validation"])
def test_a_folder_of_images_with_classes_and_splits(test_folder, tmp_path):
    made = write_folder(tmp_path, ["eel", "ant", "cow"], {"train": 4, test_folder: 2})
    spec, found = readers.read_source("pets", [str(tmp_path)])
    assert spec.class_names == ("ant", "cow", "eel") and spec.num_classes == 3
    assert spec.image_shape == SHAPE and spec.extends == ""
    assert spec.split_sizes == {"train": 12, "test": 6}
    for label, name in enumerate(spec.class_names):
        assert same_images(found["train"], label, made["train", name])
        assert same_images(found["test"], label, made[test_folder, name])


def test_a_zip_that_holds_all_in_one_folder(tmp_path):
    made = write_folder(tmp_path / "f", ["a", "b"], {"x": 3})
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in (tmp_path / "f" / "x").rglob("*.png"):
            archive.write(path, f"all/of/{path.relative_to(tmp_path / 'f' / 'x')}")
    spec, found = readers.read_source("pets", [str(tmp_path / "z.zip")])
    assert spec.class_names == ("a", "b") and list(found) == ["train"]
    assert same_images(found["train"], 1, made["x", "b"])


def test_folders_of_numbers_are_labels_and_grey_images_have_one_channel(tmp_path):
    names = [str(number) for number in range(11)]
    write_folder(tmp_path, names, {"train": 1}, shape=(8, 6))
    spec, found = readers.read_source("numbers", [str(tmp_path)])
    assert spec.class_names == tuple(names) and spec.image_shape == (8, 6, 1)
    assert sorted(whole(found["train"])[1]) == list(range(11))
    save(tmp_path / "train" / "10" / "colour.png", random_images(1, 8, 6, 3)[0])
    _, found = readers.read_source("numbers", [str(tmp_path)])
    with pytest.raises(UserError, match="colour.png is .* of mode RGB, the others are grey"):
        whole(found["train"])


def test_images_of_many_sizes_need_one(tmp_path):
    for name, shape in (("a", (9, 12, 3)), ("b", (20, 8, 3))):
        save(tmp_path / name / "0.png", random_images(1, *shape)[0])
    message = refusal("pets", [str(tmp_path)])
    assert "a/0.png and b/0.png have different sizes; give --size=PIXELS" in message
    spec, found = readers.read_source("pets", [str(tmp_path)], size=8)
    assert spec.image_shape == SHAPE and whole(found["train"])[0].shape == (2, *SHAPE)


def test_generated_images_of_a_known_dataset_by_class_name_or_number(tmp_path):
    made = write_folder(tmp_path, ["cat", "9"], {"": 3}, shape=(32, 32, 3))
    for name, options in (("mine", {"extends": "cifar10"}), ("cifar10_ddpm", {})):
        spec, found = readers.read_source(name, [str(tmp_path)], **options)
        assert spec.extends == "cifar10" and spec.class_names[9] == "truck"
        assert spec.mean == sources.DATASETS["cifar10"].mean
        assert same_images(found["train"], 3, made["", "cat"])
        assert same_images(found["train"], 9, made["", "9"])
    save(tmp_path / "lynx" / "0.png", random_images(1, 32, 32, 3)[0])
    assert "has a folder 'lynx', which is no class; name the folders as airplane" in refusal(
        "mine", [str(tmp_path)], extends="cifar10"
    )


def test_generated_images_of_a_grey_dataset_are_grey(tmp_path):
    write_folder(tmp_path, ["0", "9"], {"": 2}, shape=(28, 28))
    _, found = readers.read_source("mine", [str(tmp_path)], extends="mnist")
    assert whole(found["train"])[0].shape == (4, 28, 28, 1)
    save(tmp_path / "0" / "0.png", random_images(1, 28, 28, 3)[0])
    _, found = readers.read_source("mine", [str(tmp_path)], extends="mnist")
    with pytest.raises(UserError, match="0/0.png is .* of mode RGB, the others are grey"):
        whole(found["train"])


def test_npz_files_with_and_without_what_they_extend(tmp_path):
    images, labels = random_images(5), np.array([0, 2, 1, 2, 0])
    for part in "ab":
        np.savez(tmp_path / f"{part}.npz", image=images, label=labels)
    parts = [str(tmp_path / f"{part}.npz") for part in "ab"]
    spec, found = readers.read_source("own", parts)
    assert spec.class_names == ("0", "1", "2") and found["train"].count == 10
    grey = random_images(6, 5, 4)
    np.savez(tmp_path / "k.npz", x_train=grey, y_train=np.arange(6), x_test=grey[:2], y_test=[5, 0])
    spec, found = readers.read_source("own", [str(tmp_path / "k.npz")])
    assert spec.image_shape == (5, 4, 1) and spec.split_sizes == {"train": 6, "test": 2}
    np.testing.assert_array_equal(whole(found["test"])[1], [5, 0])
    message = refusal("own", parts, extends="cifar10")
    assert "holds images of shape (8, 8, 3) where those of cifar10 have (32, 32, 3)" in message
    np.savez(tmp_path / "l.npz", image=images, label=labels + 10**6)
    assert "has label 1000002; labels are classes" in refusal("own", [str(tmp_path / "l.npz")])
    np.savez(tmp_path / "o.npz", image=images, label=labels * 0)
    assert "holds 1 class; two are needed" in refusal("own", [str(tmp_path / "o.npz")])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own", {"extends": "cifar"}, "unknown dataset 'cifar'"),
        ("own", {"extends": "cifar10_ddpm"}, "--extends=cifar10_ddpm only adds to cifar10"),
        ("own", {"extends": "cifar10", "size": 64}, "--size=64 is not the size of cifar10: 32"),
        ("cifar10", {"extends": "cifar10"}, "is for a name of your own; cifar10 is a known"),
        ("Own-Set", {}, "'Own-Set' cannot name a dataset of your own"),
        ("../own", {}, "'../own' cannot name a dataset of your own"),
        ("cifar01", {}, "cifar01 is no known dataset; of your own, give npz files with image"),
        ("cifar01", {}, "or did you mean 'cifar10'?"),
    ],
)
def test_a_mistake_is_told(name, options, message):
    assert message in refusal(name, [__file__], **options)


def test_what_holds_no_images_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    assert "holds no classes of images" in refusal("own", [str(tmp_path)])
    save(tmp_path / "a" / "0.png", random_images(1)[0])
    assert "holds 1 class; two are needed" in refusal("own", [str(tmp_path)])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.png").write_bytes(b"no image")
    assert "b/0.png is damaged or no image" in refusal("own", [str(tmp_path)])
    assert "unknown dataset 'own'" in refusal("own", [])
    folder = tmp_path / "other"
    write_folder(folder, ["a", "b"], {"train": 1})
    save(folder / "test" / "c" / "0.png", random_images(1)[0])
    assert "test has class 'c', train has not" in refusal("own", [str(folder)])


def test_a_set_of_the_users_own_is_prepared_known_and_trained_on(tmp_path):
    data_dir = str(tmp_path / "data")
    write_folder(tmp_path / "f", ["a", "b"], {"train": 20, "test": 3})
    prepare.prepare("pets", [str(tmp_path / "f")], data_dir)
    images, labels = random_images(30, seed=5), np.arange(30) % 2
    np.savez(tmp_path / "g.npz", image=images, label=labels)
    prepare.prepare("more_pets", [str(tmp_path / "g.npz")], data_dir, extends="pets")

    assert sources.user_sets(data_dir) == ["more_pets", "pets"]
    spec = sources.spec("pets", data_dir)
    train = sources.train_split("pets", data_dir).images / 255
    np.testing.assert_allclose(spec.mean, train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(spec.std, train.std((0, 1, 2)), rtol=1e-6)
    assert spec.class_names == ("a", "b") == sources.class_names("pets", data_dir)
    assert sources.spec("more_pets", data_dir).mean == spec.mean
    assert sources.generated_for("pets", data_dir) == ["more_pets"]
    assert sources.train_size("pets", data_dir) == 40
    assert sources.train_size("none", data_dir) is None and sources.class_names("none") == ()
    with pytest.raises(UserError, match="unknown dataset 'pet'; known: .*more_pets.*'pets'"):
        sources.find("pet", data_dir)

    config = digits_config(
        "data.name=pets", f"data.dir={data_dir}", "data.generated=more_pets",
        "data.validation_size=4", "data.batch_size=10",
    )  # fmt: skip
    run = recipes.build(config)
    assert run.recipe.classifier.image_shape == SHAPE
    batch = pipeline.batch_at(config, 3)
    assert batch["images"].shape == (10, *SHAPE) and batch["generated"].sum() == 7
    config.data.generated = "cifar10_ddpm"
    with pytest.raises(UserError, match="no generated images for data.name=pets; known: more_pets"):
        pipeline.batch_at(config, 0)


def test_a_folder_that_tells_nothing_of_its_dataset_is_refused(tmp_path):
    np.savez(tmp_path / "g.npz", image=random_images(4), label=[0, 1, 1, 0])
    folder = prepare.prepare("own", [str(tmp_path / "g.npz")], str(tmp_path))
    path = f"{folder}/metadata.json"
    whole_facts = json.loads(open(path).read())
    for change in ({"spec": {}}, {"spec": 3}, {"spec": whole_facts["spec"] | {"mean": [0.5]}}):
        with open(path, "w") as file:
            json.dump(whole_facts | change, file)
        with pytest.raises(UserError, match="does not tell what its dataset is") as caught:
            sources.spec("own", str(tmp_path))
        assert path in str(caught.value) and "\n" not in str(caught.value)


def test_restricted_imagenet_is_as_large_as_it_was_prepared(tmp_path):
    assert sources.spec("restricted_imagenet", str(tmp_path)).image_shape == (64, 64, 3)
    config = digits_config("data.name=restricted_imagenet", f"data.dir={tmp_path}")
    with pytest.raises(UserError, match="restricted_imagenet is not prepared in .* run: score-jax"):
        recipes.build(config)
    np.savez(tmp_path / "g.npz", image=random_images(18), label=np.arange(18) % 9)
    folder = prepare.prepare("own", [str(tmp_path / "g.npz")], str(tmp_path))
    (tmp_path / "score_jax_own").rename(tmp_path / "score_jax_restricted_imagenet")
    assert folder
    spec = sources.spec("restricted_imagenet", str(tmp_path))
    assert spec.image_shape == SHAPE and spec.split_sizes == {"train": 18}
    assert spec.mean == sources.DATASETS["restricted_imagenet"].mean


def test_decoded_jpegs_are_what_pillow_decodes(tmp_path):
    pixels = random_images(1, 16, 16, 3)[0]
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.jpg", quality=70)
    content = (tmp_path / "a" / "0.jpg").read_bytes()
    expected = np.asarray(Image.open(io.BytesIO(content)))
    found = whole(readers.read_source("own", [str(tmp_path)])[1]["train"])[0]
    np.testing.assert_array_equal(found, np.stack([expected, expected]))


def test_an_npz_tells_its_classes_without_its_images(tmp_path, monkeypatch):
    np.savez(tmp_path / "g.npz", image=random_images(4), label=[[0], [1], [5], [0]])
    read = []
    open_array = npz.open_array
    monkeypatch.setattr(npz, "open_array", lambda *a: read.append(a[1]) or open_array(*a))
    spec, _ = readers.read_source("own", [str(tmp_path / "g.npz")])
    assert spec.num_classes == 6 and read == ["label"]
    np.savez(tmp_path / "n.npz", image=random_images(2), label=[-1, 0])
    told = "has labels from -1 to 0; classes are numbered from 0 on"
    assert told in refusal("own", [str(tmp_path / "n.npz")])
