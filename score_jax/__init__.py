"""score_jax: accurate and robust image classifiers, judged by the official AutoAttack."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `import score_jax` stays free of JAX.
    if name == "autoattack":
        return importlib.import_module("score_jax.attacks.autoattack").autoattack
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
