"""The official AutoAttack on a small robust network, and everything that must stop it."""

import functools
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from score_jax import (
    autoattack_adapter,
    export,
    interop,
    models,
    official_autoattack,
    torch_models,
)
from score_jax import official_autoattack_recount as recount
from score_jax.artifact import sha256
from score_jax.data import sources
from score_jax.types import UserError

torch.set_num_threads(1)
MODEL = dict(name="cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.3059,), std=(0.3763,))
EPS = 0.1
ONE = ("apgd-ce",)


@functools.cache
def digits():
    """uint8[1797, 8, 8, 1] in a fixed random order, and labels."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pixels = np.uint8(np.round(data.images[order] * (255 / 16)))[..., None]
    return pixels, data.target[order].astype(np.int32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A network trained for seconds on one-step attacks, on all digits but the last 200."""
    torch.manual_seed(0)
    network = torch_models.create(**MODEL).requires_grad_(True).train()
    pixels, labels = digits()
    images = torch.from_numpy(pixels[:-200].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    targets = torch.from_numpy(labels[:-200].astype(np.int64))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    loss_of = torch.nn.functional.cross_entropy
    for _ in range(100):
        rows = torch.randint(len(images), (128,))
        x, y = images[rows], targets[rows]
        start = (x + (2 * torch.rand_like(x) - 1) * EPS).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(network(start), y), start)
        attacked = x + (start.detach() + EPS * gradient.sign() - x).clamp(-EPS, EPS)
        optimizer.zero_grad()
        loss_of(network(attacked.clamp(0, 1)), y).backward()
        optimizer.step()
    template = jax.eval_shape(models.create(**MODEL).init, jax.random.key(0))
    params, batch_stats = interop.from_state_dict("cnn-3", network.state_dict(), template)
    folder = export.save_artifact(
        tmp_path_factory.mktemp("run") / "export", model=MODEL, params=params,
        batch_stats=batch_stats, info=dict(dataset="digits", eps=EPS, norm="linf"),
    )  # fmt: skip
    return export.load(folder)


@pytest.fixture(autouse=True)
def test_images(monkeypatch):
    """The last 200 digits stand for the test split."""
    pixels, labels = digits()
    split = sources.Images(
        images=pixels[-200:], labels=labels[-200:], fingerprint="0" * 64, name="digits",
        split="test", path="",
    )  # fmt: skip
    monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)
    return split


def run(artifact, folder, **changes):
    arguments = dict(out=folder, attacks=ONE, report=lambda line: None)
    return official_autoattack.run(artifact, **{**arguments, **changes})


@pytest.fixture(scope="module")
def results(artifact, tmp_path_factory):
    """Both backends on 200 digits, and where they wrote."""
    pixels, labels = digits()
    images, found = pixels[-200:].astype(np.float32) / np.float32(255), {}
    for backend, build in official_autoattack.BACKENDS.items():
        folder = tmp_path_factory.mktemp(backend)
        result = official_autoattack.evaluate(
            build(artifact, 120), images, labels[-200:].astype(np.int64),
            num_classes=10, threat=recount.Threat(norm="linf", eps=EPS), backend=backend,
            model_sha256=artifact.spec["sha256"]["model.safetensors"],
            by_jax=export.logits_fn(artifact), batch_size=120, chunk_size=100, attacks=ONE,
            folder=folder, report=lambda line: None,
            facts={"name": "x", "dataset": "digits", "data_sha256": "0" * 64},
        )  # fmt: skip
        found[backend] = (result, folder)
    return found


def test_both_backends_find_the_same(results):
    bridge, converted = results["bridge"][0], results["torch"][0]
    assert bridge["clean_accuracy"] == converted["clean_accuracy"] > 0.9
    assert 0.2 < bridge["robust_accuracy"] < bridge["clean_accuracy"]
    assert abs(bridge["robust_accuracy"] - converted["robust_accuracy"]) <= 1 / 200
    assert (bridge["backend"], converted["backend"]) == ("bridge", "torch")


