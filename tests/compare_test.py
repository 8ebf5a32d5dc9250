"""Two networks compared: what is one is called one, and what is not is found where it is not."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from score_jax import cli, compare, compare_attacks, compare_plots, compare_table, export, models
from score_jax.artifact import sha256
from score_jax.attacks import PGD
from score_jax.compare_sides import jax_side, open_both
from score_jax.data import sources
from score_jax.divergences import label_cross_entropy
from score_jax.models import NormalizeBy
from score_jax.types import UserError

torch.set_num_threads(1)
MODEL = dict(name="cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.3059,), std=(0.3763,))
INFO = dict(dataset="digits", eps=0.05, norm="linf")
COUNT = 24


def save(folder, seed, **model):
    fields = {**MODEL, **model}
    params, batch_stats = models.create(**fields).init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    # Small enough that no ReLU is dead, and logits large enough to decide.
    noisy = jax.tree.map(lambda leaf: leaf + rng.uniform(0, 0.1, leaf.shape), batch_stats)
    params["logits"]["kernel"] = params["logits"]["kernel"] * 20
    noisy = jax.tree.map(np.float32, noisy)
    with pytest.MonkeyPatch.context() as patch:
        # Its program, which takes seconds to compile, is not asked here.
        patch.setattr(export, "program", lambda *arguments: b"")
        return export.save_artifact(
            folder / "export", model=fields, params=params, batch_stats=noisy, info=INFO
        )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return save(tmp_path_factory.mktemp("first"), 0)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return save(tmp_path_factory.mktemp("second"), 1)


@pytest.fixture(autouse=True, scope="module")
def data():
    random = np.random.default_rng(0)
    split = sources.Images(
        images=random.integers(0, 256, (COUNT, 8, 8, 1)).astype(np.uint8),
        labels=random.integers(0, 10, COUNT).astype(np.int32),
        fingerprint="f" * 64, name="digits", split="test", path="",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "test_split", lambda name, data_dir="": split)
        yield split


def run(*paths, out, **options):
    options = {"precisions": (), "steps": 3, "batch_size": 10, **options}
    return compare.compare(*map(str, paths), out=str(out), **options)


def changed(first, path, change):
    """The first one's PyTorch file with one entry changed."""
    state = torch.load(first / "model_robustbench.pt", weights_only=True)
    change(state)
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def own(data, first, tmp_path_factory):
    """The first network against its own PyTorch file."""
    return run(first, out=tmp_path_factory.mktemp("own"), precisions=("tf32", "bf16"))


def test_an_export_is_its_own_pytorch_file(own):
    result = own
    assert (result["a"]["engine"], result["b"]["engine"]) == ("jax", "torch")
    assert result["verdict"].startswith("same to rounding")
    assert result["logits"]["max_relative_difference"] < 1e-5
    assert result["gradients"]["min_cosine"] > 0.9999
    assert result["pgd"]["robust"]["differing_images"] == []
    assert result["pgd"]["robust_accuracy"]["a"] == result["pgd"]["robust_accuracy"]["b"]
    assert len(result["layers"]["modules"]) == 7 and result["layers"]["parted_at"] is None
    assert all(row["max_difference"] == 0 for row in result["parameters"])
    tf32, bfloat16 = result["precisions"]
    assert tf32["is_float32_bit_by_bit"]  # On a CPU; measured, not assumed.
    assert not bfloat16["is_float32_bit_by_bit"]
    assert (bfloat16["side"], bfloat16["precision"]) == ("a", "bfloat16")
    assert 1e-4 < bfloat16["logits"]["max_relative_difference"] < 0.1
    written = json.loads((Path(own["folder"]) / "compare.json").read_text())
    assert written["verdict"] == result["verdict"] and written["num_examples"] == COUNT
    lines = compare_table.describe(result)
    assert lines[-1] == f"verdict: {result['verdict']}"
    assert any("equals float32 bit by bit" in line for line in lines)


def test_two_trainings_are_different_networks(first, second, tmp_path):
    result = run(first, second, out=tmp_path)
    assert result["verdict"].startswith("different networks: part at conv_0; ")
    assert result["b"]["engine"] == "jax"
    assert min(row["max_difference"] for row in result["parameters"] if "conv" in row["path"]) > 0
    decisions = result["logits"]["disagreements"]
    assert result["logits"]["agreement"] == pytest.approx(1 - len(decisions) / COUNT)
    assert f"{len(decisions)} of {COUNT} decisions differ" in result["verdict"]


@pytest.mark.parametrize(
    "entry, module", [("batchnorm_1.running_mean", "batchnorm_1"), ("logits.bias", "logits")]
)
def test_they_part_where_one_entry_was_changed(first, tmp_path, entry, module):
    def change(state):
        state[entry] = state[entry] + 1 + torch.arange(len(state[entry])) % 3

    other = changed(first, tmp_path / "other.pt", change)
    result = run(first, other, out=tmp_path / "out", attacks=())
    assert result["layers"]["parted_at"] == module
    assert module in result["verdict"]
    parted = {row["path"] for row in result["parameters"] if row["max_difference"]}
    assert len(parted) == 1 and module in parted.pop()


