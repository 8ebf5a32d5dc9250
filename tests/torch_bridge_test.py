"""The JAX classifier seen from PyTorch: same numbers, few programs, nothing shared by accident."""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

from score_jax import artifact as artifacts
from score_jax import interop, models, torch_bridge, torch_models
from score_jax.models import NormalizeBy
from score_jax.types import UserError

torch.set_num_threads(1)
MODEL = dict(name="cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.3,), std=(0.4,))


@pytest.fixture(scope="module")
def artifact():
    classifier = models.create(**MODEL)
    params, batch_stats = classifier.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0, 0.1, leaf.shape).astype(np.float32), batch_stats
    )
    return SimpleNamespace(classifier=classifier, params=params, batch_stats=noisy)


@pytest.fixture(scope="module")
def images():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def bridge(artifact):
    return torch_bridge.TorchClassifier(artifact, batch_size=32)


def input_gradient(network, images):
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        loss = torch.nn.functional.cross_entropy(
            network(images), torch.arange(len(images)) % 10, reduction="sum"
        )
    return torch.autograd.grad(loss, images)[0]


@pytest.mark.parametrize("count", [1, 17, 32, 40])
def test_logits_and_gradients_are_those_of_the_converted_network(artifact, bridge, images, count):
    network = torch_models.create(**MODEL)
    state = interop.to_state_dict("cnn-3", artifact.params, artifact.batch_stats)
    network.load_state_dict(state)
    given, expected = bridge(images[:count]), network(images[:count])
    assert np.ptp(expected.numpy()) > 1e-2
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
    slope, steep = (input_gradient(each, images[:count]) for each in (bridge, network))
    assert steep.abs().max() > 1e-4
    torch.testing.assert_close(slope, steep, atol=1e-5, rtol=1e-4)


def test_logits_are_those_of_jax(artifact, bridge, images):
    ours = artifacts.logits_fn(artifact)(images.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(bridge(images).numpy(), ours, atol=1e-6)


def test_one_size_compiles_two_programs(artifact, images):
    bridge = torch_bridge.TorchClassifier(artifact, batch_size=40)
    for _ in range(3):
        input_gradient(bridge, images)
        bridge(images)
    assert bridge.compilations == 2


def test_any_sequence_of_sizes_compiles_two_programs_a_rung(artifact, images):
    bridge = torch_bridge.TorchClassifier(artifact, batch_size=20)
    for count in (*range(40, 0, -1), 3, 29):
        bridge(images[:count])
        input_gradient(bridge, images[:count])
    assert len(bridge.rungs) == 3
    assert bridge.compilations == 2 * len(bridge.rungs)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100, 359, 500])
def test_the_ladder_wastes_at_most_half(batch_size):
    rungs = torch_bridge.ladder(batch_size)
    assert rungs[-1] == batch_size
    assert list(rungs) == sorted(set(rungs))
    assert rungs[0] <= torch_bridge.SMALLEST_RUNG
    assert len(rungs) <= 11
    for low, high in itertools.pairwise(rungs):
        assert high <= 1.5 * (low + 1)


def test_an_empty_batch_has_empty_logits(bridge):
    assert bridge(torch.zeros(0, 1, 8, 8)).shape == (0, 10)


def test_writing_into_a_result_changes_nothing_else(bridge, images):
    before = images.clone()
    first = bridge(images)
    kept = first.clone()
    first[:] = -np.inf
    assert torch.equal(bridge(images), kept)
    assert torch.equal(images, before)


def test_dlpack_gives_the_same_and_owns_its_result(bridge, images, monkeypatch):
    through_host = bridge(images[:32]), input_gradient(bridge, images[:32])
    monkeypatch.setattr(torch_bridge, "exchange_for", lambda device: torch_bridge.THROUGH_DLPACK)
    given = bridge(images[:32])
    torch.testing.assert_close(given, through_host[0])
    torch.testing.assert_close(input_gradient(bridge, images[:32]), through_host[1])
    given[:] = 0
    torch.testing.assert_close(bridge(images[:32]), through_host[0])


@pytest.mark.parametrize("exchange", ["THROUGH_HOST", "THROUGH_DLPACK"])
def test_torch_never_writes_into_what_jax_holds(exchange):
    array = jax.numpy.ones(3)
    getattr(torch_bridge, exchange).to_torch(array, torch.device("cpu"))[:] = 7
    np.testing.assert_array_equal(array, np.ones(3))


def test_only_a_shared_gpu_takes_dlpack(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert torch_bridge.exchange_for(cuda) is torch_bridge.THROUGH_HOST
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert torch_bridge.exchange_for(cuda) is torch_bridge.THROUGH_DLPACK
    assert torch_bridge.exchange_for(cpu) is torch_bridge.THROUGH_HOST


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.full((2, 1, 8, 8), 1.001), r"lie in \[1.001, 1.001\]"),
        (torch.full((2, 1, 8, 8), -0.4), r"not normalised"),
        (torch.full((2, 1, 8, 8), float("nan")), r"lie in \[nan, nan\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.float64), "are torch.float64 of shape"),
        (torch.zeros(2, 8, 8, 1), r"takes torch.float32 of shape \(b, 1, 8, 8\)"),
    ],
)
def test_what_is_not_an_image_is_refused(bridge, given, message):
    with pytest.raises(UserError, match=message):
        bridge(given)


def test_rounding_at_the_border_is_let_through(bridge):
    assert bridge(torch.full((2, 1, 8, 8), 1 + 5e-7)).shape == (2, 10)


def test_a_batch_size_below_one_is_refused(artifact):
    with pytest.raises(UserError, match="batch_size=0"):
        torch_bridge.TorchClassifier(artifact, batch_size=0)


def test_smaller_batches_give_the_same(artifact, images):
    bridge = torch_bridge.TorchClassifier(artifact, batch_size=32)
    before = bridge(images), input_gradient(bridge, images)
    bridge.resize(5)
    assert (bridge.batch_size, bridge.rungs) == (5, (5,))
    after = bridge(images), input_gradient(bridge, images)
    for found, expected in zip(after, before, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="batch_size=0"):
        bridge.resize(0)


def test_a_sound_classifier_passes_the_checks(bridge, images):
    torch_bridge.check_logits(bridge, images, 10)


def by_batch_statistics(artifact):
    def forward(images):
        logits, _ = artifact.classifier.apply(
            artifact.params, artifact.batch_stats, images.permute(0, 2, 3, 1).numpy(),
            normalize_by=NormalizeBy.BATCH,
        )  # fmt: skip
        return torch.from_numpy(np.array(logits))

    return forward


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda bridge, _: lambda x: bridge(x).softmax(1), "returned probabilities"),
        (lambda bridge, _: lambda x: bridge(x) * float("nan"), "NaN or infinite"),
        (lambda bridge, _: lambda x: bridge(x)[:, :7], r"returned shape \(40, 7\)"),
        (
            lambda bridge, _: lambda x: bridge(x) + 0.01 * torch.rand(len(x), 10),
            "between two passes over the same images",
        ),
        (lambda _, artifact: by_batch_statistics(artifact), "between batches of 40 and 13"),
        (lambda bridge, _: lambda x: bridge(x) * 0 + x.sum() * 0, "is zero or not finite"),
    ],
)
def test_an_unsound_classifier_is_refused(bridge, artifact, images, wrap, message):
    with pytest.raises(UserError, match=message):
        torch_bridge.check_logits(wrap(bridge, artifact), images, 10)
