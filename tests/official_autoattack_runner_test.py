"""The runner is the official evaluation, cut into chunks that survive the process."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from score_jax import autoattack_adapter
from score_jax import official_autoattack_batches as batches
from score_jax import official_autoattack_identity as identities
from score_jax import official_autoattack_plan as plans
from score_jax import official_autoattack_recount as recount
from score_jax.types import UserError
from tests import official_autoattack_tiny as tiny

torch.set_num_threads(1)
STANDARD = autoattack_adapter.VERSIONS["standard"]


@pytest.fixture(autouse=True)
def library(monkeypatch):
    return tiny.shorten_library(monkeypatch)


def without_times(result):
    """A result that can be compared with another run's."""
    if isinstance(result, dict):
        return {key: without_times(value) for key, value in result.items() if key != "seconds"}
    return [without_times(value) for value in result] if isinstance(result, list) else result


def left_by(folder):
    """The bytes and the facts that an evaluation leaves, but for times."""
    result = json.loads((folder / "result.json").read_text())
    return without_times(result), (folder / "adversarial.npz").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny.shorten_library(monkeypatch)
        folder = tmp_path_factory.mktemp("whole") / "x"
        tiny.evaluate(folder)
    return folder


def officially(library, images, labels, attacks, **options):
    """What `run_standard_evaluation` itself returns: images f32[n, h, w, c], predictions."""
    adversary = library.factory(tiny.network(), device="cpu", **options)
    adversary.attacks_to_run = list(attacks)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.random.fork_rng():
        found, predictions = adversary.run_standard_evaluation(
            inputs, torch.from_numpy(labels), batch_size=len(labels)
        )
    return found.numpy().transpose(0, 2, 3, 1), predictions.numpy()


@pytest.mark.parametrize(
    ("version", "norm", "eps", "attacks"),
    [
        *(("standard", "linf", 0.05, (attack,)) for attack in STANDARD),
        ("standard", "linf", 0.03, STANDARD),
        ("standard", "l2", 0.2, STANDARD),
        ("standard", "l1", 1.0, STANDARD),
        ("plus", "linf", 0.02, autoattack_adapter.VERSIONS["plus"]),
        ("plus", "linf", 0.05, ("fab",)),
        ("rand", "linf", 0.02, autoattack_adapter.VERSIONS["rand"]),
    ],
)
def test_one_chunk_with_one_seed_is_the_official_evaluation(
    library, tmp_path, version, norm, eps, attacks
):
    images, labels = tiny.images_and_labels()
    result = tiny.evaluate(
        tmp_path, chunk_size=100, seeding="official", seed=7, version=version, attacks=attacks,
        threat=recount.Threat(norm=norm, eps=eps),
    )  # fmt: skip
    expected, predictions = officially(
        library, images, labels, attacks, norm=autoattack_adapter.NORMS[norm], eps=eps, seed=7,
        version=version,
    )  # fmt: skip
    assert result["robust_accuracy"] < result["clean_accuracy"] == 13 / 14
    with np.load(tmp_path / "adversarial.npz") as stored:
        np.testing.assert_array_equal(stored["images"], expected)
        np.testing.assert_array_equal(stored["robust"], predictions == labels)


def test_each_chunk_is_the_official_class_with_its_seed(library, uninterrupted):
    images, labels = tiny.images_and_labels()
    fallen, seeds = 0, set()
    for path in sorted((uninterrupted / "chunks").glob("*.npz")):
        with np.load(path) as stored:
            facts, rows = json.loads(str(stored["facts"])), stored["indices"]
            fell, found = stored["fallen"], stored["images"]
        if facts["attack"] == "clean" or not len(rows):
            continue
        assert facts["seed"] == plans.by_chunk(0, facts["attack"], facts["chunk"])
        expected, predictions = officially(
            library, images[rows], labels[rows], [facts["attack"]], norm="Linf", eps=0.03,
            seed=facts["seed"], version="standard",
        )  # fmt: skip
        np.testing.assert_array_equal(fell, predictions != labels[rows])
        np.testing.assert_array_equal(found, expected[fell])
        seeds.add(facts["seed"])
        fallen += fell.sum()
    assert fallen > 3 and len(seeds) == 12


