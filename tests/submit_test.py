"""Bundles for publishing: what is in them, what makes none, what is never overwritten."""

import contextlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
import yaml

from score_jax import artifact as artifacts
from score_jax import cli, submit, submit_folder, submit_paper, submit_weights, torch_models
from score_jax.types import UserError
from tests.official_files import shrink
from tests.published_runs import MODEL, write_result, write_run

torch.set_num_threads(1)
NUM_IMAGES = 20
ID = "Turing2026Proper_WRN-10-1"
PAPER = submit_paper.describe(
    link="https://arxiv.org/abs/2611.00001",
    title='A "Proper": definition — of robustness',
    authors="Alan M. Turing,  Emmy Noether",
    venue="arXiv, Nov 2026",
    hub="ada/robust",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(original, tmp_path, monkeypatch):
    """A run whose evaluation is complete: of all test images, of which there are few here."""
    shrink(monkeypatch, "cifar10", train=500, test=NUM_IMAGES)
    folder = tmp_path / "run"
    shutil.copytree(original, folder)
    rng = np.random.default_rng(0)
    write_result(folder, images=rng.uniform(0, 1, (NUM_IMAGES, 32, 32, 3)).astype(np.float32))
    return folder


def edit(run, **changes):
    path = run / "eval" / "autoattack" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def info_of(bundle):
    (path,) = bundle.glob("robustbench/model_info/*/*/*.json")
    return json.loads(path.read_text())


def card_of(bundle):
    """(metadata, text) of the model card."""
    _, front, body = (bundle / "huggingface/README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_bundle_holds_what_is_asked_for_and_its_checksums_hold(run):
    told = submit.submit(run, PAPER)
    bundle = run / "submit"
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert files == {
        "SHA256SUMS",
        f"robustbench/{ID}.pt",
        f"robustbench/model_info/cifar10/Linf/{ID}.json",
        "robustbench/issue.md",
        "robustbench/zoo_entry.py",
        "robustbench/adversarial.pt",
        "robustbench/log.txt",
        "huggingface/README.md",
        "huggingface/config.json",
        "huggingface/model.json",
        "huggingface/model.safetensors",
        "huggingface/pytorch_model.safetensors",
        "huggingface/evaluation.json",
        "huggingface/log.txt",
    }
    checked = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True
    )
    assert checked.returncode == 0
    assert checked.stdout.count(": OK") == len(files) - 1
    assert "DRAFT" not in "\n".join(told)
    assert str(bundle) in told


def test_model_info_has_the_keys_and_types_of_robustbenchs_files(run):
    submit.submit(run, PAPER)
    # Keys, order and types as in model_info/cifar10/Linf/Pang2022Robustness_WRN28_10.json.
    assert info_of(run / "submit") == {
        "link": "https://arxiv.org/abs/2611.00001",
        "name": 'A "Proper": definition — of robustness',
        "authors": "Alan M. Turing, Emmy Noether",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "arXiv, Nov 2026",
        "architecture": "WideResNet-10-1",
        "eps": "8/255",
        "clean_acc": "75.12",
        "reported": "50.00",
        "autoattack_acc": "50.00",
        "footnote": "It uses additional 1M synthetic images in training (DDPM of Gowal et al., "
        "2021).",
        "unreliable": False,
    }
    assert " ".join(info_of(run / "submit")) == (
        "link name authors additional_data number_forward_passes dataset venue architecture eps "
        "clean_acc reported autoattack_acc footnote unreliable"
    )


def test_the_issue_fills_in_every_field_of_the_form(run):
    submit.submit(run, PAPER)
    issue = (run / "submit/robustbench/issue.md").read_text()
    assert issue.startswith("[New Model] Turing2026Proper\n")
    for field in (
        "Paper Title", "Paper URL", "Paper authors", "Architecture", "Dataset", "Threat Model",
        "eps", "Clean accuracy", "Robust accuracy", "Additional data", "Evaluation method",
        "Checkpoint and code",
    ):  # fmt: skip
        (value,) = re.findall(rf"^- \*\*{field}\*\*: (.+)$", issue, re.MULTILINE)
        assert value.strip(), field
    assert [heading for heading in issue.splitlines() if heading.startswith("# ")] == [
        "# Paper Information", "# Leaderboard Claim(s)", "# Model Zoo:",
    ]  # fmt: skip
    boxes = re.findall(r"^- \[(.)\]", issue, re.MULTILINE)
    assert boxes == ["x", " ", "x", " "]
    assert "https://huggingface.co/ada/robust" in issue
    assert "pyautoattack 0.2.0, seed 0) on 20 test images" in issue
    edit(run, seeding="chunk", chunk_size=1000)
    submit.submit(run, submit_paper.describe(**given(license="apache-2.0")))
    issue = (run / "submit/robustbench/issue.md").read_text()
    assert "seed 0, another for each attack and each 1,000 images) on 20 test images" in issue
    assert re.findall(r"^- \[(.)\]", issue, re.MULTILINE) == ["x", " ", " ", "x"]
    assert issue.endswith("located here: https://www.apache.org/licenses/LICENSE-2.0\n")


def test_the_torch_weights_load_strictly_and_give_the_logits_of_jax(run):
    submit.submit(run, PAPER)
    state = torch.load(run / "submit/robustbench" / f"{ID}.pt", weights_only=True)
    network = torch_models.create(**MODEL)
    network.load_state_dict(state, strict=True)
    images = torch.load(run / "submit/robustbench/adversarial.pt", weights_only=True)
    assert images.shape == (NUM_IMAGES, 3, 32, 32)
    with np.load(run / "eval/autoattack/adversarial.npz") as stored:
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), stored["images"])
        by_jax = artifacts.logits_fn(artifacts.load(run))(stored["images"])
    np.testing.assert_allclose(network(images).numpy(), by_jax, atol=1e-4)


