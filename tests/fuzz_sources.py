"""Small sources in each form that the readers take, for every one of them to be damaged.

A form is (dataset, writer, whether its content is protected by checksums): the writer gives what
to pass as --source; where that is a folder, one of its files is damaged at a time.
"""

import gzip
import io
import pickle
import struct

import numpy as np

from score_jax import prepare
from score_jax.data import wnids
from tests import official_files as official

TINY_CLASSES = wnids.TINY_IMAGENET


def _digits(count: int, size: int, channels: int, classes: int = 10, seed: int = 0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    return images, generator.permutation(np.arange(count) % classes)


def cifar_folder(path):
    data = official.random_cifar10()
    return official.write_folder(path / "cifar-10-batches-py", official.python_files(data))


def cifar_binary_folder(path):
    data = official.random_cifar10()
    return official.write_folder(path / "cifar-10-batches-bin", official.binary_files(data))


def cifar_tar(path):
    data = official.random_cifar10()
    files = official.python_files(data)
    return official.write_tar(path / "p.tar.gz", "cifar-10-batches-py", files)


def cifar_plain_tar(path):
    zipped = official.write_tar(
        path / "b.tar.gz",
        "cifar-10-batches-bin",
        official.binary_files(official.random_cifar10()),
    )
    (path / "b.tar").write_bytes(gzip.decompress(zipped.read_bytes()))
    return path / "b.tar"


def cifar_npz(path):
    return official.write_npz(path / "c.npz", official.random_cifar10(), column_labels=True)


def cifar_deflated_npz(path):
    return official.write_npz(path / "c.npz", official.random_cifar10(), compressed=True)


def cifar100_tar(path):
    files = official.python100_files(official.random_cifar100())
    return official.write_tar(path / "p.tar.gz", "cifar-100-python", files)


def generated_npz(path):
    images, labels = _digits(30, 32, 3)
    np.savez(path / "g.npz", image=images, label=labels)
    return path / "g.npz"


def generated_deflated_npz(path):
    images, labels = _digits(30, 32, 3)
    np.savez_compressed(path / "g.npz", image=images, label=labels.astype(np.uint8))
    return path / "g.npz"


def _tiny_images(path, protocol, count):
    images, labels = _digits(count, 32, 3)
    content = {"data": images, "extrapolated_targets": labels, "prediction_model": "wrn"}
    (path / "t.pickle").write_bytes(pickle.dumps(content, protocol))
    return path / "t.pickle"


def tiny_images_pickle(path):
    return _tiny_images(path, 4, 20)


def tiny_images_old_pickle(path):
    return _tiny_images(path, 2, 5)


def _idx(path, zipped):
    folder = path / "raw"
    folder.mkdir()
    for seed, (name, count) in enumerate((("train", 60), ("t10k", 10))):
        images, labels = _digits(count, 28, 1, seed=seed)
        files = {
            f"{name}-images-idx3-ubyte": struct.pack(">IIII", 0x803, count, 28, 28)
            + images.tobytes(),
            f"{name}-labels-idx1-ubyte": struct.pack(">II", 0x801, count)
            + labels.astype(np.uint8).tobytes(),
        }
        for file, content in files.items():
            if zipped:
                (folder / f"{file}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / file).write_bytes(content)
    return folder


def mnist_zipped(path):
    return _idx(path, True)


def mnist_plain(path):
    return _idx(path, False)


def mnist_npz(path):
    arrays = {}
    for seed, (split, count) in enumerate((("train", 60), ("test", 10))):
        images, labels = _digits(count, 28, 1, seed=seed)
        arrays |= {f"x_{split}": images[..., 0], f"y_{split}": labels.astype(np.uint8)}
    np.savez_compressed(path / "m.npz", **arrays)
    return path / "m.npz"


def _svhn(path, compressed):
    from scipy.io import savemat

    folder = path / "svhn"
    folder.mkdir()
    for seed, (split, count) in enumerate((("train", 40), ("test", 20))):
        images, labels = _digits(count, 32, 3, seed=seed)
        arrays = {"X": images.transpose(1, 2, 3, 0), "y": (labels[:, None] + 1).astype(np.uint8)}
        savemat(folder / f"{split}_32x32.mat", arrays, do_compression=compressed)
    return folder


def svhn_compressed(path):
    return _svhn(path, True)


def svhn_plain(path):
    return _svhn(path, False)


def _picture(image, form) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, form)
    return content.getvalue()


def _pictures(folder, form, size):
    for split, count in (("train", 3), ("test", 2)):
        images, _ = _digits(2 * count, size, 3, seed=count)
        for index, image in enumerate(images):
            at = folder / split / ("cat", "dog")[index % 2]
            at.mkdir(parents=True, exist_ok=True)
            (at / f"{index}.{form.lower()}").write_bytes(_picture(image, form))
    return folder


def folder_of_pngs(path):
    return _pictures(path / "own", "PNG", 12)


def folder_of_jpegs(path):
    return _pictures(path / "own", "JPEG", 16)


def zip_of_pngs(path):
    import shutil

    folder = _pictures(path / "own", "PNG", 12)
    return shutil.make_archive(str(path / "own"), "zip", folder)


def tiny_imagenet_zip(path):
    import zipfile

    images, _ = _digits(len(TINY_CLASSES), 64, 3)
    with zipfile.ZipFile(path / "t.zip", "w") as archive:
        for wnid, image in zip(TINY_CLASSES, images, strict=True):
            name = f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG"
            archive.writestr(name, _picture(image // 128 * 255, "JPEG"))
        lines = "".join(f"val_{i}.JPEG\t{TINY_CLASSES[i]}\t0\t0\t62\t62\n" for i in range(200))
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", lines)
        for i in range(200):
            name = f"tiny-imagenet-200/val/images/val_{i}.JPEG"
            archive.writestr(name, _picture(images[i], "JPEG"))
    return path / "t.zip"


def imagenet_folder(path):
    images, _ = _digits(8, 8, 3)
    for split in ("train", "val"):
        for index, wnid in enumerate(
            w for group in wnids.RESTRICTED_IMAGENET.values() for w in group
        ):
            folder = path / "imagenet" / split / wnid
            folder.mkdir(parents=True)
            (folder / f"{wnid}_1.JPEG").write_bytes(_picture(images[index % 8], "JPEG"))
    return path / "imagenet"


def tfds_folder(path):
    """A dataset that was prepared here, given as the source of another name."""
    images, labels = _digits(30, 32, 3)
    np.savez(path / "g.npz", image=images, label=labels)
    return prepare.prepare("own_set", (str(path / "g.npz"),), str(path / "data"), workers=1)


# What a form is: dataset, writer, whether every byte of its content has a checksum.
FORMS = {
    "cifar10 pickles": ("cifar10", cifar_folder, False),
    "cifar10 binary files": ("cifar10", cifar_binary_folder, False),
    "cifar10 tar.gz": ("cifar10", cifar_tar, True),
    "cifar10 tar": ("cifar10", cifar_plain_tar, False),
    "cifar10 npz": ("cifar10", cifar_npz, True),
    "cifar10 deflated npz": ("cifar10", cifar_deflated_npz, True),
    "cifar100 tar.gz": ("cifar100", cifar100_tar, True),
    "generated npz": ("cifar10_ddpm", generated_npz, True),
    "generated deflated npz": ("cifar10_edm", generated_deflated_npz, True),
    "tiny images": ("cifar10_ti500k", tiny_images_pickle, False),
    "old tiny images": ("cifar10_ti500k", tiny_images_old_pickle, False),
    "mnist idx.gz": ("mnist", mnist_zipped, True),
    "mnist idx": ("mnist", mnist_plain, False),
    "mnist npz": ("mnist", mnist_npz, True),
    "svhn compressed": ("svhn", svhn_compressed, True),
    "svhn": ("svhn", svhn_plain, False),
    "folder of PNG": ("my_set", folder_of_pngs, False),
    "folder of JPEG": ("my_set", folder_of_jpegs, False),
    # The names of a zip's members have no checksum; one that names no image is passed over.
    "zip of PNG": ("my_set", zip_of_pngs, False),
    "tiny_imagenet zip": ("tiny_imagenet", tiny_imagenet_zip, True),
    "imagenet folder": ("restricted_imagenet", imagenet_folder, False),
    "TFDS folder": ("my_set", tfds_folder, True),
}
SIZES = {
    "cifar10": {"train": 50, "test": 10},
    "cifar100": {"train": 200, "test": 100},
    "mnist": {"train": 60, "test": 10},
    "svhn": {"train": 40, "test": 20},
    "tiny_imagenet": {"train": 200, "test": 200},
    "restricted_imagenet": {"train": None, "test": None},
}