def test_the_first_may_be_the_pytorch_file(first, tmp_path):
    result = run(first / "model_robustbench.pt", first, out=tmp_path, attacks=())
    assert (result["a"]["engine"], result["b"]["engine"]) == ("torch", "jax")
    assert result["verdict"].startswith("same to rounding")
    assert "pgd" not in result


def test_a_file_that_tells_no_normalisation_has_the_other_sides(tmp_path):
    other = save(tmp_path, 0, mean=(0.6,), std=(0.2,))
    result = run(other, out=tmp_path / "out", attacks=())
    assert result["verdict"].startswith("same to rounding")


def test_other_architectures_are_compared_without_their_modules(first, tmp_path):
    other = save(tmp_path / "other", 0, name="cnn-001")
    result = run(first, other, out=tmp_path / "out", attacks=())
    assert result["layers"] is None
    assert "cnn-3 and cnn-001 have no modules in common" in result["layers_note"]
    assert any("skipped" in line for line in compare_table.describe(result))


def test_neither_batch_size_nor_count_change_an_answer(first):
    side, _ = open_both(str(first), "")
    images = np.random.default_rng(1).uniform(0, 1, (9, 8, 8, 1)).astype(np.float32)
    labels = np.arange(9)
    walk = compare_attacks.Walk("linf", 0.05, 3, seed=0)
    few, many = (
        walk(side, images[:count], labels[:count], compare._in_batches(size))
        for count, size in ((4, 3), (9, 9))
    )
    np.testing.assert_allclose(few, many[:4], atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_walk_is_the_projects_pgd(first, norm):
    side, _ = open_both(str(first), "")
    images = np.random.default_rng(1).uniform(0, 1, (5, 8, 8, 1)).astype(np.float32)
    labels, eps = np.arange(5), 0.1 if norm == "linf" else 1.0
    walk = compare_attacks.Walk(norm, eps, 4, seed=3)
    found = walk(side, images, labels, lambda function, *arrays: function(*arrays))
    artifact = side.artifact

    def loss(x):
        logits, _ = artifact.classifier.apply(
            artifact.params, artifact.batch_stats, x, normalize_by=NormalizeBy.RUNNING
        )
        return label_cross_entropy(logits, labels)

    start_key, _ = jax.random.split(jax.random.key(3))
    noise = np.stack([
        walk.threat.noise(jax.random.fold_in(start_key, place), (8, 8, 1), np.float32)
        for place in range(5)
    ])  # fmt: skip
    attack = PGD(threat=walk.threat, step_size=2.5 * eps / 4, num_steps=4)
    expected = attack(loss, jax.random.key(0), images, noise)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - images).max() > 0.9 * 0.1


