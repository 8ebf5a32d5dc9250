"""Both packages of AutoAttack, spoken to in their own words; few classes; what its doubts mean."""

from types import SimpleNamespace

import pytest
import torch

from score_jax import autoattack_adapter
from score_jax.types import UserError

torch.set_num_threads(1)


def settings(**changes):
    fields = dict(norm="linf", eps=0.02, version="standard", attacks=("apgd-ce",), num_classes=10)
    return autoattack_adapter.Settings(**{**fields, **changes})


@pytest.mark.parametrize(
    ("num_classes", "version", "kept", "left_out"),
    [
        (10, "standard", ("apgd-ce", "apgd-t", "fab-t", "square"), 0),
        (10, "plus", ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"), 0),
        (3, "standard", ("apgd-ce", "fab-t", "square"), 1),
        (2, "rand", ("apgd-ce",), 1),
    ],
)
def test_few_classes_leave_out_what_is_undefined(num_classes, version, kept, left_out):
    attacks, notes = autoattack_adapter.choose_attacks(version, (), num_classes)
    assert attacks == kept
    assert len(notes) == left_out
    assert autoattack_adapter.choose_attacks(version, kept, num_classes) == (attacks, notes)
    with pytest.raises(UserError, match="'apgd-t' needs 4 classes or more, the model has 3"):
        autoattack_adapter.choose_attacks("standard", ("apgd-t",), 3)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_fewer_than_ten_classes_run(num_classes):
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, num_classes))
    images = torch.rand(3, 1, 4, 4)
    labels = network(images).argmax(1)
    attacks, _ = autoattack_adapter.choose_attacks("standard", (), num_classes)
    library, recorder = autoattack_adapter.find_library(), autoattack_adapter.Recorder()
    chosen = settings(attacks=attacks, num_classes=num_classes)
    for attack in attacks:
        if attack != "square":
            found = autoattack_adapter.perturb(
                library, network, images, labels,
                attack=attack, seed=0, settings=chosen, logger=recorder,
            )  # fmt: skip
            assert (found - images).abs().max() <= 0.02 + 1e-6 and not found.requires_grad
    autoattack_adapter.check_defense(
        library, network, images, labels, settings=chosen, logger=recorder
    )
    assert not recorder.warnings


@pytest.mark.parametrize(
    ("norm", "version", "attack", "expected"),
    [
        ("linf", "standard", "apgd-ce", dict(n_restarts=1, use_largereps=False, loss="ce")),
        ("l1", "standard", "apgd-ce", dict(n_restarts=5, use_largereps=True, norm="L1")),
        ("l1", "standard", "apgd-t", dict(n_target_classes=5, use_largereps=True)),
        ("l2", "plus", "apgd-dlr", dict(n_restarts=5, loss="dlr", norm="L2")),
        ("linf", "plus", "fab", dict(n_restarts=5, targeted=False)),
        ("linf", "plus", "fab-t", dict(n_restarts=1, targeted=True, n_target_classes=9)),
        ("linf", "rand", "apgd-ce", dict(eot_iter=20, n_restarts=1)),
        ("l1", "standard", "square", dict(n_queries=5000, norm="L1", seed=4)),
    ],
)
def test_an_attack_has_the_settings_of_its_version(monkeypatch, norm, version, attack, expected):
    seen, real = [], autoattack_adapter.build

    def build(*arguments):
        adversary = real(*arguments)
        for part in (adversary.apgd, adversary.apgd_targeted, adversary.fab, adversary.square):
            part.perturb = lambda x, y, part=part: seen.append(vars(part).copy()) or x
        return adversary

    monkeypatch.setattr(autoattack_adapter, "build", build)
    autoattack_adapter.perturb(
        autoattack_adapter.find_library(), None, torch.zeros(2, 1, 4, 4), torch.zeros(2),
        attack=attack, seed=4, settings=settings(norm=norm, version=version),
        logger=autoattack_adapter.Recorder(),
    )  # fmt: skip
    assert len(seen) == 1
    assert {name: seen[0][name] for name in expected} == expected


