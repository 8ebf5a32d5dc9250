"""Attacks. `pgd.PGD` owns the one loop."""

from score_jax.attacks.pgd import PGD, create

__all__ = ["PGD", "create"]
