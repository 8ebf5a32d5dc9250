"""What a ball is called."""

from score_jax.report_run import NORMS


def in_titles(norm: str, eps: float) -> str:
    """What a ball is called in titles: 'L∞ eps 0.5'."""
    return f"{NORMS[norm]} eps {eps:.4g}"


def in_file_names(norm: str, eps: float) -> str:
    """The same in names of files."""
    return f"{norm}_{eps:.4g}"