def test_the_result_says_what_the_number_depends_on(artifact, results):
    result, folder = results["bridge"]
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["num_examples"] == 200
    assert result["eps"] == {"value": 0.1, "written": "0.1"}
    assert (result["norm"], result["seed"], result["precision"]) == ("linf", 0, "float32")
    assert (result["official"], result["chunk_size"], result["seeding"]) == (True, 100, "chunk")
    assert result["attack_version"] == "standard: apgd-ce"
    assert result["attack_library"]["name"] == "pyautoattack"
    assert result["model_sha256"] == sha256(artifact.path / "model.safetensors")
    assert result["data_sha256"] == "0" * 64
    assert {"jax", "torch", "pyautoattack", "score_jax"} <= set(result["versions"])
    (attack,) = result["attacks"]
    assert attack["name"] == "apgd-ce" and attack["seconds"] > 0 and not attack["skipped"]
    assert attack["robust_accuracy"] == result["robust_accuracy"]
    assert attack["fallen"] == round(200 * (result["clean_accuracy"] - result["robust_accuracy"]))


def test_the_log_has_the_official_lines(results):
    result, folder = results["bridge"]
    log = (folder / "log.txt").read_text()
    assert f"initial accuracy: {result['clean_accuracy']:.2%}" in log
    assert re.search(r"robust accuracy after APGD-CE: \d+\.\d\d% \(total time \d+\.\d s\)", log)
    assert "max Linf perturbation: 0.10000, nan in tensor: 0" in log
    assert f"\nrobust accuracy: {result['robust_accuracy']:.2%}\n" in log


def test_saved_images_can_be_counted_again(artifact, results):
    result, folder = results["bridge"]
    assert result["adversarial_sha256"] == sha256(folder / "adversarial.npz")
    with np.load(folder / "adversarial.npz") as stored:
        images, labels, robust = stored["images"], stored["labels"], stored["robust"]
    assert images.dtype == np.float32 and images.shape == (200, 8, 8, 1)
    pixels, truth = digits()
    np.testing.assert_array_equal(labels, truth[-200:])
    assert 0.05 < np.abs(images - pixels[-200:] / 255).max() <= EPS + 1e-6
    predicted = np.asarray(export.logits_fn(artifact)(images)).argmax(1)
    np.testing.assert_array_equal(predicted == labels, robust)
    assert robust.mean() == result["robust_accuracy"]


def test_the_same_seed_finds_the_same_images(artifact, tmp_path):
    state = torch.random.get_rng_state()
    hashes = [
        run(artifact, tmp_path / str(take), num_examples=20, seed=3)["adversarial_sha256"]
        for take in range(2)
    ]
    assert hashes[0] == hashes[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_default_place_is_beside_the_export(artifact):
    official_autoattack.run(
        artifact.path.parent, num_examples=4, attacks=ONE, name="quick", norm="l2", eps=0.5,
        report=lambda line: None,
    )  # fmt: skip
    result = json.loads((artifact.path.parent / "eval/quick/result.json").read_text())
    assert (result["norm"], result["eps"]["written"]) == ("l2", "0.5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(eps=8), "eps=8 is not a radius in pixel units.*8/255"),
        (dict(eps=0.0), "eps=0 is not a positive radius"),
        (dict(eps=float("nan")), "eps=nan is not a positive radius"),
        (dict(norm="l3"), "unknown norm 'l3'; known: l1, l2, linf"),
        (dict(norm="l2"), "the artifact names no eps for norm=l2"),
        (dict(norm="l2", eps=8.0), "eps=8 in l2 reaches every image of 64 pixels"),
        (dict(norm="l1", eps=64.0), "eps=64 in l1 reaches every image"),
        (dict(eps=-1.0), "eps=-1 is not a positive radius"),
        (dict(shard="2/2"), "--shard=2/2 is not one of the parts"),
        (dict(chunk_size=0), "chunk_size=0 is not positive"),
        (dict(num_examples=201), "num_examples=201 is not within the 200 test images"),
        (dict(num_examples=-1), "num_examples=-1"),
        (dict(batch_size=0), "batch_size=0 is not positive"),
        (dict(backend="tensorflow"), "unknown backend 'tensorflow'"),
        (dict(version="quick"), "unknown AutoAttack version 'quick'"),
        (dict(attacks=("apgd",)), "unknown attack 'apgd'"),
        (dict(name="../x"), "name='../x' is not the name of one folder"),
    ],
)
def test_a_bad_argument_is_one_clear_line(artifact, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(artifact, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(labels=np.full(200, 10, np.int32)), r"labels lie in \[10, 10\]"),
        (dict(labels=np.full(200, -1, np.int32)), r"labels lie in \[-1, -1\]"),
        (dict(images=np.zeros((200, 9, 9, 1), np.uint8)), r"shape \(9, 9, 1\), the model takes"),
        (dict(images=np.zeros((200, 8, 8, 1), np.float32)), "are float32; they must be uint8"),
    ],
)
def test_other_data_is_refused(artifact, tmp_path, monkeypatch, test_images, change, message):
    fields = dict(images=test_images.images, labels=test_images.labels, fingerprint="")
    split = SimpleNamespace(**{**fields, **change})
    monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)
    with pytest.raises(UserError, match=message):
        run(artifact, tmp_path)


