"""score_jax: adversarial training that is accurate and robust, judged by the official AutoAttack."""

__version__ = "0.1.0"
