"""Weights under the field's names, and the PyTorch networks they belong to."""

import jax
import numpy as np
import pytest
import torch

from score_jax import interop, models, torch_models
from score_jax.models import NormalizeBy
from score_jax.types import UserError

torch.set_num_threads(1)  # Tiny networks: more threads only wait for each other.

SHAPES = {
    "cnn-3": (8, 8, 1),
    "wrn-16-2-swish": (16, 16, 3),
    "wrn-16-1-relu": (16, 16, 3),
    "preact-resnet-18-swish": (16, 16, 3),
    "preact-resnet-18-relu": (16, 16, 3),
}


def arguments(shape, num_classes=10):
    channels = shape[-1]
    return dict(
        num_classes=num_classes,
        image_shape=shape,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.3, 0.25)[:channels],
    )


def template(name, shape=(32, 32, 3)):
    return jax.eval_shape(models.create(name, **arguments(shape)).init, jax.random.key(0))


def filled(tree):
    """Every leaf random and of order 1, so that a swapped pair shows in the logits."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.uniform(0.5, 1.5, leaf.shape)
        if len(leaf.shape) > 1:
            values = rng.normal(0, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return values.astype(np.float32)

    return jax.tree.map(draw, tree)


def weights(name):
    return filled(template(name, SHAPES[name]))


@pytest.mark.parametrize("name", SHAPES)
def test_both_networks_give_the_same_logits(name):
    params, batch_stats = weights(name)
    network = torch_models.create(name, **arguments(SHAPES[name]))
    network.load_state_dict(interop.to_state_dict(name, params, batch_stats), strict=True)
    images = np.random.default_rng(1).uniform(0, 1, (3, *SHAPES[name])).astype(np.float32)
    classifier = models.create(name, **arguments(SHAPES[name]))
    ours, _ = classifier.apply(params, batch_stats, images, normalize_by=NormalizeBy.RUNNING)
    theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.ptp(theirs) > 0.05
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


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
    state["mean"] = torch.zeros(1, 1, 1)
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
    assert list(interop.read_state_dict(tmp_path / "a.pt")) == list(state)


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
