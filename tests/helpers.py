"""Small things that several tests need."""

import numpy as np

from score_jax import config as config_lib


def digits_config(*overrides: str):
    """The smoke recipe for digits, with `FIELD=VALUE` overrides."""
    return config_lib.load("configs/digits_score.py:smoke", overrides)


def whole(split):
    """Images and labels of a `RawSplit`, in memory."""
    images, labels = zip(*split.blocks(0), strict=True)
    return np.concatenate(images), np.concatenate(labels)