def test_another_network_under_attack_is_refused(artifact, tmp_path, monkeypatch):
    def other(artifact, batch_size):
        network = official_autoattack.converted(artifact, batch_size)
        network.logits.bias[:] = torch.linspace(-5, 5, 10)
        return network

    monkeypatch.setitem(official_autoattack.BACKENDS, "torch", other)
    with pytest.raises(UserError, match="not the same network"):
        run(artifact, tmp_path, backend="torch")


def test_a_softmax_is_refused(artifact, tmp_path, monkeypatch):
    def softened(artifact, batch_size):
        network = official_autoattack.converted(artifact, batch_size)
        return torch.nn.Sequential(network, torch.nn.Softmax(1))

    monkeypatch.setitem(official_autoattack.BACKENDS, "torch", softened)
    with pytest.raises(UserError, match="probabilities"):
        run(artifact, tmp_path, backend="torch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x + 0.11).clamp(0, 1), "outside eps=0.1"),
        (lambda x: x + 0.05, r"lie in \[0.05, 1.05\], outside"),
        (lambda x: x * float("nan"), "is nan from the clean one"),
        (lambda x: x, "AutoAttack counts .* JAX counts"),
    ],
)
def test_a_claim_that_fails_the_recount_is_not_written(
    artifact, tmp_path, monkeypatch, change, message
):
    """A network that is wrong about whatever an attack returned; the first passes are sound."""

    class Wrong(torch.nn.Module):
        def forward(self, images):
            logits = network(images.clamp(0, 1).nan_to_num())
            return -logits if lying else logits

    def attack(library, model, images, labels, **_):
        lying.append(True)
        return change(images)

    lying, network = [], official_autoattack.converted(artifact, 1)
    monkeypatch.setitem(official_autoattack.BACKENDS, "torch", lambda artifact, size: Wrong())
    monkeypatch.setattr(autoattack_adapter, "perturb", attack)
    with pytest.raises(UserError, match=message):
        run(artifact, tmp_path, num_examples=20, backend="torch")
    assert not {"result.json", "adversarial.npz"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("backend", "threads"), [("bridge", 1), ("torch", 2)])
def test_torch_leaves_the_cores_to_jax(artifact, tmp_path, monkeypatch, backend, threads):
    seen = []

    def watch(library, model, images, labels, **_):
        seen.append((torch.get_num_threads(), torch.backends.cudnn.allow_tf32))
        return images

    monkeypatch.setattr(autoattack_adapter, "perturb", watch)
    torch.set_num_threads(2)
    try:
        result = run(artifact, tmp_path, num_examples=4, backend=backend)
        assert torch.get_num_threads() == 2 and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_num_threads(1)
    assert seen == [(threads, False)]
    assert result["devices"]["torch_threads"] == threads


def test_a_tie_may_fall_either_way():
    images, labels = np.zeros((3, 1, 1, 1), np.float32), np.array([0, 0, 0])
    logits = np.array([[1, 0], [1, 1 + 1e-6], [0, 1]], np.float32)
    threat = recount.Threat(norm="l2", eps=0.5)
    check = functools.partial(
        recount.check_adversarial, images, images, labels, threat=threat, logits=logits
    )
    assert check(np.array([True, True, False])).disagreements == 1
    with pytest.raises(UserError, match="counts 2 of 3 .* JAX counts 1"):
        check(np.array([True, False, True]))


def test_another_network_is_refused():
    logits, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 0])
    recount.check_same(logits, logits, labels)
    with pytest.raises(UserError, match="clean accuracy is 0.6667 in JAX and 1.0000 for"):
        recount.check_same(logits, logits[[0, 1, 0]], labels)


def test_distances_are_those_of_the_norms():
    delta = np.float32([[0.3, -0.4]]).reshape(1, 1, 2, 1)
    for norm, distance in (("linf", 0.4), ("l2", 0.5), ("l1", 0.7)):
        found = recount.Threat(norm=norm, eps=1.0).distance(delta, np.zeros_like(delta))
        np.testing.assert_allclose(found, [distance], rtol=1e-6)
