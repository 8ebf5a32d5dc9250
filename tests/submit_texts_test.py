"""The parts of a bundle's texts: identifiers, extra images, RobustBench's classes."""

import ast
import re
import sys
import types

import pytest
import torch

from score_jax import interop, models, submit_card, submit_claim, submit_paper, submit_zoo
from score_jax.artifact import load
from score_jax.data import sources
from score_jax.types import UserError
from tests import tiny_networks
from tests.published_runs import CONFIG, write_result, write_run

torch.set_num_threads(1)
GIVEN = dict(
    link="https://arxiv.org/abs/2202.10103", title="Robustness", authors="A B", venue="ICML 2022"
)


@pytest.mark.parametrize(
    ("authors", "title", "venue", "year", "identifier"),
    [
        # As RobustBench calls them.
        ("Tianyu Pang, Min Lin", "Robustness and Accuracy", "arXiv, Feb 2022", "", "Pang2022Robus"),
        ("Rahul Rade, S Q", "Helper-based Adversarial Training", "x 2021", "", "Rade2021Helper"),
        ("Xiaojun Jia", "LAS-AT: Adversarial Training", "arXiv, Mar 2022", "", "Jia2022LAS-AT"),
        (
            "S. Moosavi-Dezfooli",
            "Robustness via",
            "CVPR 2019",
            "",
            "Moosavi-Dezfooli2019Robustness",
        ),
        ("Yair Carmon", "Unlabeled Data", "NeurIPS 2019", "", "Carmon2019Unlabeled"),
        ("Yao-Yuan Yang", "A Closer Look at", "NeurIPS 2020", "", "Yang2020Closer"),
        ("José Núñez", "«Über» robustness", "ICML 2026", "2025", "Nunez2025Uber"),
        ("Ada B", "one's pixels", "arXiv, Nov", "2026", "B2026One"),
        ("Ada B", "A", "arXiv, Nov 2026", "", "B2026A"),
    ],
)
def test_an_identifier_is_name_year_and_first_word(authors, title, venue, year, identifier):
    paper = submit_paper.describe(
        **{**GIVEN, "authors": authors, "title": title, "venue": venue}, year=year
    )
    assert paper.identifier.startswith(identifier)
    assert re.fullmatch(r"[\w-]+", paper.identifier, re.ASCII)


def test_a_venue_ends_with_a_year():
    paper = submit_paper.describe(**{**GIVEN, "venue": " arXiv,  Nov"}, year="2026")
    assert paper.venue == "arXiv, Nov 2026"
    paper = submit_paper.describe(**{**GIVEN, "venue": "ICML 2026"}, year="2025")
    assert (paper.venue, paper.year) == ("ICML 2026", 2025)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(link="2202.10103"), "is not an address"),
        (dict(authors="A B and C D"), "separate the names by commas"),
        (dict(authors="A B; C D"), "separate the names by commas"),
        (dict(authors="A B,, C D"), "separate the names by commas"),
        (dict(venue="ICML"), "has no year"),
        (dict(year="22"), "is not a year"),
        (dict(license="MIT"), "unknown license 'MIT'; known: apache-2.0, "),
        (dict(hub="robust"), "write user/repo"),
        (dict(hub="https://huggingface.co/a/b"), "write user/repo"),
    ],
)
def test_what_cannot_stand_on_a_leaderboard_is_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        submit_paper.describe(**{**GIVEN, **changes})


def test_a_title_without_latin_letters_has_no_identifier():
    with pytest.raises(UserError, match="give no identifier"):
        assert submit_paper.describe(**{**GIVEN, "title": "鲁棒性"}).identifier


def test_every_generated_set_is_known_to_be_outside_data_or_not():
    generated = {name for name, spec in sources.DATASETS.items() if spec.extends}
    assert generated == set(submit_claim.EXTRAS)
    outside = {name for name, extra in submit_claim.EXTRAS.items() if extra.outside}
    assert outside == {"cifar10_ti500k"}


@pytest.mark.parametrize(
    ("config", "given", "additional", "footnote"),
    [
        ({"data": {"generated": ""}}, {}, False, ""),
        ({"data": {"generated": "cifar10_ti500k"}}, {}, True, "500K pseudo-labelled images"),
        ({"data": {"generated": "cifar10_edm_20m"}}, {}, False, "20M synthetic images"),
        ({"data": {"generated": "cifar10_edm:3,cifar10_ti500k:1"}}, {}, True, "al., 2023). It us"),
        ({"data": {"generated": ""}}, {"footnote": "Mine."}, False, "Mine."),
        ({"data": {"generated": ""}}, {"additional_data": "true"}, True, ""),
        ({"data": {"generated": "cifar10_ti500k"}}, {"additional_data": "false"}, False, "500K"),
        (None, {"additional_data": "false"}, False, ""),
        (
            {"data": {"generated": "of_mine"}},
            {"additional_data": "true", "footnote": "Mine."},
            True,
            "Mine.",
        ),
    ],
)
def test_additional_data_follows_from_the_config(plain_run, config, given, additional, footnote):
    artifact = load(plain_run)
    artifact.spec["config"] = config
    claim = submit_claim.read(artifact, plain_run / "eval/autoattack", **given)
    assert claim.additional_data is additional
    assert footnote in claim.footnote and bool(footnote) == bool(claim.footnote)


@pytest.mark.parametrize("config", [None, {**CONFIG, "init_from": "runs/other"}])
def test_a_model_of_unknown_training_must_be_told_about_additional_data(plain_run, config):
    artifact = load(plain_run)
    artifact.spec["config"] = config
    with pytest.raises(UserError, match="give --additional_data=true"):
        submit_claim.read(artifact, plain_run / "eval/autoattack")


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("run"), config=CONFIG)
    write_result(run)
    return run


