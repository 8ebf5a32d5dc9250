"""Measurements of datasets and models whose published numbers are known: `score-jax analyze`."""