def test_the_folder_for_the_hub_is_an_artifact_without_folders_of_this_machine(run):
    submit.submit(run, PAPER)
    folder = run / "submit/huggingface"
    published, original = artifacts.load(folder), artifacts.load(run)
    assert (
        published.spec["sha256"]["model.safetensors"]
        == (original.spec["sha256"]["model.safetensors"])
    )
    config = json.loads((folder / "config.json").read_text())
    assert {**published.spec, "model_type": "score-jax"} == config
    for path in (run / "submit").rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path


def test_imported_weights_say_where_they_come_from(run):
    path = run / "export/model.json"
    spec = json.loads(path.read_text())
    del spec["config"]
    path.write_text(json.dumps({**spec, "origin": {"file": "weights-best.pt"}}))
    submit.submit(run, PAPER, additional_data="true", footnote="It uses more.")
    assert info_of(run / "submit")["additional_data"] is True
    body = card_of(run / "submit")[1]
    assert "not trained by score-jax" in body and "weights-best.pt" in body


def test_the_card_has_the_metadata_that_the_hub_reads(run):
    submit.submit(run, PAPER)
    front, body = card_of(run / "submit")
    assert front["license"] == "mit"
    assert front["datasets"] == ["uoft-cs/cifar10"]
    (model,) = front["model-index"]
    assert model["name"] == ID
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "uoft-cs/cifar10", "name": "CIFAR-10", "split": "test"}
    clean, robust = result["metrics"]
    assert (clean["type"], clean["value"]) == ("accuracy", 75.12)
    assert robust["value"] == 50.0
    assert "AutoAttack" in robust["name"] and "Linf eps = 8/255" in robust["name"]
    assert "| attack step size | 2/255 |" in body
    assert "| seed | 0 |" in body
    assert "| apgd-ce | 60.00% |" in body
    for heading in ("Evaluation", "Use", "Training", "Limitations", "Citation"):
        assert f"\n## {heading}\n" in body


def test_the_programs_of_the_card_run(run, monkeypatch):
    submit.submit(run, submit_paper.describe(**given(hub="")))
    _, body = card_of(run / "submit")
    monkeypatch.chdir(run / "submit/huggingface")
    with_jax, with_torch, _ = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    images = np.random.default_rng(1).uniform(0, 1, (3, 32, 32, 3)).astype(np.float32)
    by_jax = {"images": images}
    exec(with_jax, by_jax)
    by_torch = {"images": torch.from_numpy(images).permute(0, 3, 1, 2)}
    exec(with_torch, by_torch)
    np.testing.assert_allclose(by_torch["logits"].numpy(), by_jax["logits"], atol=1e-4)


