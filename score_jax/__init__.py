"""score_jax: accurate and robust image classifiers, judged by the official AutoAttack."""

__version__ = "0.1.0"
