"""CIFAR-100's files: every form gives the same images, with the fine labels."""

import numpy as np
import pytest

from score_jax.data import cifar
from score_jax.types import UserError
from tests import official_files as official
from tests.data_cifar_test import FORMS as TEN
from tests.data_cifar_test import SHAPE
from tests.data_cifar_test import refusal as refusal_of_ten
from tests.helpers import whole

FORMS = {
    "python folder": lambda path, data: official.write_folder(
        path / "cifar-100-python", official.python100_files(data)
    ),
    "folder around it": lambda path, data: (
        official.write_folder(path / "cifar-100-python", official.python100_files(data)).parent
    ),
    "python tar": lambda path, data: official.write_tar(
        path / "p.tar.gz", "cifar-100-python", official.python100_files(data)
    ),
    "binary folder": lambda path, data: official.write_folder(
        path / "cifar-100-binary", official.binary100_files(data)
    ),
    "binary tar": lambda path, data: official.write_tar(
        path / "b.tar.gz", "cifar-100-binary", official.binary100_files(data)
    ),
    "npz": lambda path, data: official.write_npz(path / "c.npz", data, column_labels=True),
}
SIZES = {"train": 200, "test": 100}


def read(source):
    splits = cifar.read_cifar100((str(source),), SHAPE, SIZES)
    return tuple(
        array
        for split in ("train", "test")
        for array in whole(splits[split])
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_cifar100_gives_the_same_images_with_fine_labels(form, tmp_path):
    data = official.random_cifar100()
    found = read(FORMS[form](tmp_path, data))
    for array, expected, dtype in zip(found, data, (np.uint8, np.int32) * 2, strict=True):
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, expected)


def test_the_two_datasets_are_not_taken_for_each_other(tmp_path):
    data = official.random_cifar10()
    ten = TEN["python tar"](tmp_path, data)
    with pytest.raises(UserError, match=r"has no train, test; it must be one of: cifar-100-python"):
        read(ten)
    hundred = FORMS["binary folder"](tmp_path, official.random_cifar100())
    assert "has no data_batch_1" in refusal_of_ten(hundred)
    with pytest.raises(UserError, match="cifar100 needs exactly one --source, got 0; give one of"):
        cifar.read_cifar100((), SHAPE, SIZES)


def test_a_cifar100_file_without_fine_labels_is_refused(tmp_path):
    files = official.python100_files(official.random_cifar100())
    files["train"] = files["train"].replace(b"fine_labels", b"nice_labels")
    with pytest.raises(UserError, match="train has no entry 'fine_labels'; take it from the offi"):
        read(official.write_folder(tmp_path / "cifar-100-python", files))