def test_an_l2_radius_is_written_as_robustbench_does(plain_run):
    write_result(plain_run, norm="l2", eps={"value": 0.5}, recount=dict(robust_accuracy=0.5))
    claim = submit_claim.read(load(plain_run), plain_run / "eval/autoattack")
    assert (claim.threat, claim.radius, claim.missing) == ("L2", "0.5", ())


class Recorded(torch.nn.Module):
    """Stands for a class of RobustBench: keeps its arguments, returns what it is given."""

    def __init__(self, *blocks, **arguments):
        super().__init__()
        self.blocks, self.arguments = blocks, arguments

    def forward(self, images):
        return images


@pytest.fixture
def robustbench(monkeypatch):
    for module, names in {
        "dm_wide_resnet": "DMWideResNet DMPreActResNet",
        "wide_resnet": "WideResNet",
        "resnet": "ResNet PreActResNet BasicBlock PreActBlockV2",
    }.items():
        stub = types.ModuleType(module)
        for name in names.split():
            is_block = "Block" in name
            setattr(stub, name, name if is_block else type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, f"robustbench.model_zoo.architectures.{module}", stub)
    for package in ("robustbench", "robustbench.model_zoo", "robustbench.model_zoo.architectures"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))


def entry_of(name, shape=(32, 32, 3), num_classes=7):
    model = dict(name=name, **tiny_networks.arguments(shape, num_classes))
    network = submit_zoo.find(model)
    text = submit_zoo.entry(network, "Id", dataset="cifar10", threat="Linf", draft=True)
    ast.parse(text)
    scope = {}
    exec(text, scope)
    identifier, fields = scope["ENTRY"]
    assert identifier == "Id"
    assert set(fields) == {"model", "gdrive_id"}
    return network, fields["model"]()


CONSTANTS = dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SWISH = dict(num_classes=7, activation_fn=torch.nn.SiLU, **CONSTANTS)


@pytest.mark.parametrize(
    ("name", "class_name", "blocks", "arguments", "architecture", "suffix"),
    [
        (
            "wrn-28-10-swish", "DMWideResNet", (), dict(depth=28, width=10, **SWISH),
            "WideResNet-28-10", "WRN-28-10",
        ),
        (
            "wrn-34-20-relu", "WideResNet", (),
            dict(depth=34, widen_factor=20, num_classes=7, sub_block1=False),
            "WideResNet-34-20", "WRN-34-20",
        ),
        (
            "wrn-34-20-relu-normalized", "Normalized", (),
            dict(depth=34, widen_factor=20, num_classes=7, sub_block1=False),
            "WideResNet-34-20", "WRN-34-20",
        ),
        (
            "preact-resnet-18-swish", "DMPreActResNet", (), dict(depth=18, width=0, **SWISH),
            "PreActResNet-18", "PARN-18",
        ),
        (
            "preact-resnet-18-relu", "PreActResNet", ("PreActBlockV2", [2, 2, 2, 2]),
            dict(num_classes=7, bn_before_fc=True), "PreActResNet-18", "PARN-18",
        ),
        (
            "preact-resnet-18-relu-normalized", "Normalized", ("PreActBlockV2", [2, 2, 2, 2]),
            dict(num_classes=7, bn_before_fc=True), "PreActResNet-18", "PARN-18",
        ),
        (
            "preact-resnet-18-headless", "PreActResNet", ("PreActBlockV2", [2, 2, 2, 2]),
            dict(num_classes=7, bn_before_fc=False), "PreActResNet-18", "PARN-18",
        ),
        (
            "resnet-18", "ResNet", ("BasicBlock", [2, 2, 2, 2]), dict(num_classes=7),
            "ResNet-18", "RN-18",
        ),
    ],
)  # fmt: skip
def test_the_zoo_entry_builds_robustbenchs_class(
    robustbench, name, class_name, blocks, arguments, architecture, suffix
):
    network, built = entry_of(name)
    assert type(built).__name__ == class_name
    assert (built.blocks, built.arguments) == (blocks, arguments)
    assert (network.architecture, network.suffix) == (architecture, suffix)
    assert network.included


def test_a_normalized_network_stores_no_constants(robustbench):
    _, built = entry_of("wrn-10-1-relu-normalized")
    assert not built.state_dict()
    images = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(CONSTANTS[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(built(images), (images - mean) / std)


@pytest.mark.parametrize("known", models.known_names())
def test_every_network_has_an_entry_that_our_weights_fit(robustbench, known):
    name, shape = tiny_networks.SMALL[known]
    network, built = entry_of(name, shape, num_classes=10)
    # No class of RobustBench takes images of these sizes.
    assert not network.included
    built.load_state_dict(interop.to_state_dict(name, *tiny_networks.weights(name)), strict=True)


def test_the_card_says_how_many_images_there_were_and_what_their_labels_are():
    spec = {
        "config": {"data": {"generated": "a:1,b:3", "label_noise": 0.25, "pseudo_labels": "/x"}},
        "training_images": {"labelled": {"cifar10": 48976}, "generated": {"a": 100, "b": 2000}},
    }
    lines = submit_card._training(spec)
    assert "| labelled images trained on | 48,976 of cifar10 |" in lines
    assert "| generated images trained on | 100 of a, 2,000 of b |" in lines
    assert "| wrong labels | 25.0% |" in lines
    assert "| labels of generated images | another network's |" in lines
    assert not any("/x" in line for line in lines)
    plain = submit_card._training({"config": {"data": {"generated": ""}}})
    assert not any("images trained on" in line or "labels" in line for line in plain)