def test_the_seed_of_a_chunk_is_a_documented_function():
    assert plans.by_chunk(0, "apgd-ce", 0) == 218_536_763
    assert plans.by_chunk(0, "apgd-ce", 0) != plans.by_chunk(0, "apgd-ce", 1)
    assert plans.as_official(5, "square", 3) == 5


@pytest.mark.parametrize("attack", STANDARD)
def test_an_evaluation_that_died_goes_on_to_the_same_bytes(
    tmp_path, monkeypatch, uninterrupted, attack
):
    real, calls, lines = autoattack_adapter.perturb, [], []

    def dying(*arguments, **options):
        calls.append(options["attack"])
        if calls.count(attack) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(autoattack_adapter, "perturb", dying)
    with pytest.raises(KeyboardInterrupt):
        tiny.evaluate(tmp_path)
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(autoattack_adapter, "perturb", real)
    tiny.evaluate(tmp_path, report=lines.append)
    assert f"goes on at {attack} - 2/3: {4 + 3 * STANDARD.index(attack)} of 15 were done" in lines
    assert f"{attack} - 1/3 - " not in "\n".join(lines)
    assert left_by(tmp_path) == left_by(uninterrupted)


KILLED = """
import sys
from pathlib import Path
import pytest
from tests import official_autoattack_tiny as tiny
import torch
torch.set_num_threads(1)
tiny.shorten_library(pytest.MonkeyPatch())
tiny.evaluate(Path(sys.argv[1]), report=lambda line: print(line, flush=True))
"""


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path, uninterrupted):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[1], env=dict(os.environ, JAX_PLATFORMS="cpu"),
    )  # fmt: skip
    next(line for line in process.stdout if line.startswith("apgd-t - 1/3"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "result.json").exists()
    tiny.evaluate(tmp_path)
    assert left_by(tmp_path) == left_by(uninterrupted)


def test_the_log_has_the_official_lines(uninterrupted):
    result, log = left_by(uninterrupted)[0], (uninterrupted / "log.txt").read_text()
    assert "\ninitial accuracy: 92.86%\n" in log
    assert re.search(r"\napgd-ce - 1/3 - \d out of 4 successfully perturbed\n", log)
    assert re.search(r"\nrobust accuracy after APGD-CE: \d+\.\d\d% \(total time \d+\.\d s\)\n", log)
    assert re.search(
        r"\nmax Linf perturbation: 0\.03000, nan in tensor: 0, max: \d\.\d{5}, min: \d\.\d{5}\n",
        log,
    )
    assert f"\nrobust accuracy: {result['robust_accuracy']:.2%}\n" in log
    assert re.search(r"\napgd-ce: 4 images in \d+\.\d s, 9 in 2 chunks left, ETA \d+m\d\ds\n", log)


def test_a_finished_evaluation_is_not_computed_again(tmp_path, monkeypatch, uninterrupted):
    first, lines = tiny.evaluate(tmp_path), []
    monkeypatch.delattr(autoattack_adapter, "perturb")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert tiny.evaluate(tmp_path, report=lines.append) == first
    assert lines == [f"{tmp_path / 'result.json'} is of this very evaluation, and finished"]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (tmp_path / "adversarial.npz").write_bytes(b"torn")
    monkeypatch.undo()
    tiny.shorten_library(monkeypatch)
    tiny.evaluate(tmp_path)
    assert left_by(tmp_path) == left_by(uninterrupted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_sha256="n" * 64), "something else (another model)"),
        (dict(described=dict(mean=[0.5])), "something else (another network or normalisation)"),
        (dict(threat=recount.Threat(norm="linf", eps=0.05)), "eps 0.03 there, 0.05 here"),
        (dict(threat=recount.Threat(norm="l2", eps=0.03)), "norm linf there, l2 here"),
        (dict(version="rand"), "version standard there, rand here; attacks apgd-ce,apgd-t,fab-t,"),
        (dict(attacks=("square",)), "attacks apgd-ce,apgd-t,fab-t,square there, square here"),
        (dict(seed=1), "seed 0 there, 1 here"),
        (dict(seeding="official"), "seeding chunk there, official here"),
        (dict(chunk_size=7), "chunk_size 5 there, 7 here"),
        (dict(backend="bridge"), "backend torch there, bridge here"),
        (dict(images=tiny.images_and_labels()[0] / 2), "another images"),
    ],
)
def test_another_evaluation_is_not_mixed_in(uninterrupted, changes, message):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    if message == "another images":
        message = "(other images or labels)"
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        tiny.evaluate(uninterrupted, **changes)
    assert "give another --name" in str(refused.value)
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}