def given(**changes):
    """What the authors say, as arguments of `describe`."""
    fields = dict(link=PAPER.link, title=PAPER.title, authors=PAPER.authors, venue=PAPER.venue)
    return {**fields, **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(official=False), "not the official AutoAttack"),
        (dict(attack="AutoAttack in JAX"), "not the official AutoAttack"),
        (dict(attack_version="plus"), "version plus"),
        (dict(attack_version="standard: apgd-ce", attacks=[{"name": "apgd-ce"}]), "ran apgd-ce"),
        (dict(attacks=[{"name": "apgd-ce"}]), "ran apgd-ce"),
        (dict(precision="bfloat16"), "ran in bfloat16"),
        (dict(recount=None), "not counted again"),
        (dict(recount=dict(robust_accuracy=0.4)), "count 40.00% robust where"),
        (
            dict(recount=dict(robust_accuracy=0.5, max_distance=0.04)),
            "0.04 from its clean one, outside the ball",
        ),
        (
            dict(recount=dict(robust_accuracy=0.5, max_distance=float("nan"))),
            "nan from its clean one, outside the ball",
        ),
        (dict(eps={"value": 4 / 255}), "eps is 4/255, RobustBench ranks 8/255"),
        (dict(norm="l2", eps={"value": 1.0}), "eps is 1.0, RobustBench ranks 0.5"),
        (dict(norm="l1", eps={"value": 12.0}), "no leaderboard for cifar10 under L1"),
    ],
)
def test_what_is_less_than_a_complete_official_result_makes_only_a_draft(run, changes, reason):
    edit(run, **changes)
    with pytest.raises(UserError, match=re.escape(reason)):
        submit.submit(run, PAPER)
    assert not (run / "submit").exists()
    told = submit.submit(run, PAPER, draft=True)
    bundle = run / "submit"
    front, body = card_of(bundle)
    issue = (bundle / "robustbench/issue.md").read_text()
    for text in (
        "\n".join(told),
        (bundle / "DRAFT.txt").read_text(),
        info_of(bundle)["footnote"],
        issue,
        body,
    ):
        assert reason in text
    assert issue.startswith("[New Model] DRAFT ")
    assert "DRAFT" in (bundle / "robustbench/zoo_entry.py").read_text()
    assert body.startswith(f"\n# DRAFT: {ID}")
    (model,) = front["model-index"]
    assert "DRAFT" in model["name"]
    assert all("DRAFT" in metric["name"] for metric in model["results"][0]["metrics"])


def test_fewer_images_make_only_a_draft(run, monkeypatch):
    shrink(monkeypatch, "cifar10", train=500, test=10000)
    with pytest.raises(UserError, match="20 images were attacked, not the 10,000 test images"):
        submit.submit(run, PAPER)
    edit(run, num_examples=10000)
    (run / "eval/autoattack/adversarial.npz").unlink()
    told = submit.submit(run, PAPER)
    assert any("adversarial.npz does not exist" in line for line in told)
    assert not (run / "submit/robustbench/adversarial.pt").exists()


def test_rounding_between_two_programs_is_not_a_dirty_recount(run):
    recount = dict(robust_accuracy=0.45, max_distance=8 / 255, disagreements_by_rounding=1)
    edit(run, recount=recount)
    submit.submit(run, PAPER)


def break_hash(run):
    edit(run, model_sha256="0" * 64)


def break_images(run):
    path = run / "eval/autoattack/adversarial.npz"
    path.write_bytes(path.read_bytes() + b" ")


def break_count(run):
    edit(run, robust_accuracy=0.45, recount=dict(robust_accuracy=0.45, max_distance=0))


def break_numbers(run):
    edit(run, robust_accuracy=50.0)


def remove_result(run):
    shutil.rmtree(run / "eval")


def break_kind(run):
    edit_path = run / "eval/autoattack/result.json"
    edit_path.write_text(json.dumps({"attack": "pgd"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_hash, "result of another model"),
        (break_images, "not the file of its result.json"),
        (break_count, "does not count as result.json says"),
        (break_numbers, "fractions with robust <= clean"),
        (remove_result, "run `score-jax autoattack`"),
        (lambda run: edit(run, dataset="../../x"), "unknown dataset '../../x'; known: cifar10, "),
        (break_kind, "has no 'clean_accuracy': it is not a result of AutoAttack"),
    ],
)
def test_what_does_not_belong_to_the_model_makes_no_draft_either(run, damage, message):
    damage(run)
    with pytest.raises(UserError, match=re.escape(message)):
        submit.submit(run, PAPER, draft=True)
    assert not (run / "submit").exists()


