"""The threads in which images are compared."""

import sys

import numpy as np
import pytest

from score_jax import dataset_duplicates


def blas_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    threadpoolctl = pytest.importorskip("threadpoolctl")
    return {
        pool["num_threads"]
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    }


def test_blas_has_one_thread_while_several_compare():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(2, "blas"):
        before = blas_threads()
        with dataset_duplicates.threads(2) as pool:
            assert pool.submit(blas_threads).result() <= {1}
        assert blas_threads() == before


def test_images_are_compared_without_threadpoolctl_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with dataset_duplicates.threads(2) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
