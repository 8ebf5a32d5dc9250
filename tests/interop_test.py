"""Weights under the field's names, and the PyTorch networks they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from score_jax import interop, torch_models
from score_jax.models import NormalizeBy
from score_jax.types import UserError
from tests.tiny_networks import SHAPES, arguments, create, images, template, weights

torch.set_num_threads(1)  # Tiny networks: more threads only wait for each other.


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in ("resnet-50", "small-cnn"))) for n in SHAPES],
)
def test_both_networks_give_the_same_logits_and_gradients(name):
    params, batch_stats = weights(name)
    network = torch_models.create(name, **arguments(SHAPES[name]))
    network.load_state_dict(interop.to_state_dict(name, params, batch_stats), strict=True)
    classifier, x = create(name), images(name, 2)
    probe = np.cos(np.arange(20, dtype=np.float32)).reshape(2, 10)

    def projected(x):
        logits, _ = classifier.apply(params, batch_stats, x, normalize_by=NormalizeBy.RUNNING)
        return jnp.vdot(logits, probe), logits

    ours, gradient = jax.grad(projected, has_aux=True)(x)[::-1]
    leaf = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs = network(leaf)
    (their_gradient,) = torch.autograd.grad((theirs * torch.from_numpy(probe)).sum(), leaf)
    theirs, their_gradient = theirs.detach().numpy(), their_gradient.numpy().transpose(0, 2, 3, 1)
    assert np.ptp(theirs) > 0.05
    for a, b in ((ours, theirs), (gradient, their_gradient)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("name", SHAPES)
def test_names_come_in_the_stored_order(name):
    state = interop.to_state_dict(name, *weights(name))
    network = torch_models.create(name, **arguments(SHAPES[name]))
    assert list(state) == list(network.state_dict())


@pytest.mark.parametrize("name", SHAPES)
def test_round_trip_is_the_identity(name):
    trees = weights(name)
    state = interop.to_state_dict(name, *trees)
    back = interop.from_state_dict(name, state, template(name, SHAPES[name]))
    assert jax.tree.structure(back) == jax.tree.structure(trees)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, trees))


@pytest.mark.parametrize(
    ("name", "num_parameters", "linear"),
    [("cnn-001", 1_199_882, "fc1"), ("cnn-002", 312_202, "classifier.fc1")],
)
def test_sizes_of_the_networks_of_28_pixels(name, num_parameters, linear):
    with torch.device("meta"):
        network = torch_models.create(name, **arguments((28, 28, 1)))
    assert sum(value.numel() for value in network.parameters()) == num_parameters
    features = template(name, (28, 28, 1))[0]["fc" if name == "cnn-001" else "fc_0"]["kernel"]
    assert network.state_dict()[f"{linear}.weight"].shape == features.shape[::-1]


@pytest.mark.parametrize(
    ("name", "entries", "num_parameters", "some"),
    [
        # Reference tables of the SCORE code's networks, and RobustBench's classes.
        (
            "wrn-28-10-swish", 155, 36_479_194,
            {
                "init_conv.weight": (16, 3, 3, 3),
                "layer.0.block.0.shortcut.weight": (160, 16, 1, 1),
                "layer.2.block.3.batchnorm_1.running_var": (640,),
                "batchnorm.num_batches_tracked": (),
                "logits.weight": (10, 640),
            },
        ),
        (
            "wrn-34-10-relu", None, 46_160_474,
            {
                "conv1.weight": (16, 3, 3, 3),
                "block1.layer.0.convShortcut.weight": (160, 16, 1, 1),
                "block3.layer.4.bn2.running_mean": (640,),
                "bn1.weight": (640,),
                "fc.bias": (10,),
            },
        ),
        (
            "preact-resnet-18-swish", None, 12_548_426,
            {
                "conv_2d.weight": (64, 3, 3, 3),
                "layer_1.0.shortcut.weight": (128, 64, 3, 3),
                "layer_3.1.conv_2d_2.weight": (512, 512, 3, 3),
                "logits.bias": (10,),
            },
        ),
        (
            "preact-resnet-18-relu", None, 11_172_170,
            {
                "layer1.0.bn1.weight": (64,),
                "layer2.0.shortcut.0.weight": (128, 64, 1, 1),
                "bn.running_mean": (512,),
                "linear.weight": (10, 512),
            },
        ),
        (
            "preact-resnet-18-headless", None, 11_171_146,
            {"layer4.1.bn2.weight": (512,), "linear.bias": (10,)},
        ),
        (
            "resnet-18", 122, 11_173_962,
            {
                "bn1.running_var": (64,),
                "layer2.0.shortcut.0.weight": (128, 64, 1, 1),
                "layer2.0.shortcut.1.bias": (128,),
                "layer4.1.conv2.weight": (512, 512, 3, 3),
                "linear.weight": (10, 512),
            },
        ),
        (
            "resnet-50", 320, 23_528_522,
            {
                "conv1.weight": (64, 3, 7, 7),
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer3.5.bn3.running_mean": (1024,),
                "fc.weight": (10, 2048),
            },
        ),
        (
            "small-cnn", None, 1_639_282,
            {
                "block3_conv2.weight": (196, 196, 3, 3),
                "block1_conv1.bias": (64,),
                "batchnorm3_1.weight": (196,),
                "fc1.weight": (256, 3136),
            },
        ),
    ],
)  # fmt: skip
def test_published_names_shapes_and_sizes(name, entries, num_parameters, some):
    with torch.device("meta"):
        network = torch_models.create(name, **arguments((32, 32, 3)))
    state = network.state_dict()
    assert {key: tuple(state[key].shape) for key in some} == some
    assert sum(value.numel() for value in network.parameters()) == num_parameters
    assert entries is None or len(state) == entries
    assert not {"mean", "std"} & set(state)
    named = {name for name, *_ in interop._ordered(name, *template(name))}
    assert named == {key for key in state if not key.endswith("num_batches_tracked")}


def test_wrappers_counters_and_input_constants_are_dropped():
    params, batch_stats = weights("cnn-3")
    state = interop.to_state_dict("cnn-3", params, batch_stats)
    state |= {"mean": torch.zeros(1, 1, 1), "std": torch.ones(1, 1, 1)}
    wrapped = {f"module.0.{name}": value for name, value in state.items()}
    back, _ = interop.from_state_dict("cnn-3", wrapped, (params, batch_stats))
    np.testing.assert_array_equal(back["conv_1"]["kernel"], params["conv_1"]["kernel"])


def test_what_does_not_fit_is_named():
    params, batch_stats = weights("cnn-3")
    state = interop.to_state_dict("cnn-3", params, batch_stats)
    del state["conv_1.weight"]
    state["head.weight"] = torch.zeros(3)
    state["logits.weight"] = torch.zeros(7, 64)
    with pytest.raises(UserError) as raised:
        interop.from_state_dict("cnn-3", state, (params, batch_stats))
    message = str(raised.value)
    assert "1 missing: conv_1.weight" in message
    assert "1 unexpected: head.weight" in message
    assert "logits.weight is (7, 64), the model has (10, 64)" in message


def test_a_model_without_names_is_refused():
    with pytest.raises(UserError, match="no PyTorch names for model 'vit-2'"):
        interop.to_state_dict("vit-2", {"a": {"kernel": np.zeros((2, 2))}}, {})
    with pytest.raises(UserError, match="no PyTorch form of model 'vit-2'"):
        torch_models.create("vit-2", **arguments((8, 8, 1)))


def test_a_stored_file_is_unpacked(tmp_path):
    state = interop.to_state_dict("cnn-3", *weights("cnn-3"))
    torch.save({"model_state_dict": state, "unaveraged_model_state_dict": {}}, tmp_path / "a.pt")
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    assert list(interop.read_state_dict(tmp_path / "a.pt")) == names


class Harmful:
    ran = False

    def __reduce__(self):
        return (setattr, (Harmful, "ran", True))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": Harmful()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="bad.pt is not a file of plain weights"):
        interop.read_state_dict(tmp_path / "bad.pt")
    assert not Harmful.ran


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": 3}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match="holds no state_dict"):
        interop.read_state_dict(tmp_path / "other.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.pt: no such file"):
        interop.read_state_dict(tmp_path / "none.pt")
