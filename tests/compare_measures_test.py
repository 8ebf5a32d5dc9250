"""The numbers of a comparison, on answers that are known; and modules of every family, paired."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from score_jax import compare_attacks, compare_layers, compare_measures
from score_jax.artifact import WEIGHTS, Artifact
from score_jax.compare_sides import jax_side, torch_side
from tests import tiny_networks


def test_logits_differences_are_told_per_image():
    one = np.array([[4.0, 0.0], [1.0, 1.0 + 1e-6], [0.0, 2.0]], np.float32)
    other = one + np.array([[0.0, 0.4], [2e-6, 0.0], [3.0, 0.0]], np.float32)
    found = compare_measures.compare_logits(one, other)
    assert found["max_difference"] == pytest.approx(3)
    assert found["max_relative_difference"] == pytest.approx(1.5)
    assert found["agreement"] == pytest.approx(1 / 3)
    assert found["disagreements"] == [
        {"image": 1, "a": 1, "b": 0, "is_tie": True},
        {"image": 2, "a": 1, "b": 0, "is_tie": False},
    ]
    assert compare_measures.decisions_differ(found) == 1


def test_gradients_are_compared_image_by_image():
    one = np.array([[1.0, -1.0], [0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]).reshape(4, 1, 2, 1)
    other = np.array([[1.0, 1.0], [0.0, 0.0], [4.0, 0.0], [1.0, 0.0]]).reshape(4, 1, 2, 1)
    found = compare_measures.compare_gradients(one, other)
    assert found["mean_cosine"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert found["min_cosine"] == 0
    assert found["max_relative_difference"] == pytest.approx(2)
    assert found["sign_agreement"] == pytest.approx(6 / 8)
    assert found["zero_gradients"] == {"a": 2, "b": 1}


def test_agreement_counts_every_image_once():
    one, other = np.array([1, 1, 0, 0, 1, 1], bool), np.array([1, 0, 1, 0, 1, 0], bool)
    found = compare_measures.agreement(one, other)
    assert found == {
        "both": 2, "only_a": 2, "only_b": 1, "neither": 1, "differing_images": [1, 2, 5],
    }  # fmt: skip


def test_each_side_judges_its_own_images_and_the_others():
    """A is right where the pixel is 0 or 1/4, B where it is 0."""

    def side(*rights):
        right = np.array(rights)
        return SimpleNamespace(logits=lambda x: np.stack([np.isin(x.ravel(), right), x.ravel()], 1))

    sides = side(0, 0.25), side(0)
    found = [np.array(pixels).reshape(4, 1, 1, 1) for pixels in ([0, 0.25, 0.25, 1], [0, 0, 1, 1])]
    labels = np.zeros(4, np.int64)
    result = compare_attacks.compare_pgd(sides, found, labels, lambda ask, *arrays: ask(*arrays))
    assert result["robust_accuracy"] == {"a": 0.75, "b": 0.5}
    assert result["transfer"] == {"images_of_a_judged_by_b": 0.25, "images_of_b_judged_by_a": 0.5}
    assert result["robust"]["only_a"] == 1 and result["robust"]["neither"] == 1
    assert result["same_adversarial_images"] == 0.5
    assert result["max_pixel_difference"] == 0.75


def facts(relative, wrong=0, ties=0):
    disagreements = [{"is_tie": False}] * wrong + [{"is_tie": True}] * ties
    return {
        "max_difference": relative, "max_relative_difference": relative, "num_images": 50,
        "disagreements": disagreements,
    }  # fmt: skip


@pytest.mark.parametrize(
    "logits, cosine, parted, expected",
    [
        (facts(1e-6), 1.0, None, "same to rounding: logits differ by at most 1e-06"),
        (facts(1e-6, ties=2), 1.0, None, "same to rounding"),
        (facts(1e-2), 1.0, "conv_1", "same decisions, logits differ by 0.01 .*part at conv_1"),
        (facts(1e-6), 0.3, None, "another input gradient .median cosine 0.3000"),
        (facts(1e-2, wrong=3), 1.0, "conv_1", "different networks: part at conv_1; 3 of 50 dec"),
        (facts(1e-2, wrong=3), 1.0, None, "different networks; 3 of 50 decisions differ"),
    ],
)
def test_the_verdict(logits, cosine, parted, expected):
    layers = {"parted_at": parted}
    found = compare_measures.verdict(logits, {"median_cosine": cosine}, layers)
    assert re.search(expected, found)


def test_a_relative_difference_is_of_the_whole():
    assert compare_layers.relative_difference(np.array([3.0, 4.0]), np.array([3.0, 0.0])) == 0.8
    assert compare_layers.relative_difference(np.zeros(2), np.zeros(2)) == 0
    assert compare_layers.relative_difference(np.zeros(2), np.ones(2)) == 1


# One of each family, and the one whose blocks' shortcuts have parts.
@pytest.mark.parametrize(
    "name", ["wrn-16-2-swish", "wrn-10-1-relu", "preact-resnet-18-relu", "resnet-18", "cnn-002"]
)
def test_every_module_meets_its_own_in_pytorch(name):
    params, batch_stats = tiny_networks.weights(name)
    section = dict(name=name, **tiny_networks.arguments(tiny_networks.SHAPES[name]))
    artifact = Artifact(
        classifier=tiny_networks.create(name), params=params, batch_stats=batch_stats,
        spec={"model": section, "sha256": {WEIGHTS: ""}}, path=None,
    )  # fmt: skip
    images = tiny_networks.images(name, 2)
    ours = jax_side(artifact, label="a").activations(images)
    theirs = torch_side(artifact, label="b").activations(images)
    found = compare_layers.compare_activations(ours, theirs)
    compared = {row["path"] for row in found["modules"]}
    # All but those without weights, and every one of PyTorch's.
    assert {path for path in ours if "dropout" not in path} == compared == set(theirs)
    assert found["parted_at"] is None
    paths = [row["path"] for row in found["modules"]]
    assert paths[-1] == "logits" and paths[0] in ("init_conv", "conv_2d", "conv", "conv_0")
    if "layer_0/block_0" in ours:
        assert paths.index("layer_0/block_0") > paths.index("layer_0/block_0/conv_0" if
            "layer_0/block_0/conv_0" in ours else "layer_0/block_0/conv_2d_1")  # fmt: skip
