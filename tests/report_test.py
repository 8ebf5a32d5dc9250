"""The report of runs whose folders these tests write: what the page, plots and table say."""

import dataclasses
import importlib.util
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from score_jax import config as config_module
from score_jax import report_plots, report_run, report_style
from score_jax.data import sources
from score_jax.report import report, summary_table
from score_jax.types import UserError

SHA = "c0ffee" + 58 * "0"


def make_run(
    path,
    *,
    dataset="cifar10",
    eps=8 / 255,
    objective="score",
    epochs=12,
    clean=0.8812,
    pgd=0.6043,
    autoattack=0.5728,
    parts=("metrics", "export", "pgd", "autoattack"),
):
    """A run folder with the files, and only those, that the named parts write."""
    config = config_module.default()
    with config.unlocked():
        config.eps, config.num_epochs = eps, epochs
        config.data.name = dataset
        config.objective.name = objective
    path.mkdir(parents=True)
    write(path / "config.json", config_module.to_dict(config))
    start = {
        "start": "2026-03-01T10:00:00+0000",
        "stop": "2026-03-01T12:30:15+0000",
        "outcome": "finished",
    }
    record = {
        "argv": ["score-jax", "train", f"--workdir={path}"],
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "versions": {"jax": "0.10.2"},
        "devices": ["gpu NVIDIA H200"],
        "history": [start],
    }
    write(path / "run.json", record)
    if "metrics" in parts:
        lines = list(metric_lines(epochs, clean, pgd))
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if "export" in parts:
        model = {"sha256": {"model.safetensors": SHA}, "checkpoint": "best", "weights": "ema"}
        write(path / "export" / "model.json", {**model, "step": 1176, "num_parameters": 36479194})
    common = {
        "clean_accuracy": clean,
        "norm": "linf",
        "eps": {"value": eps, "written": config_module.write_eps(eps)},
        "model_sha256": SHA,
        "data_sha256": "da7a" * 16,
        "seconds": 412.5,
    }
    if "pgd" in parts:
        curve = [
            {"eps": eps * step / 4, "accuracy": max(0, clean - (clean - pgd) * step / 4)}
            for step in range(14)
        ]
        result = {
            "official": False, "attack": "pgd40", "num_steps": 40, "num_examples": 10000,
            "robust_accuracy": pgd, "attacks": [], "eps_curve": curve,
        }  # fmt: skip
        write(path / "eval" / "pgd40" / "result.json", {**common, **result})
        np.savez(path / "eval" / "pgd40" / "examples.npz", **examples(dataset, eps))
    if "autoattack" in parts:
        steps = {"apgd-ce": 0.03, "apgd-t": 0.001, "fab-t": 0.0, "square": 0.0}
        attacks = [
            {"name": name, "robust_accuracy": autoattack + left} for name, left in steps.items()
        ]
        result = {
            "attack": "AutoAttack", "attack_version": "standard", "num_examples": 1000,
            "robust_accuracy": autoattack, "attacks": attacks,
        }  # fmt: skip
        write(path / "eval" / "autoattack" / "result.json", {**common, **result})
    return path


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def metric_lines(epochs, clean, pgd):
    for epoch in range(1, epochs + 1):
        step, done = epoch * 98, 1 - 0.75**epoch
        yield {
            "step": step, "epoch": float(epoch), "time": 1.7e9 + epoch,
            "train/loss": 1.3 - 0.8 * done, "train/clean_accuracy": clean * done,
            "train/adv_accuracy": pgd * done, "train/learning_rate": 0.2 * (1 - epoch / epochs),
            "perf/images_per_second": 1000.0, "perf/attack_fraction": 0.7,
            "perf/update_fraction": 0.2, "perf/input_fraction": 0.06,
            "perf/checkpoint_fraction": 0.04,
        }  # fmt: skip
        if epoch % 2 == 0:
            accuracies = {"val/clean_accuracy": clean * done, "val/pgd40_accuracy": pgd * done}
            yield {"step": step, "epoch": float(epoch), "time": 1.7e9, **accuracies}