def test_another_library_is_not_mixed_in(uninterrupted, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "9.9.9+cpu")
    with pytest.raises(UserError, match=r"torch [\d.]+ there, 9\.9\.9 here"):
        tiny.evaluate(uninterrupted)


def test_a_result_without_chunks_is_kept(tmp_path):
    (tmp_path / "result.json").write_text('{"attack": "pgd40"}')
    with pytest.raises(UserError, match=r"another result \(attack pgd40\) without chunks"):
        tiny.evaluate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    tiny.evaluate(tmp_path, set_aside_other=True, attacks=("apgd-ce",))
    assert (tmp_path / "earlier-1" / "result.json").read_text() == '{"attack": "pgd40"}'
    assert json.loads((tmp_path / "result.json").read_text())["official"] is True


@pytest.mark.parametrize("harm", ["torn", "flipped", "encrypted", "foreign"])
def test_a_damaged_chunk_is_computed_again(tmp_path, uninterrupted, harm):
    tiny.evaluate(tmp_path)
    (tmp_path / "result.json").unlink()
    path, lines = tmp_path / "chunks" / "apgd-ce-0001.npz", []
    content = bytearray(path.read_bytes())
    if harm == "torn":
        path.write_bytes(content[:100])
    elif harm == "encrypted":
        # A bit of the archive's own directory.
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
    elif harm == "flipped":
        with np.load(path) as stored:
            first = stored["images"].tobytes()[:32]
        content[content.index(first)] ^= 1
        path.write_bytes(content)
    else:
        tiny.evaluate(tmp_path / "other", seed=1, attacks=("apgd-ce",))
        path.write_bytes((tmp_path / "other" / "chunks" / path.name).read_bytes())
    damaged = path.read_bytes()
    tiny.evaluate(tmp_path, report=lines.append)
    (line,) = (line for line in lines if "set aside as apgd-ce-0001.npz.damaged" in line)
    assert ("belongs to another evaluation" if harm == "foreign" else "is damaged") in line
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert left_by(tmp_path) == left_by(uninterrupted)


class SmallMemory(torch.nn.Module):
    """The tiny network on a device that holds `fits` images."""

    def __init__(self, fits, error):
        super().__init__()
        self.network, self.fits, self.error = tiny.network(), fits, error

    def forward(self, images):
        if len(images) > self.fits:
            raise self.error
        return self.network(images)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes."),
    ],
)
def test_the_batch_is_halved_where_memory_runs_out(tmp_path, uninterrupted, error):
    lines, model = [], SmallMemory(2, error)
    result = tiny.evaluate(tmp_path, model=model, report=lines.append)
    assert "out of memory with 5 images at a time; going on with 2" in lines
    assert result["batch_size"] == 2
    whole = left_by(uninterrupted)[0]
    assert result["attacks"][0]["fallen"] == whole["attacks"][0]["fallen"]
    assert result["robust_accuracy"] == whole["robust_accuracy"]
    (tmp_path / "result.json").unlink()
    tiny.evaluate(tmp_path, model=SmallMemory(2, error), report=lines.append)
    with pytest.raises(UserError, match="out of memory with one image at a time"):
        tiny.evaluate(tmp_path / "none", model=SmallMemory(0, error))
    assert not (tmp_path / "none").exists()


