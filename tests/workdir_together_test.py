"""What processes of one run must have in common."""

import copy

import pytest

from score_jax import config as config_module
from score_jax import overrides, workdir_together, workdir_versions


def facts(*texts, data=()):
    return workdir_together.facts(overrides.apply(config_module.default(), texts), dict(data))


def changed(facts, section, **fields):
    return {**copy.deepcopy(facts), section: {**facts[section], **fields}}


def test_one_start_has_no_differences_wherever_its_data_are():
    assert workdir_together.differences(facts(), facts("data.dir=/scratch")) == []


@pytest.mark.parametrize("text", ["seed=3", "data.microbatches=2", "checkpoint.every_minutes=3"])
def test_every_other_field_counts(text):
    name, _, value = text.partition("=")
    (line,) = workdir_together.differences(facts(), facts(text))
    assert line.startswith(f"config.{name}: {value}") and line.endswith(" in process 0")


def test_other_data_count_and_are_named():
    there, here = (
        facts(data={"cifar10": "a" * 64, "pseudo-labels of made": each * 64}) for each in "bc"
    )
    assert workdir_together.differences(there, there) == []
    assert workdir_together.differences(there, here) == [
        "fingerprint.pseudo-labels of made: 'cccccccccccc', and 'bbbbbbbbbbbb' in process 0"
    ]


def test_versions_count_but_of_what_judges():
    here = facts()
    version = here["version"]["jax"]
    other = changed(here, "version", jax="0.1", torch="9")
    del other["version"]["torch"]
    assert workdir_together.differences(here, other) == [
        f"version.jax: '0.1', and '{version}' in process 0"
    ]
    assert "torch" not in here["version"]


@pytest.mark.parametrize(
    ("commits", "digests", "expected"),
    [
        (("a", "a"), ("d", "d"), []),
        (("a", "b"), ("d", "d"), []),  # Of other files.
        ((None, "a"), ("d", "d"), []),  # A host without git.
        (("a", "b"), ("d", "e"), ["source: 'b', and 'a' in process 0"]),
        (("a", "a"), ("d", "e"), ["source: 'files e', and 'files d' in process 0"]),
        (("a", None), ("d", "e"), ["source: 'files e', and 'files d' in process 0"]),
    ],
)
def test_source_trees_count_as_what_is_in_them(commits, digests, expected):
    trees = [
        changed(facts(), "source", commit=commit, digest=digest)
        for commit, digest in zip(commits, digests, strict=True)
    ]
    assert workdir_together.differences(*trees) == expected


def test_a_changed_file_has_another_digest(monkeypatch, tmp_path):
    monkeypatch.setattr(workdir_versions, "__file__", str(tmp_path / "module.py"))
    seen = []
    for text in ("1", "2", "1"):
        (tmp_path / "module.py").write_text(text)
        seen.append(workdir_versions.source_digest())
    assert seen[0] == seen[2] != seen[1]


def test_the_refusal_names_process_hosts_and_fields():
    lines = [f"field {number}" for number in range(6)]
    assert workdir_together.refusal(1, ["a", "b", "c"], lines) == (
        "process 1 on b was started otherwise than process 0 on a (field 0; field 1; field 2; "
        "field 3; and 2 more); start all 3 processes with the same command, the same "
        "installation and the same data"
    )
