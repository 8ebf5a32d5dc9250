"""DeepMind's Haiku files: names, layouts and statistics; nothing that they name is run."""

import os
import pickle
import sys
import types

import numpy as np
import pytest

from score_jax import interop_load
from score_jax.types import UserError


def haiku_names(depth, width, num_classes=10):
    """(params, state) as DeepMind's code saves them, by Haiku's naming rule, of random values."""
    rng = np.random.default_rng(0)
    params, state = {}, {}

    def conv(name, size, in_channels, channels):
        shape = (size, size, in_channels, channels)
        params[name] = {"w": rng.normal(0, 0.1, shape).astype(np.float32)}

    def batchnorm(name, channels):
        def vector():
            return rng.uniform(0.5, 1.5, (1, 1, 1, channels)).astype(np.float32)

        params[name] = {"scale": vector(), "offset": vector()}
        for average in ("mean_ema", "var_ema"):
            state[f"{name}/~/{average}"] = {
                "counter": np.array(7, np.int32), "hidden": 0.1 * vector(), "average": vector(),
            }  # fmt: skip

    root = "wide_res_net/~"
    conv(f"{root}/init_conv", 3, 3, 16)
    before = 16
    for group, channels in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range((depth - 4) // 6):
            name = f"{root}/resnet_lay_{group}_block_{block}/~"
            batchnorm(f"{name}/batchnorm_0", before)
            conv(f"{name}/conv_0", 3, before, channels)
            batchnorm(f"{name}/batchnorm_1", channels)
            conv(f"{name}/conv_1", 3, channels, channels)
            if block == 0:
                conv(f"{name}/shortcut", 1, before, channels)
            before = channels
    batchnorm(f"{root}/batchnorm", before)
    params[f"{root}/logits"] = {
        "w": rng.normal(0, 0.1, (before, num_classes)).astype(np.float32),
        "b": rng.normal(0, 0.1, num_classes).astype(np.float32),
    }
    return params, state


def pair_of(params, state):
    pair = np.empty(2, object)
    pair[:] = params, state
    return pair


def save(path, content):
    np.save(path, content, allow_pickle=True)
    return path


def assert_is_that_network(found, params, state):
    block = "wide_res_net/~/resnet_lay_1_block_0/~"
    ours, stats = found.params["layer_1"]["block_0"], found.batch_stats["layer_1"]["block_0"]
    for name in ("conv_0", "conv_1", "shortcut"):
        np.testing.assert_array_equal(ours[name]["kernel"], params[f"{block}/{name}"]["w"])
    scale = params[f"{block}/batchnorm_1"]["scale"].ravel()
    np.testing.assert_array_equal(ours["batchnorm_1"]["scale"], scale)
    offset = params[f"{block}/batchnorm_1"]["offset"].ravel()
    np.testing.assert_array_equal(ours["batchnorm_1"]["bias"], offset)
    for ours_name, theirs in (("mean", "mean_ema"), ("var", "var_ema")):
        average = state[f"{block}/batchnorm_0/~/{theirs}"]["average"].ravel()
        np.testing.assert_array_equal(stats["batchnorm_0"][ours_name], average)
    logits = params["wide_res_net/~/logits"]
    np.testing.assert_array_equal(found.params["logits"]["kernel"], logits["w"])
    np.testing.assert_array_equal(found.params["logits"]["bias"], logits["b"])


def test_a_file_of_params_and_state_is_read(tmp_path):
    params, state = haiku_names(10, 2)
    found = interop_load.load(save(tmp_path / "checkpoint.npy", pair_of(params, state)))
    assert (found.model["name"], found.origin["format"]) == ("wrn-10-2-swish", "Haiku")
    assert found.model["mean"] == (0.4914, 0.4822, 0.4465)
    assert_is_that_network(found, params, state)


@pytest.mark.parametrize("wrap", [lambda p, s: {"params": p, "state": s}, lambda p, s: (p, s)])
def test_one_object_without_axes_is_read_too(wrap, tmp_path):
    params, state = haiku_names(10, 2)
    content = np.empty((), object)
    content[()] = wrap(params, state)
    assert_is_that_network(
        interop_load.load(save(tmp_path / "checkpoint.npy", content)), params, state
    )


def test_haikus_own_mappings_are_read_as_dicts(tmp_path, monkeypatch):
    class FlatMapping(dict):
        def __reduce__(self):
            return FlatMapping, (dict(self),)

    module = types.ModuleType("haiku._src.data_structures")
    module.FlatMapping = FlatMapping
    FlatMapping.__module__, FlatMapping.__qualname__ = module.__name__, "FlatMapping"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "haiku", types.ModuleType("haiku"))
        patch.setitem(sys.modules, "haiku._src", types.ModuleType("haiku._src"))
        patch.setitem(sys.modules, module.__name__, module)
        params, state = haiku_names(10, 2)
        path = save(tmp_path / "c.npy", pair_of(FlatMapping(params), FlatMapping(state)))
    assert b"FlatMapping" in path.read_bytes()
    assert_is_that_network(interop_load.load(path), params, state)


