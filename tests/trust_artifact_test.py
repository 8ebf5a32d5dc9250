"""The trust report of an exported model: its data, its AutoAttack result, its page, its command."""

import dataclasses
import json
from html.parser import HTMLParser

import jax
import numpy as np
import pytest

from score_jax import cli, export, models, trust, trust_artifact, trust_page
from score_jax.data import sources
from score_jax.trust_check import Check, Report
from score_jax.types import UserError
from tests import trust_networks as networks

MODEL = dict(name="cnn-3", num_classes=10, image_shape=(8, 8, 1), mean=(0.3059,), std=(0.3763,))
FEW = ("outputs", "transfer", "autoattack")  # The checks of these tests: quick ones.
FINGERPRINT = "da7a" * 16


def save(folder, **changes):
    model = MODEL | changes
    params, batch_stats = models.create(**model).init(jax.random.key(0))
    return export.save_artifact(
        folder / "export", model=model, params=params, batch_stats=batch_stats,
        info=dict(dataset="digits", eps=0.1, norm="linf"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    images, labels = networks.digits()
    split = sources.Images(
        images=np.uint8(images * 255), labels=labels, fingerprint=FINGERPRINT, name="digits",
        split="test", path="",
    )  # fmt: skip
    monkeypatch.setattr(sources, "test_split", lambda name, data_dir: split)
    monkeypatch.setattr(trust, "CHECKS", {name: trust.CHECKS[name] for name in FEW})


def examine(artifact, **fields):
    given = dict(num_examples=20, batch_size=20, report=lambda line: None) | fields
    return trust_artifact.examine(artifact, **given)


def write_result(artifact, name, robust, **changes):
    sha256 = json.loads((artifact / "model.json").read_text())["sha256"]["model.safetensors"]
    result = dict(
        attack="AutoAttack", attack_version="standard", norm="linf", name=name, flags=[],
        eps=dict(value=0.1, written="0.1"), model_sha256=sha256, data_sha256=FINGERPRINT,
        num_examples=len(robust), robust_accuracy=float(np.mean(robust)),
    ) | changes  # fmt: skip
    folder = artifact.parent / "eval" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    np.savez(folder / "adversarial.npz", robust=np.asarray(robust))


def test_page_and_numbers_are_written_beside_the_model(artifact):
    lines = []
    report = examine(artifact.parent, name="mine", report=lines.append)
    folder = artifact.parent / "eval" / "mine"
    written = json.loads((folder / "trust.json").read_text())
    assert written == report.to_dict()
    assert written["data_sha256"] == FINGERPRINT
    assert written["model_sha256"] == export.load(artifact).spec["sha256"]["model.safetensors"]
    assert (written["eps_written"], written["norm"], written["num_examples"]) == ("0.1", "linf", 20)
    assert {"jax", "score_jax"} <= set(written["versions"])
    assert lines[0] == "20 test images of digits, linf eps=0.1"
    assert [line.split()[1] for line in lines[1:-2]] == list(FEW)
    assert lines[-2:] == [report.verdict, f"page: {folder / 'trust.html'}"]
    assert "Can " in (folder / "trust.html").read_text()


def test_autoattacks_result_of_this_model_is_found(artifact):
    write_result(artifact, "few", np.ones(5, bool))
    write_result(artifact, "most", np.arange(12) < 3)
    for name, change in {
        "other_model": dict(model_sha256="0"),
        "other_data": dict(data_sha256="0"),
        "other_eps": dict(eps=dict(value=0.2, written="0.2")),
        "other_norm": dict(norm="l2"),
        "in_jax": dict(official=False),
        "part": dict(attack_version="standard: apgd-ce"),
    }.items():
        write_result(artifact, name, np.ones(20, bool), **change)
    (artifact.parent / "eval" / "part" / "result.json").write_text("{")
    (artifact.parent / "eval" / "other_eps" / "result.json").write_text("[]")
    (artifact.parent / "eval" / "folder" / "result.json").mkdir(parents=True)
    found = trust_artifact.official_result(export.load(artifact), "linf", 0.1, FINGERPRINT)
    assert found["name"] == "most" and found["robust"].sum() == 3
    (artifact.parent / "eval" / "most" / "adversarial.npz").write_bytes(b"cut short")
    found = trust_artifact.official_result(export.load(artifact), "linf", 0.1, FINGERPRINT)
    assert found["robust_accuracy"] == 0.25 and found["robust"] is None
    assert examine(artifact)["autoattack"].numbers["result"] == "most"


def test_imported_weights_have_no_other_checkpoints(artifact, monkeypatch):
    monkeypatch.setattr(trust_artifact, "find_workdir", lambda folder: pytest.fail("was asked"))
    loaded = export.load(artifact)
    imported = dataclasses.replace(loaded, spec={**loaded.spec, "origin": {}})
    assert list(trust_artifact._own_checkpoints(imported)) == []


def test_attacks_transfer_from_the_given_models(artifact, tmp_path):
    other = save(tmp_path / "other")
    report = examine(artifact, against=(other,))
    assert list(report["transfer"].numbers["accuracy"]) == ["other"]
    with pytest.raises(UserError, match=r"has num_classes=4, the model has 10"):
        examine(artifact, against=(save(tmp_path / "four", num_classes=4),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_examples=0), "--num_examples=0: digits has 1797"),
        (dict(num_examples=1798), "--num_examples=1798"),
        (dict(eps=8.0), "eps=8 is not a radius in pixel units"),
        (dict(norm="l7"), "unknown norm 'l7'"),
        (dict(name="../x"), "--name=../x is not the name of a folder"),
        (dict(against=("/nowhere",)), "/nowhere holds no model.json"),
    ],
)
def test_a_bad_argument_is_one_clear_line(artifact, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        examine(artifact, **{"name": "bad"} | changes)
    assert not (artifact.parent / "eval" / "bad").exists()


def test_the_command_hands_over_its_flags(monkeypatch, artifact, capsys):
    calls = []
    monkeypatch.setattr(trust_artifact, "examine", lambda *a, **k: calls.append((a, k)))
    words = ["--eps=8/255", "--norm=linf", "--seed=3", "--against=a,b", "--name=x"]
    assert cli.main(["trust", f"--artifact={artifact}", *words]) == 0
    expected = dict(
        data_dir="", num_examples=200, batch_size=200, eps=8 / 255, norm="linf", seed=3,
        against=("a", "b"), name="x",
    )  # fmt: skip
    assert calls == [((str(artifact),), expected)]
    assert cli.main(["trust"]) == 2
    assert "--workdir=DIR is needed" in capsys.readouterr().err


class Reader(HTMLParser):
    """Text of a page, and what it would fetch; every tag must be closed."""

    EMPTY = ("meta", "br", "wbr", "path", "use", "image", "rect", "circle", "line")

    def __init__(self):
        super().__init__()
        self.text, self.open, self.fetched = [], [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def shown():
    """A report with numbers for every picture."""
    numbers = {
        "outputs": dict(clean_accuracy=0.9),
        "steps": dict(steps=[1, 5, 20], accuracy=[0.8, 0.6, 0.5], loss=[0.5, 1.0, 1.2]),
        "radius": dict(eps=[0.0, 0.05, 0.1, 1.0], accuracy=[0.9, 0.7, 0.5, 0.0]),
        "restarts": dict(accuracy=[0.5, 0.45]),
        "loss": dict(cross_entropy=0.5, margin=0.4, together=0.4),
        "zero_gradient": dict(log10_edges=[-2.0, -1.0, 0.0], counts=[3, 5]),
        "gap": dict(pgd=0.5, strongest=0.3, source="AutoAttack"),
    }
    checks = tuple(
        Check(name=name, colour="green", finding=f"about <{name}>", numbers=found)
        for name, found in numbers.items()
    ) + (Check(name="black_box", colour="red", finding="fell", numbers={}, remedy="Mend & see."),)
    return Report(checks=checks, norm="linf", eps=0.1, num_examples=200, seed=0)


def test_the_page_is_whole_and_fetches_nothing():
    page = trust_page.render(shown(), "a <b> model")
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert all(address.startswith("#") for address in reader.fetched)
    text = " ".join(reader.text)
    assert "Can a <b> model be trusted?" in text and "Mend & see." in text
    assert "about <steps>" in text.replace("About", "about")
    assert "Red: do not rely on" in text
    assert page.count("<figure>") == 5 and page.count('class="badge red"') == 1
    assert "90.0%" in text and "30.0%" in text


def test_without_plots_the_page_says_what_installs_them(monkeypatch):
    monkeypatch.setattr(trust_page.importlib.util, "find_spec", lambda name: None)
    page = trust_page.render(shown(), "x")
    assert "<figure>" not in page and "pip install" in page
    assert "var(--red)" in page and "--red: #" in page
