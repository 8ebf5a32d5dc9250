"""`score-jax analyze separation`, from the command line to numbers, words and pictures."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from score_jax import cli
from score_jax.analysis import (
    finding,
    separation,
    separation_blocks,
    separation_job,
    separation_words,
)
from score_jax.data import sources
from tests import toy_mlp

SMALL_BLOCKS = {"CPU_BLOCK": (2, 8), "TILE": 4}


@pytest.fixture
def data(monkeypatch):
    """23 training and 11 test images of four classes, in blocks of few."""
    for name, value in SMALL_BLOCKS.items():
        monkeypatch.setattr(separation_blocks, name, value)
    monkeypatch.setattr(separation, "COUNT", 16)  # Two parts of queries.
    random = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 23), ("test", 11)):
        splits[name] = sources.Images(
            images=random.integers(0, 256, (count, *toy_mlp.SHAPE)).astype(np.uint8),
            labels=random.integers(0, 4, count).astype(np.int32),
            fingerprint=name, name="toy", split=name, path="",
        )  # fmt: skip
        monkeypatch.setattr(
            sources, f"{name}_source", lambda dataset, data_dir, name=name: splits[name]
        )
    monkeypatch.setattr(sources, "spec", lambda *_: SimpleNamespace(split_sizes=splits))
    monkeypatch.setattr(sources, "class_names", lambda *_: ("cat", "dog", "frog", "ship"))
    return splits


@pytest.fixture
def answer(capsys, tmp_path, monkeypatch):
    """What a command line finds: its JSON, and what is printed; nothing is drawn."""
    monkeypatch.setattr(finding, "_draw", lambda found: {})

    def run(*arguments):
        code = cli.main(["analyze", "separation", *arguments, f"--out={tmp_path / 'out'}"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(Path(re.search(r"^.*\.json$", out, re.M)[0]).read_text()), out

    return run


def all_pairs(queries, references, p=np.inf):
    gaps = queries.images[:, None] / 255 - references.images[None] / 255
    pairs = np.linalg.norm(gaps.reshape(len(queries), len(references), -1), p, axis=-1)
    pairs[queries.labels[:, None] == references.labels] = np.inf
    return pairs


@pytest.mark.parametrize(("flag", "p"), [("--norm=linf", np.inf), ("--norm=l2", 2), ("--p=3", 3)])
def test_numbers_are_those_of_all_pairs(data, answer, flag, p):
    facts, out = answer("--data=toy", flag)
    train = data["train"]
    for side, queries in (("train_train", train), ("test_train", data["test"])):
        pairs = all_pairs(queries, train, p)
        nearest, found = pairs.min(1), facts[side]
        assert found["smallest"] == pytest.approx(nearest.min(), rel=1e-9)
        assert found["radius"] == found["smallest"] / 2
        assert found["mean"] == pytest.approx(nearest.mean(), rel=1e-9)
        assert found["median"] == pytest.approx(np.median(nearest), rel=1e-9)
        told = found["nearest_pairs"]
        assert [pair["distance"] for pair in told] == pytest.approx(np.sort(nearest)[:10])
        for pair in told:
            assert pair["distance"] == pytest.approx(pairs[pair["query"], pair["train"]])
        classes = found["classes"]
        for i, row in enumerate(classes["distances"]):
            for j, distance in enumerate(row):
                of = pairs[np.ix_(queries.labels == i, train.labels == j)]
                assert (distance is None) == (i == j)
                if i != j:
                    assert distance == pytest.approx(of.min(), rel=1e-9)
                    pair = classes["queries"][i][j], classes["train"][i][j]
                    assert pairs[pair] == pytest.approx(distance)
                    assert (queries.labels[pair[0]], train.labels[pair[1]]) == (i, j)
    assert (facts["num_train"], facts["num_test"]) == (23, 11)
    assert facts["data_sha256"] == {"train": "train", "test": "test"}
    radius = facts["train_train"]["radius"]
    assert f": its training images are r-separated for r up to {radius:.4f}." in out


def test_the_control_has_other_labels_in_the_same_pass(data, answer, tmp_path):
    facts, _ = answer("--data=toy", "--seed=3")
    arrays = np.load(tmp_path / "out" / "separation_toy_linf.npz")
    random = np.random.default_rng(3)
    labels = {name: random.integers(0, 4, len(data[name].labels)) for name in ("train", "test")}
    for side, name in (("train_train", "train"), ("test_train", "test")):
        gaps = np.abs(data[name].images[:, None] / 255 - data["train"].images[None] / 255)
        pairs = gaps.reshape(*gaps.shape[:2], -1).max(-1)
        pairs[labels[name][:, None] == labels["train"]] = np.inf
        assert facts[side]["control"]["smallest"] == pytest.approx(pairs.min(), rel=1e-9)
        assert facts[side]["control"]["mean"] == pytest.approx(pairs.min(1).mean(), rel=1e-9)
        found = pairs[np.arange(len(pairs)), arrays[f"{side}_control_indices"]]
        np.testing.assert_allclose(found, arrays[f"{side}_control_distances"], rtol=1e-12)


def test_twins_of_two_labels_are_told_and_can_be_left_out(data, answer):
    train = data["train"]
    train.images[7] = train.images[2]
    train.labels[[2, 7]] = 1, 3
    facts, out = answer("--data=toy", "--eps=20/255")
    assert facts["train_train"]["smallest"] == 0 and facts["train_train"]["num_at_0"] == 2
    assert "2 training images are also there under another label: 2 (dog) = 7 (ship)." in out
    assert "The training images of toy are not r-separated for any r above 0; --outliers=N" in out
    nearest = all_pairs(train, train).min(1)
    close = int((nearest < 40 / 255).sum())
    assert facts["train_train"]["num_closer_than_2_eps"] == close >= 2
    within = int((nearest <= 40 / 255).sum())
    assert f"{within} training images lie within 2ε = 0.156863 (ε = 0.0784314) of one" in out
    told = facts["train_train"]["closer_than_2_eps"]
    assert [pair["distance"] for pair in told] == pytest.approx(np.sort(nearest)[:close])
    facts, out = answer("--data=toy", "--outliers=2")
    rest = facts["train_train"]["without_outliers"]
    assert rest["smallest"] == pytest.approx(np.sort(nearest)[2]) and rest["num_left_out"] == 2
    assert {pair["query"] for pair in rest["left_out"]} == {2, 7}
    assert facts["train_train"]["radius"] == pytest.approx(rest["smallest"] / 2)
    assert "All training images of toy but 2 outliers lie" in out and "  without 2 " in out
    told = (
        f"its training images without them are r-separated for r up to {rest['smallest'] / 2:.4f}"
    )
    assert f"{told} at least." in out and "Left out: 2 outliers. Distances of the others" in out
    # The smallest distance comes twice: both images of the pair go, or none.
    facts, out = answer("--data=toy", "--outliers=1")
    assert facts["train_train"]["without_outliers"]["num_left_out"] == 0
    assert "Left out: no outliers (ties stay, so 0 of 1 asked).\n" in out


def test_a_test_image_that_is_a_training_image_of_another_label_is_told(data, answer):
    data["test"].images[4] = data["train"].images[6]
    data["test"].labels[4], data["train"].labels[6] = 2, 0
    facts, out = answer("--data=toy")
    assert facts["test_train"]["num_at_0"] == 1
    told = "1 test image is also among the training images under another label"
    assert f"{told}: test 4 (frog) = train 6 (cat)." in out


def measured_at(smallest, eps):
    distances = np.array([smallest, smallest, 3.0])
    nearest = separation.Nearest(distances=distances, indices=np.zeros(3, int))
    return separation_words.Measured(
        dataset="toy", compared={"train_train": SimpleNamespace(nearest=nearest, control=nearest)},
        labels={"train": np.arange(3)}, class_names=(), p=np.inf, eps=eps, published=None,
        outliers=0, seed=0,
    )  # fmt: skip


def test_balls_that_touch_leave_no_robust_classifier():
    text = " ".join(separation_words.summary(measured_at(16 / 255, 8 / 255)))
    assert "2 training images lie within 2ε" in text and "a classifier exists" not in text
    text = " ".join(separation_words.summary(measured_at(17 / 255, 8 / 255)))
    assert "a classifier exists that is right on these images" in text


@pytest.mark.parametrize("text", ["{", "[]"])
def test_the_damaged_config_of_a_run_is_one_line(text, data, capsys, tmp_path):
    (tmp_path / "config.json").write_text(text)
    for what in ("separation", "theorem"):
        assert cli.main(["analyze", what, f"--workdir={tmp_path}"]) == 2
        out, err = capsys.readouterr()
        assert "config.json is not the config of a run" in err and err.count("\n") == 1 and not out


def test_norms_that_are_nearly_alike_have_files_of_their_own():
    names = [
        separation_job.norm_of(SimpleNamespace(norm="", p=p))[0]
        for p in ("3", "3.0000001", "1.5", "inf", "2")
    ]
    assert names == ["l3", "l3.0000001", "l1.5", "linf", "l2"]


def test_each_of_few_levels_has_a_bin():
    pytest.importorskip("matplotlib")
    from score_jax.analysis import separation_plots

    # Of 17 levels: 48, 63, 64, 79, 80, ... of 255. No bin is empty.
    shades = np.round(np.arange(17) * 255 / 16)
    values = np.unique(np.abs(shades[:, None] - shades)[:, 3:])[3:] / 255
    counts, edges = np.histogram(values, separation_plots.bin_edges(values, True))
    assert (counts > 0).all() and len(counts) == 15 and (np.diff(edges) > 0).all()
    # All of 8 bits have one each, but where much is missing.
    values = np.append(np.arange(60, 90), [120, 121]) / 255
    counts, _ = np.histogram(values, separation_plots.bin_edges(values, True))
    assert counts.tolist() == [1] * 30 + [0] + [1] * 2
    # More than there is room for are grouped as they were.
    values = np.arange(250) / 255
    counts, _ = np.histogram(values, separation_plots.bin_edges(values, True))
    assert len(counts) <= 70 and counts.sum() == 250
    for alone in (0.5, 0.0):
        counts, _ = np.histogram([alone], separation_plots.bin_edges(np.array([alone]), True))
        assert counts.sum() == 1


def test_the_papers_numbers_stand_beside_those_of_the_whole_set(data, answer, monkeypatch):
    published = separation_words.Published(0.01, 0.212, 0.220, outliers=2)
    monkeypatch.setitem(separation_words.PUBLISHED, "toy", published)
    facts, out = answer("--data=toy", "--outliers=2")
    assert facts["eps"] == 0.01 and facts["train_train"]["published"] == 0.212
    rows = {row[0].strip(): row[2] for row in facts["table"]}
    # The paper's number is of the training images that it kept.
    assert rows["train-train"] == "" and rows["without 2"] == "0.212"
    assert rows["test-train"] == "0.220" and "(ε = 0.01 of the paper): a classifier exists" in out
    facts, _ = answer("--data=toy", "--norm=l2")
    assert facts["eps"] is None and "paper" not in facts["table"][0]
    facts, _ = answer("--data=toy", "--num_examples=20")
    assert (facts["num_train"], facts["num_test"]) == (20, 11) and "paper" not in facts["table"][0]


def test_images_in_records_give_what_images_in_memory_give(tiny_folder, answer, monkeypatch):
    for name, value in SMALL_BLOCKS.items():
        monkeypatch.setattr(separation_blocks, name, value)
    arguments = ("--data=tiny", f"--data_dir={tiny_folder.parent.parent}", "--num_examples=90")
    in_memory, _ = answer(*arguments)
    sources.release()
    monkeypatch.setattr(sources.control_groups, "free_memory", lambda: 1)
    monkeypatch.setattr(separation, "COUNT", 40)
    try:
        assert sources.test_source("tiny", str(tiny_folder.parent.parent)).storage == "records"
        from_records, _ = answer(*arguments)
    finally:
        sources.release()
    for facts in (in_memory, from_records):
        facts.pop("seconds")
    assert from_records == in_memory and in_memory["num_train"] == 90


@pytest.mark.slow
def test_pictures_are_drawn(data, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    command = ["analyze", "separation", "--data=toy", "--eps=1/255", f"--out={tmp_path}"]
    assert cli.main(command) == 0
    names = {"histogram", "pairs_train", "pairs_test", "classes"}
    assert set(json.loads((tmp_path / "separation_toy_linf.json").read_text())["pictures"]) == names
    for name in names:
        assert (tmp_path / f"separation_toy_linf_{name}.png").stat().st_size > 5000
    shown = (tmp_path / "separation_toy_linf_pairs_train.svg").read_text()
    nearest = all_pairs(data["train"], data["train"])
    query, reference = np.unravel_index(nearest.argmin(), nearest.shape)
    assert f"#{query}<" in shown and f"#{reference}<" in shown
    assert f"{nearest.min():.3f}" in shown
    assert "2ε = 0.00784314" in (tmp_path / "separation_toy_linf_histogram.svg").read_text()


def test_the_data_of_a_run_is_measured(data, capsys, tmp_path, monkeypatch):
    asked = []
    train = data["train"]
    monkeypatch.setattr(sources, "train_source", lambda name, data_dir: asked.append(name) or train)
    monkeypatch.setattr(finding, "_draw", lambda found: {})
    (tmp_path / "config.json").write_text(json.dumps({"data": {"name": "toy"}}))
    assert cli.main(["analyze", "separation", f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "analysis" / "separation_toy_linf.json").exists() and asked == ["toy"]
    assert cli.main(["analyze", "separation", f"--workdir={tmp_path}", "--data=other"]) == 0
    assert asked[-1] == "other"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norm=l2", "--p=3"], "--norm=l2 and --p=3 both name a norm; give one"),
        (["--p=0.5"], "--p=0.5 is not a norm; give 1 or more, or inf"),
        (["--p=nan"], "--p=nan is not a norm; give 1 or more, or inf"),
        (["--p=two"], "--p=two is not a number; give such as 3, or inf"),
        (["--outliers=23"], "--outliers=23 leaves nothing of 23 training images; give fewer"),
        (["--eps=8"], "--eps=8 is not a radius in pixel units"),
        (["--num_examples=1"], "every example compared with has label"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(data, arguments, message, capsys, tmp_path):
    assert cli.main(["analyze", "separation", f"--out={tmp_path}/out", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err and not out
    assert not (tmp_path / "out").exists()