class Harmful:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_bomb_is_not_run(tmp_path):
    params, state = haiku_names(10, 2)
    made = tmp_path / "made"
    params["wide_res_net/~/logits"]["b"] = Harmful(str(made))
    path = save(tmp_path / "bomb.npy", pair_of(params, state))
    with pytest.raises(UserError, match=r"it asks for posix.mkdir; nothing of it was run"):
        interop_load.load(path)
    assert not made.exists()
    np.load(path, allow_pickle=True)  # NumPy's own reader would have run it.
    assert made.exists()


def renamed(params, state):
    params["wide_res_net/~/extra"] = params.pop("wide_res_net/~/init_conv")


def not_an_average(params, state):
    state["wide_res_net/~/batchnorm/~/other"] = state.pop("wide_res_net/~/batchnorm/~/mean_ema")


def not_an_array(params, state):
    params["wide_res_net/~/logits"]["b"] = [1, 2]


def of_one_array(params, state):
    values = np.zeros(1 << 20, np.float32)
    params |= {f"wide_res_net/~/linear_{i}": {"b": values} for i in range(9)}


def of_nan(params, state):
    state["wide_res_net/~/batchnorm/~/mean_ema"]["average"][...] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, "is of no network that is known"),
        (not_an_average, "is not a moving average"),
        (not_an_array, "a leaf that is no array of numbers"),
        (of_one_array, "it unpacks to more than it holds"),
        (of_nan, "batchnorm.running_mean of .* holds NaN or infinite values"),
    ],
)
def test_a_file_of_something_else_is_refused(change, message, tmp_path):
    params, state = haiku_names(10, 2)
    change(params, state)
    with pytest.raises(UserError, match=message):
        interop_load.load(save(tmp_path / "c.npy", pair_of(params, state)))


def test_a_network_of_width_one_has_a_shortcut_that_ours_has_not(tmp_path):
    path = save(tmp_path / "c.npy", pair_of(*haiku_names(10, 1)))
    with pytest.raises(UserError, match=r"1 unexpected: layer.0.block.0.shortcut.weight"):
        interop_load.load(path)


@pytest.mark.parametrize(
    "content",
    [
        np.zeros(3), pair_of({}, 3), np.array([{"a": 1}], object), pair_of({"a": 1}, {}),
        np.array("text", object),
    ],
)  # fmt: skip
def test_an_array_of_something_else_is_refused(content, tmp_path):
    with pytest.raises(UserError, match="is not a Haiku checkpoint"):
        interop_load.load(save(tmp_path / "c.npy", content))


def test_every_truncation_is_refused(tmp_path):
    whole = save(tmp_path / "c.npy", pair_of(*haiku_names(10, 2))).read_bytes()
    for end in (7, 60, 128, 140, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npy").write_bytes(whole[:end])
        with pytest.raises(UserError, match="is not a Haiku checkpoint"):
            interop_load.load(tmp_path / "cut.npy")


def test_a_pickle_without_numpys_header_is_refused(tmp_path):
    (tmp_path / "c.npy").write_bytes(pickle.dumps(haiku_names(10, 2)))
    with pytest.raises(UserError, match="is not a file of plain weights"):
        interop_load.load(tmp_path / "c.npy")