def test_doubts_of_autoattack_are_told_everywhere(run):
    flag = dict(name="black_box_gain", message="Square Attack has decreased it", meaning="masking")
    edit(run, flags=[flag])
    told = submit.submit(run, PAPER)
    assert info_of(run / "submit")["unreliable"] is True
    assert "Square Attack has decreased it" in (run / "submit/robustbench/issue.md").read_text()
    assert "AutoAttack doubts this result" in card_of(run / "submit")[1]
    assert any("black_box_gain" in line for line in told)


def test_few_classes_are_told_but_are_no_doubt(run):
    edit(run, flags=[dict(name="few_classes", message="only 10 classes", meaning="m")])
    submit.submit(run, PAPER)
    assert info_of(run / "submit")["unreliable"] is False
    assert "only 10 classes" in (run / "submit/robustbench/issue.md").read_text()


def test_other_weights_are_noticed(run):
    loaded = artifacts.load(run)
    state = submit_weights.state_dict(loaded)
    expected = submit_weights.reference(loaded, None)
    submit_weights.check(loaded, state, expected)
    state["logits.bias"] += 1e-3
    with pytest.raises(UserError, match="PyTorch's logits are up to 0.001 from JAX's"):
        submit_weights.check(loaded, state, expected)
    del state["logits.bias"]
    with pytest.raises(UserError, match='do not fit: .*"logits.bias"'):
        submit_weights.check(loaded, state, expected)


def test_the_same_command_again_replaces_the_bundle(run):
    submit.submit(run, PAPER)
    first = (run / "submit/SHA256SUMS").read_text()
    submit.submit(run, PAPER)
    assert (run / "submit/SHA256SUMS").read_text() == first
    edit(run, clean_accuracy=0.8)
    submit.submit(run, PAPER)
    assert info_of(run / "submit")["clean_acc"] == "80.00"
    assert {path.name for path in run.iterdir()} == {"export", "eval", "submit"}


def test_what_the_user_wrote_is_never_overwritten(run):
    submit.submit(run, PAPER)
    issue = run / "submit/robustbench/issue.md"
    issue.write_text("edited by hand")
    with pytest.raises(UserError, match="issue.md was added or changed since"):
        submit.submit(run, PAPER)
    assert issue.read_text() == "edited by hand"
    submit.submit(run, PAPER, out=run / "other")
    (run / "other/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="notes.txt was added or changed since"):
        submit.submit(run, PAPER, out=run / "other")
    with pytest.raises(UserError, match="is not a bundle of this program"):
        submit.submit(run, PAPER, out=run / "export")


def test_a_bundle_that_fails_half_way_leaves_the_earlier_one(run, monkeypatch):
    submit.submit(run, PAPER)
    before = (run / "submit/SHA256SUMS").read_text()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(submit_folder, "write_sums", fail)
    with contextlib.suppress(OSError):
        submit.submit(run, PAPER)
    assert (run / "submit/SHA256SUMS").read_text() == before
    assert {path.name for path in run.iterdir()} == {"export", "eval", "submit"}


def test_the_hub_takes_what_no_leaderboard_ranks_but_only_complete(run):
    edit(run, eps={"value": 4 / 255}, recount=dict(robust_accuracy=0.5, max_distance=4 / 255))
    with pytest.raises(UserError, match="Add --hub_only"):
        submit.submit(run, PAPER)
    told = submit.submit(run, PAPER, hub_only=True)
    assert not (run / "submit/robustbench").exists()
    assert not any("gdrive" in line for line in told)
    assert "Linf eps = 4/255" in str(card_of(run / "submit")[0])
    edit(run, official=False)
    with pytest.raises(UserError, match="not the official AutoAttack"):
        submit.submit(run, PAPER, hub_only=True)


def test_the_command_line_says_what_is_missing_and_where_the_bundle_is(run, capsys):
    assert cli.main(["submit", f"--workdir={run}", "--paper=https://a.org/b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("score-jax submit: missing: --title, --authors, --venue; such as: ")
    assert "--authors='Tianyu Pang, Min Lin'" in error
    said = [f"--{'paper' if name == 'link' else name}={value}" for name, value in given().items()]
    assert cli.main(["submit", f"--workdir={run}", f"--out={run}/bundle", *said]) == 0
    assert f"{run}/bundle" in capsys.readouterr().out
    edit(run, num_examples=3)
    assert cli.main(["submit", f"--workdir={run}", *said]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "add --draft" in error