def test_the_random_numbers_of_others_are_left_alone():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10))
    before = torch.random.get_rng_state()
    autoattack_adapter.perturb(
        autoattack_adapter.find_library(), network, torch.rand(2, 1, 4, 4), torch.zeros(2).long(),
        attack="apgd-ce", seed=0, settings=settings(), logger=autoattack_adapter.Recorder(),
    )  # fmt: skip
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    torch.rand(2, 1, 4, 4)
    assert torch.equal(torch.random.get_rng_state(), after)


class Randomized(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] + torch.rand(len(x), 10)


class Dynamic(torch.nn.Module):
    def forward(self, x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad((x**2).sum(), x)
        return slope.flatten(1)[:, :10]


@pytest.mark.parametrize(
    ("network", "version", "flags"),
    [
        (Randomized(), "standard", ["randomized"]),
        (Randomized(), "rand", []),
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(1)), "rand", ["probabilities"]),
        (Dynamic(), "standard", ["dynamic"]),
        # What the library counted for the network before is not held against this one.
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)), "standard", []),
    ],
)
def test_the_checks_become_flags_with_their_meaning(network, version, flags):
    recorder = autoattack_adapter.Recorder()
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    autoattack_adapter.check_defense(
        autoattack_adapter.find_library(), network, images, torch.zeros(4).long(),
        settings=settings(version=version), logger=recorder,
    )  # fmt: skip
    found = autoattack_adapter.explain_flags(recorder.warnings)
    assert [flag["name"] for flag in found] == flags
    assert all(flag["times"] == 1 and flag["meaning"] for flag in found)


def test_a_gain_of_square_is_a_flag():
    recorder = autoattack_adapter.Recorder()
    library = autoattack_adapter.find_library()
    autoattack_adapter.check_square(library, {"clean": 0.9, "fab-t": 0.5, "square": 0.5}, recorder)
    assert not recorder.warnings
    autoattack_adapter.check_square(library, {"clean": 0.9, "fab-t": 0.5, "square": 0.4}, recorder)
    (flag,) = autoattack_adapter.explain_flags(recorder.warnings)
    assert flag["name"] == "black_box_gain" and "10.00%" in flag["message"]


class GithubAutoAttack:
    """The GitHub version's signature and ways of speaking, without the attacks."""

    def __init__(
        self, model, norm="Linf", eps=0.3, seed=None, verbose=True, attacks_to_run=(),
        version="standard", is_tf_model=False, device="cuda", log_path=None,
    ):  # fmt: skip
        self.given = (norm, eps, version, str(device), verbose)
        self.apgd, self.square = SimpleNamespace(), SimpleNamespace()
        self.fab = SimpleNamespace(n_target_classes=9)
        self.apgd_targeted = SimpleNamespace(n_target_classes=9, perturb=self.perturb)
        GithubAutoAttack.last = self

    def perturb(self, x, y):
        assert self.apgd_targeted.seed == 4
        self.apgd_targeted.logger.log("Warning: there are 2 points with zero gradient! and so on")
        self.apgd_targeted.logger.log("something else")
        return x + 0.25


def test_the_github_version_is_spoken_to_in_its_own_words():
    library = autoattack_adapter.Library(
        name="autoattack", version="0.1", factory=GithubAutoAttack, checks=None
    )
    recorder = autoattack_adapter.Recorder()
    found = autoattack_adapter.perturb(
        library, None, torch.zeros(5, 1, 2, 2), torch.arange(5), attack="apgd-t", seed=4,
        settings=settings(norm="l2", eps=0.5, num_classes=6), logger=recorder,
    )  # fmt: skip
    adversary = GithubAutoAttack.last
    assert adversary.given == ("L2", 0.5, "standard", "cpu", False)
    assert adversary.apgd_targeted.n_target_classes == adversary.fab.n_target_classes == 5
    assert (found == 0.25).all()
    (flag,) = autoattack_adapter.explain_flags(recorder.warnings)
    assert flag["name"] == "zero_gradient"
    assert flag["message"] == "there are 2 points with zero gradient! and so on"


def test_without_autoattack_the_remedy_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(autoattack_adapter.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'score-jax\[torch\]'"):
        autoattack_adapter.find_library()
