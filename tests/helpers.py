"""Small things that several tests need."""

from score_jax import config as config_lib


def digits_config(*overrides: str):
    """The smoke recipe for digits, with `FIELD=VALUE` overrides."""
    return config_lib.load("configs/digits_score.py:smoke", overrides)
