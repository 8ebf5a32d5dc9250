"""`score-jax list`: every entry of every registry, one line each."""

import pytest

from score_jax import catalog, models, objectives, overrides
from score_jax.data import sources
from score_jax.types import UserError


@pytest.fixture(scope="module")
def lines():
    return catalog.describe()


def named(section):
    return [line.split("  ")[0] for line in catalog.describe(section)]


def test_sections_list_the_registries():
    methods = named("methods")
    assert methods[: len(objectives.OBJECTIVES)] == [
        f"objective.name={name}" for name in objectives.OBJECTIVES
    ]
    assert {"attack.start", "attack.patience", "awp.gamma"} <= set(methods)
    assert named("models") == list(models.MODELS)
    assert named("datasets") == list(sources.DATASETS)
    assert {"pgd", "official_autoattack"} <= set(named("attacks"))
    assert named("configs") == [file.name for file in overrides.recipe_files()]
    assert "score" in named("tables")


def test_every_entry_is_one_line_and_says_something(lines):
    entries = [line for line in lines if line.startswith("  ")]
    assert len(entries) == sum(len(named(section)) for section in catalog.SECTIONS)
    for line in entries:
        name, _, text = line.strip().partition("  ")
        assert text.strip(), f"{name} has no docstring"
        assert "\n" not in line and "`S" not in line, line


def test_configs_tell_their_arguments(lines):
    (line,) = (line for line in lines if line.strip().startswith("cifar10_score.py"))
    assert "SCORE on CIFAR-10" in line
    assert "[model=NAME, beta=NUMBER, threat=linf|l2, smoke]" in line
    shared = {"common.py", "published.py"}
    assert not shared & set(named("configs"))


def test_an_option_names_its_choices(lines):
    (line,) = (line for line in lines if line.strip().startswith("attack.start"))
    assert "uniform, normal, zero" in line


def test_an_unknown_section_lists_the_known():
    with pytest.raises(UserError, match="unknown section 'method'.*did you mean 'methods'"):
        catalog.describe("method")