def examples(dataset, eps):
    spec = sources.DATASETS[dataset]
    shape = (10, *spec.image_shape)
    random = np.random.default_rng(0)
    y, x = np.mgrid[: shape[1], : shape[2]] / shape[1]
    centres = random.uniform(0.3, 0.7, (10, 2, 1, 1))
    blob = np.exp(-12 * ((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2))[..., None]
    clean = np.clip(blob * random.uniform(0.4, 1, (10, 1, 1, shape[3])), 0.1, 0.9)
    change = eps * np.sign(random.normal(size=shape))
    return {
        "indices": np.arange(10), "clean": clean.astype(np.float32),
        "adversarial": (clean + change).astype(np.float32), "labels": np.arange(10, dtype=np.int32),
        "clean_predictions": np.arange(10, dtype=np.int32),
        "adversarial_predictions": np.array([0, 1, 2, 5, 4, 5, 6, 7, 0, 1], np.int32),
        "gradients": (blob * random.normal(size=shape)).astype(np.float32),
    }  # fmt: skip


class Text(HTMLParser):
    """The visible words of a page, its elements, and whether they are closed in order."""

    VOID = {"meta", "img"}

    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self.open = [], [], []
        self.feed(page.replace("<wbr>", ""))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data.strip())

    @property
    def text(self):
        return " ".join(word for word in self.words if word)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A robust run reported beside a natural one: (folder, page, printed text)."""
    root = tmp_path_factory.mktemp("runs")
    robust = make_run(root / "cifar10_score")
    natural = make_run(
        root / "cifar10_natural", objective="standard", clean=0.9507, pgd=0.0, autoattack=0.0
    )
    printed = report(robust, beside=(natural,))
    return robust, (robust / "report.html").read_text(), printed


def test_the_page_shows_the_numbers_of_every_run(pair):
    text = Text(pair[1]).text
    row = text[text.index("Results") : text.index("Accuracy on the first n")]
    assert re.search(
        r"cifar10_score.* 88\.1% n = 10000 60\.4% n = 10000 57\.3% n = 1000 8/255", row
    )
    assert re.search(r"cifar10_natural.* 95\.1% n = 10000 0\.0% n = 10000 0\.0% n = 1000", row)
    assert "AutoAttack official" in row and "2h30m" in row and "L∞" in row
    # After each attack; the radius of the run; class names; the gain of the differences.
    for words in ("after APGD-CE", "60.3%", "57.4%", "ε = 8/255 of the run", "× 16"):
        assert words in text
    assert text.count("airplane") >= 2 and "frog" in text
    for fact in ("0123456789abcdef", SHA, "da7a" * 16, "NVIDIA H200", "0.10.2", "36479194"):
        assert fact in text


def test_a_page_needs_nothing_but_itself(pair):
    page = Text(pair[1])
    bare = re.sub(r"base64,[^\"]*", "", pair[1])
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link", bare)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), tag
    assert "prefers-color-scheme: dark" in pair[1]
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    # Every colour of a drawing follows the page; what remains is the pictures' own.
    drawings = "".join(re.findall(r"<svg.*?</svg>", pair[1], flags=re.DOTALL))
    assert not re.search(r"(fill|stroke): #", drawings)
    assert {"var(--run-0)", "var(--run-1)", "var(--ink)"} <= set(
        re.findall(r"var\([^)]*\)", drawings)
    )
    references = set(re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', drawings))
    named = set(re.findall(r' id="([^"]+)"', drawings))
    assert references and {a or b for a, b in references} <= named


def test_the_plots_are_files(pair):
    names = {
        "autoattack", "eps_curve", "validation", "training", "loss", "learning_rate", "time",
        "gradients", "examples_0", "examples_1",
    }  # fmt: skip
    folder = pair[0] / "plots"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    }
    assert all(report_plots.is_name(name) for name in names)
    for name in names:
        data = (folder / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 5000
        assert (folder / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert "<dc:date>" not in (folder / f"{name}.svg").read_text()


def test_the_table_is_small_and_names_the_files(pair):
    robust, _, printed = pair
    head, rule, first, second, empty, *paths = printed.splitlines()
    assert head.split() == ["model", "clean", "PGD-40", "AutoAttack", "eps", "seconds"]
    assert set(rule) == {"-", " "} and empty == ""
    assert first.split() == ["cifar10_score", "88.1%", "60.4%", "57.3%", "8/255", "9015"]
    assert second.split() == ["cifar10_natural", "95.1%", "0.0%", "0.0%", "8/255", "9015"]
    assert len({len(line) for line in (head, rule, first, second)}) == 1
    assert [line.split()[-1] for line in paths] == [
        str(robust / "export"),
        str(robust / "eval" / "autoattack" / "result.json"),
        str(robust / "report.html"),
    ]
    assert printed == summary_table([robust, robust.parent / "cifar10_natural"])


@pytest.mark.parametrize(
    ("parts", "command", "figure"),
    [
        (("metrics",), "score-jax export --workdir=", "autoattack"),
        (("metrics", "export", "pgd"), "score-jax autoattack --workdir=", "autoattack"),
        (("metrics", "export", "autoattack"), "score-jax evaluate --workdir=", "eps_curve"),
    ],
)
def test_what_is_missing_is_told_with_its_command(tmp_path, parts, command, figure):
    folder = make_run(tmp_path / "a run", parts=parts)
    printed = report(folder)
    text = Text((folder / "report.html").read_text()).text
    assert f"{command}'{folder}'" in text
    assert not (folder / "plots" / f"{figure}.png").exists()
    assert (folder / "plots" / "validation.png").exists()
    assert "-" in printed.splitlines()[2].split()


def test_absent_metrics_are_absent(tmp_path):
    folder = make_run(tmp_path / "run")
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [
        {n: v for n, v in line.items() if not n.startswith(("val/", "perf/"))} for line in lines
    ]
    lines[3]["train/loss"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "ep')
    report(folder)
    text = Text((folder / "report.html").read_text()).text
    assert "No validation yet" in text and "Where the training time went" not in text
    (run,) = report_run.read_all([folder])
    assert len(run.series("train/loss")[0]) == 11 and run.series("val/clean_accuracy") == ([], [])


def test_a_folder_without_metrics_is_refused(tmp_path):
    folder = make_run(tmp_path / "run", parts=())
    with pytest.raises(UserError, match="metrics.jsonl holds no metrics yet; train first"):
        report(folder)
    with pytest.raises(UserError, match="not the folder of a run"):
        report(tmp_path)
    assert summary_table([folder]).splitlines()[2].split()[1:4] == ["-", "-", "-"]


def test_results_of_another_export_do_not_count(tmp_path):
    folder = make_run(tmp_path / "run")
    path = folder / "eval" / "autoattack" / "result.json"
    write(path, {**json.loads(path.read_text()), "model_sha256": "0" * 64})
    report(folder)
    text = Text((folder / "report.html").read_text()).text
    assert "results of an earlier export ( autoattack )" in text
    assert "57.3%" not in text and "60.4%" in text


@pytest.mark.parametrize(
    "change",
    [
        {"attack_version": "standard: apgd-ce"},
        {"attack": "pgd40"},
        {"eps": {"value": 4 / 255, "written": "4/255"}},
        {"norm": "l2"},
    ],
)
def test_only_the_whole_autoattack_at_the_radius_of_training_is_official(tmp_path, change):
    folder = make_run(tmp_path / "run")
    path = folder / "eval" / "autoattack" / "result.json"
    write(path, {**json.loads(path.read_text()), **change})
    (run,) = report_run.read_all([folder])
    assert run.official == "" and run.quick == "pgd40" and "autoattack" in run.results


def test_a_plot_that_no_longer_holds_goes_and_others_stay(tmp_path):
    folder = make_run(tmp_path / "run")
    report(folder)
    (folder / "plots" / "mine.png").write_bytes(b"")
    (folder / "eval" / "autoattack" / "result.json").unlink()
    report(folder)
    left = {path.name for path in (folder / "plots").iterdir()}
    assert "mine.png" in left and "eps_curve.svg" in left
    assert not left & {"autoattack.png", "autoattack.svg"}


def test_the_result_on_the_most_images_is_shown(tmp_path):
    folder = make_run(tmp_path / "run")
    result = json.loads((folder / "eval" / "autoattack" / "result.json").read_text())
    more = {"num_examples": 10000, "robust_accuracy": 0.5551}
    write(folder / "eval" / "all" / "result.json", {**result, **more})
    assert "55.5%" in summary_table([folder])


def test_text_of_the_run_is_escaped(tmp_path):
    name = "<img src=x onerror=alert(1)>&\"'"
    folder = make_run(tmp_path / name)
    write(folder / "eval" / "<b>bold" / "result.json", json.loads(
        (folder / "eval" / "pgd40" / "result.json").read_text()
    ))  # fmt: skip
    report(folder, beside=[make_run(tmp_path / "other")])
    page = Text((folder / "report.html").read_text())
    assert not any(tag == "img" for tag, _ in page.tags)
    assert ("b", {}) in page.tags and "<b>bold" in page.text
    assert name in page.text


def test_without_matplotlib_the_page_has_its_tables(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    report(folder)
    page = (folder / "report.html").read_text()
    assert "pip install 'score_jax[plots]'" in Text(page).text
    assert "57.3%" in page and "<svg" not in page and not (folder / "plots").exists()


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    folders = [make_run(tmp_path / day / "run") for day in ("monday", "tuesday")]
    assert [run.name for run in report_run.read_all(folders)] == ["monday/run", "tuesday/run"]
    assert len(report_run.read_all([folders[0], folders[0]])) == 1


def test_pictures_fall_back_on_what_autoattack_saved(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", parts=("metrics", "export", "autoattack"))
    found = examples("cifar10", 8 / 255)
    labels = np.repeat(np.arange(5), 2)
    np.savez(
        folder / "eval" / "autoattack" / "adversarial.npz",
        images=found["adversarial"], labels=labels, robust=np.arange(10) % 4 == 0,
    )  # fmt: skip
    (run,) = report_run.read_all([folder], str(tmp_path))
    assert run.examples is None  # The dataset is not there to show them beside.
    split = sources.Images(
        images=(found["clean"] * 255).astype(np.uint8), labels=labels, fingerprint="", name="",
        split="test", path="",
    )  # fmt: skip
    monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)
    (run,) = report_run.read_all([folder], str(tmp_path))
    assert run.examples.labels == ("airplane", "automobile", "bird", "cat", "deer")
    assert run.examples.is_right == (True, False, True, False, True)
    np.testing.assert_array_equal(run.examples.adversarial, found["adversarial"][::2])
    assert "misclassified" in report_style.to_svg(report_plots.draw([run])["examples_0"])


def test_time_is_weighted_by_how_long_it_took(tmp_path):
    run = report_run.read(make_run(tmp_path / "run"))
    lines = (
        {"step": 10, "epoch": 1, "perf/images_per_second": 100, "perf/attack_fraction": 0.9},
        {"step": 20, "epoch": 2, "perf/images_per_second": 300, "perf/attack_fraction": 0.5},
    )
    shares = dataclasses.replace(run, metrics=lines).time_shares()
    assert shares == {"attack": pytest.approx(0.8)}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.0, 0.0, 0.05], [0.0, 0.1, 0.2]),
        ([0.96, 0.98, 0.3], [0.3, 0.9, 1.0]),
    ],
)
def test_labels_are_pushed_apart_no_further_than_needed(values, expected):
    places = report_style.spread(sorted(values), 0.1, 0, 1)
    assert places == pytest.approx(expected)
