"""Readers of the pseudo-labelled TinyImages and of the digits.

As those of CIFAR, they refuse what is not exactly what the dataset's table says.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from score_jax.data.official_pickle import open_batch
from score_jax.data.raw_split import (
    RawSplit,
    check_labels,
    first_bytes,
    in_memory,
    local_path,
    read_generated,
)
from score_jax.types import UserError

TINY_IMAGES = 500_000  # In the official pickle.


def read_tiny_images(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int | None]
) -> dict[str, RawSplit]:
    """Carmon et al.'s pseudo-labelled TinyImages, from their pickle or as `read_generated`.

    The pickle holds `data` uint8[n, h, w, c] and `extrapolated_targets`; the images stay in it
    until their blocks are asked for.

    Raises:
      UserError: more than half a million images, damaged, or other arrays than these.
    """
    if len(sources) != 1 or not first_bytes(local_path(sources[0])).startswith(b"\x80"):
        return read_generated(sources, image_shape, sizes)
    path = local_path(sources[0])
    return {"train": open_batch(path, "extrapolated_targets", image_shape, TINY_IMAGES)}


def read_digits(
    sources: Sequence[str], image_shape: tuple[int, int, int], sizes: Mapping[str, int]
) -> dict[str, RawSplit]:
    """scikit-learn's 8x8 digits: every fifth image (i % 5 == 4) is test, the others train.

    The 17 grey values 0..16 become round(v * 255 / 16).
    """
    if sources:
        raise UserError(f"digits comes with scikit-learn; leave out --source={sources[0]}")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "digits needs scikit-learn; run: pip install 'score-jax[quickstart]'"
        ) from None
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8).reshape(-1, *image_shape)
    is_test = np.arange(len(images)) % 5 == 4
    splits = {}
    for split, chosen in (("train", ~is_test), ("test", is_test)):
        labels = check_labels(digits.target[chosen], sizes[split], "scikit-learn's digits")
        splits[split] = in_memory([(images[chosen], labels)])
    return splits
