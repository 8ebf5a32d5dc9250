"""Settings of the whole suite, made before any array exists."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["SCORE_JAX_OFFLINE"] = "1"  # No test needs a network, or waits for one.

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
# Mixed dtypes and implicit broadcasting over ranks are errors: elsewhere they are silent costs.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Most programs of the quick tests run for moments: LLVM would take a third of the suite's time
    to optimise them. The slow tests compile as users do."""
    if config.getoption("markexpr") == "not slow":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=1".strip()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with the digits, prepared."""
    pytest.importorskip("sklearn")
    from score_jax import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare.prepare("digits", data_dir=str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory):
    """A folder with two tiny sets, see `tests.tiny_sets`."""
    from tests import tiny_sets

    folder = tmp_path_factory.mktemp("sets")
    tiny_sets.prepare(folder)
    return folder


@pytest.fixture
def tiny_folder(tiny_data, monkeypatch, tmp_path):
    """The labelled tiny set's folder, this test's own; the table knows the set."""
    from tests import tiny_sets

    tiny_sets.add_sets(monkeypatch)
    return tiny_sets.copy(tiny_data, tmp_path)