def stored_result(run_folder, side, robust, **changes):
    folder = run_folder / "eval" / "official"
    folder.mkdir(parents=True)
    np.savez(folder / "adversarial.npz", robust=robust)
    result = {
        "attack": "AutoAttack", "attack_version": "standard", "norm": "linf",
        "backend": compare_attacks.BACKENDS[side.engine], "model_sha256": side.sha256,
        "data_sha256": "f" * 64, "eps": {"value": 0.05}, "num_examples": COUNT,
        "adversarial_sha256": sha256(folder / "adversarial.npz"), **changes,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize(
    "changes",
    [{}, {"model_sha256": "0" * 64}, {"eps": {"value": 0.1}}, {"adversarial_sha256": "0" * 64}],
    ids=["fits", "other model", "other radius", "other images"],
)
def test_autoattack_results_that_fit_are_used(first, tmp_path, monkeypatch, changes):
    folder = tmp_path / "run"
    artifact = folder / "export"
    artifact.mkdir(parents=True)
    for file in first.iterdir():
        (artifact / file.name).write_bytes(file.read_bytes())
    robust, ran = np.arange(COUNT) % 2 == 0, []
    stored_result(folder, open_both(str(artifact), "")[0], robust, **changes)

    def official(artifact, *, out, backend, num_examples, set_aside_other, **options):
        ran.append(backend)
        assert set_aside_other  # Or the same command at another radius would be refused.
        assert "pgd" in json.loads((tmp_path / "out" / "compare.json").read_text())
        out.mkdir(parents=True)
        np.savez(out / "adversarial.npz", robust=np.arange(num_examples) % 4 == 0)

    monkeypatch.setattr(compare_attacks.official_autoattack, "run", official)
    result = run(artifact, out=tmp_path / "out", attacks=tuple(compare.ATTACKS), num_examples=20)
    assert ran == (["torch"] if not changes else ["bridge", "torch"])
    assert result["autoattack"]["robust"]["only_a"] == (5 if not changes else 0)
    assert result["autoattack"]["robust_accuracy"]["b"] == 0.25
    assert any(line.startswith("AutoAttack") for line in compare_table.describe(result))


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize(
    "make, options, message",
    [
        (lambda first, path: save(path, 0, num_classes=4), {}, "classes 10, .* has 4"),
        (lambda first, path: save(path, 0, image_shape=(12, 8, 1)), {}, "has .*12, 8, 1"),
        (lambda first, path: path / "none.pt", {}, "no such file"),
        (lambda first, path: torch.save(Bomb(), path / "bomb.pt") or path / "bomb.pt", {}, "bomb"),
        (
            lambda first, path: changed(
                first, path / "nan.pt", lambda state: state["logits.bias"].fill_(float("nan"))
            ),
            {}, "NaN",
        ),
        (
            lambda first, path: changed(first, path / "less.pt", lambda s: s.pop("logits.bias")),
            {}, "missing: logits.bias",
        ),
        (lambda first, path: first, {"num_examples": 25}, "has 24 test images"),
        (lambda first, path: first, {"attacks": ("fgsm",)}, "unknown attack 'fgsm'"),
        (lambda first, path: first, {"precisions": ("fp8",)}, "unknown precision 'fp8'"),
        (lambda first, path: first, {"eps": 8.0}, "write 8/255"),
        (lambda first, path: first, {"eps": 0.0}, "leaves nothing"),
        (lambda first, path: first, {"steps": 0}, "must be 1 or more"),
        (lambda first, path: first, {"norm": "l1"}, "unknown norm 'l1'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(first, tmp_path, capsys, make, options, message):
    other = make(first, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run(first, other, out=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert "boom" not in capsys.readouterr().out


def test_each_pair_has_a_folder_of_its_own_beside_the_first(first, tmp_path):
    file = changed(first, tmp_path / "weights.v2.pt", lambda state: None)
    (tmp_path / "other").mkdir()
    same_name = changed(first, tmp_path / "other" / file.name, lambda s: s["logits.bias"].add_(1))
    digests = "-".join(side.sha256[:6] for side in open_both(str(first), str(file)))

    def folder(one, other):
        return compare._folder(*open_both(str(one), str(other)), str(other))

    of_run, of_export = folder(first.parent, file), folder(first, file)
    assert of_run == of_export == first.parent / "compare" / f"weights.v2-{digests}"
    assert folder(first, same_name) != of_run
    of_file = folder(file, first)
    assert of_file.parent == tmp_path / "compare"
    assert of_file.name.startswith(f"{first.parent.name}-")


def test_a_dataset_can_be_given_where_the_export_names_none(first, tmp_path):
    spec = json.loads((first / "model.json").read_text())
    nameless = tmp_path / "run" / "export"
    shutil.copytree(first, nameless)
    del spec["dataset"]
    (nameless / "model.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="give --dataset=NAME"):
        open_both(str(nameless), "")
    _, other = open_both(str(nameless), "", {"dataset": "digits"})
    assert other.artifact.spec["dataset"] == "digits"


def test_two_files_without_a_dataset_are_refused(first):
    path = str(first / "model_robustbench.pt")
    with pytest.raises(UserError, match="give --dataset=NAME"):
        compare.compare(path, path)
    with pytest.raises(UserError, match="nothing to be compared with"):
        compare.compare(path)


def test_the_job_prints_the_verdict_and_writes_pictures(first, tmp_path, capsys):
    words = ["compare", str(first), f"--out={tmp_path}", "--steps=2", "--precisions=float32"]
    assert cli.main([*words, "--num_examples=8"]) == 0
    out = capsys.readouterr().out
    assert "verdict: same to rounding" in out
    assert {"layers.png", "agreement.svg", "precision.png"} <= {p.name for p in tmp_path.iterdir()}
    assert cli.main(["compare", str(first), str(tmp_path / "no.pt")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert cli.main(["compare"]) == 2


def test_pictures_of_deep_networks(own):
    rows = [
        {"path": f"layer_{i}", "relative_difference": 10.0 ** (i // 5 - 7), "max_difference": 1.0}
        for i in range(40)
    ]
    layers = {**own["layers"], "modules": rows, "parted_at": "layer_15"}
    figures = compare_plots.draw({**own, "layers": layers})
    assert set(figures) == {"layers", "agreement", "precision"}
    (axes,) = figures["layers"].axes
    assert any("layer_15" in text.get_text() for text in axes.texts)


def test_a_network_that_returns_nan_is_refused(first, tmp_path, monkeypatch):
    side, other = open_both(str(first), "")
    huge = jax.tree.map(lambda leaf: leaf * 1e38, side.artifact.params)
    broken = compare.compare_sides.dataclasses.replace(side.artifact, params=huge)
    monkeypatch.setattr(
        compare.compare_sides, "open_both", lambda *_: (jax_side(broken, label="huge"), other)
    )
    with pytest.raises(UserError, match="huge has NaN or infinite"):
        run(first, out=tmp_path / "out")