def test_parts_have_the_gradient_of_the_whole():
    images = torch.rand(7, 1, tiny.SIDE, tiny.SIDE)
    weights, gradients = torch.rand(7, 10), []
    for size in (7, 3):
        given = images.clone().requires_grad_()
        logits = batches.InParts(tiny.network(), size)(given)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), given)
        gradients.append(gradient)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_other_errors_are_not_taken_for_memory(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        tiny.evaluate(tmp_path / "x", model=SmallMemory(0, RuntimeError("a bug")))


def test_two_processes_do_not_share_a_folder(tmp_path):
    (tmp_path / "chunks").mkdir()
    with (tmp_path / "chunks" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is at work in"):
            tiny.evaluate(tmp_path)
    with identities.locked(tmp_path / "chunks", identities.Shard(0, 2)):
        with pytest.raises(UserError, match="another process"):
            tiny.evaluate(tmp_path, shard=identities.Shard(0, 2))
        told = tiny.evaluate(tmp_path, shard=identities.Shard(1, 2), attacks=("apgd-ce",))
    assert told == {"shard": "1/2", "files": 2, "folder": str(tmp_path)}


@pytest.mark.parametrize("text", ["2/2", "0/0", "x", "1", "-1/2", "1/2/3", "0.5/2", " 0/2"])
def test_nonsense_is_no_shard(text):
    with pytest.raises(UserError, match=r"--shard=.* is not one of the parts"):
        identities.Shard.parse(text)


def test_a_shard_without_chunks_is_refused(tmp_path):
    with pytest.raises(UserError, match="--shard=3/4 has none of the 3 chunks; use 3 shards"):
        tiny.evaluate(tmp_path / "x", shard=identities.Shard(3, 4))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_classes=7), r"labels lie in \[\d, \d\], the model has 7 classes"),
        (dict(num_classes=11), r"returned shape \(14, 10\)"),
        (dict(images=tiny.images_and_labels()[0] * 255), r"images lie in \[0\.\d+, 2\d\d"),
        (dict(images=tiny.images_and_labels()[0] * np.float32("nan")), "images lie in"),
        (dict(labels=np.full(14, -1)), r"labels lie in \[-1, -1\]"),
        (dict(labels=np.zeros(3, np.int64)), "3 labels and images"),
        (dict(chunk_size=0), "chunk_size=0 is not positive"),
        (dict(seeding="random"), "unknown seeding 'random'"),
        (dict(attacks=("square", "square")), "attack 'square' is given twice"),
        (dict(model=torch.nn.Sequential(tiny.network(), torch.nn.Softmax(1))), "probabilities"),
    ],
)  # fmt: skip
def test_bad_input_leaves_nothing_behind(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tiny.evaluate(tmp_path / "x", **changes)
    assert not (tmp_path / "x").exists()


def test_few_classes_leave_out_an_attack_and_say_so(tmp_path):
    images, labels = tiny.images_and_labels(num_classes=3)
    result = tiny.evaluate(
        tmp_path, model=tiny.network(num_classes=3), num_classes=3, images=images, labels=labels
    )
    assert [attack["name"] for attack in result["attacks"]] == ["apgd-ce", "fab-t", "square"]
    assert result["notes"] == ["apgd-t left out: its loss needs 4 classes, there are 3"]
    assert result["attack_version"] == "standard"


class Saturated(torch.nn.Module):
    """Half of the images have a gradient of exactly zero."""

    def forward(self, x):
        scores = x.flatten(1)[:, :4] * torch.tensor([9.0, 1, 1, 1])
        live = (x.flatten(1)[:, 8:9] > 0.5).float()
        return live * scores + (1 - live) * scores.detach()


def test_flags_survive_the_process(tmp_path, monkeypatch):
    real = autoattack_adapter.perturb
    images, _ = tiny.images_and_labels()
    labels = Saturated()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).argmax(1).numpy()
    options = dict(model=Saturated(), num_classes=4, labels=labels, images=images)
    whole = tiny.evaluate(tmp_path / "whole", **options)

    def dying(*arguments, **rest):
        if rest["attack"] == "fab-t":
            raise KeyboardInterrupt
        return real(*arguments, **rest)

    monkeypatch.setattr(autoattack_adapter, "perturb", dying)
    with pytest.raises(KeyboardInterrupt):
        tiny.evaluate(tmp_path / "died", **options)
    monkeypatch.setattr(autoattack_adapter, "perturb", real)
    found = tiny.evaluate(tmp_path / "died", **options)
    assert [flag["name"] for flag in found["flags"]] == ["zero_gradient"]
    assert found["flags"] == whole["flags"] and found["flags"][0]["times"] >= 3
