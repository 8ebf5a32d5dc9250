"""Requests to prepare: refused before anything is written, compared with what is there."""

import json
import os
import pathlib

import numpy as np
import pytest

from score_jax import cli, prepare
from score_jax.types import UserError


def npz(path, count=25, labels=10, seed=0, size=32):
    """A file of generated images."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    np.savez(path, image=images, label=np.arange(count) % labels)
    return str(path)


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        prepare.prepare(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cifar01", {}, "unknown dataset 'cifar01'"),
        ("Own", {"sources": [__file__]}, "'Own' cannot name a dataset of your own"),
        ("own", {"sources": [__file__], "extends": "cifar"}, "unknown dataset 'cifar'"),
        ("cifar10", {"sources": ["absent"]}, "--source=absent does not exist"),
        ("cifar10", {"size": 64}, "--size=64: the images of cifar10 have 32 pixels"),
        ("digits", {"mirror": "http://a"}, "--mirror=http://a is for what is downloaded"),
        ("cifar10_ddpm", {"sources": [__file__] * 2}, "is given twice; give each file once"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(name, options, told, tmp_path, capsys):
    assert told in refusal(name, data_dir=str(tmp_path / "data"), **options)
    assert not (tmp_path / "data").exists() and capsys.readouterr().err == ""


def test_the_same_file_by_another_path_is_given_twice(tmp_path):
    source = npz(tmp_path / "g.npz")
    (tmp_path / "link.npz").symlink_to(source)
    assert "given twice" in refusal("own", [source, str(tmp_path / "link.npz")], str(tmp_path))


def test_another_request_for_what_is_prepared_is_refused(tmp_path, capsys):
    source, other = npz(tmp_path / "g.npz"), npz(tmp_path / "h.npz", seed=1)
    words = ["data", "prepare", "own", f"--data_dir={tmp_path}"]
    for more, told in (
        ([f"--source={source}"], "prepared in"),
        ([f"--source={source}"], "already prepared in"),
        ([], "already prepared in"),
        (["--size=32"], "already prepared in"),
    ):
        assert cli.main([*words, *more]) == 0
        assert told in capsys.readouterr().err
    for more, told in (
        ([f"--source={other}"], ": from other files, or from what these were before a change;"),
        ([f"--source={source}", "--size=16"], ": its images have 32x32 pixels, not 16x16; leave"),
        (["--extends=cifar10"], ": it extends nothing, not cifar10; leave the flags out"),
    ):
        assert cli.main([*words, *more]) == 2
        assert told in capsys.readouterr().err.splitlines()[-1]
    os.unlink(source)
    os.unlink(other)
    assert cli.main([*words, f"--source={source}"]) == 0  # Taken by its name.
    assert cli.main([*words, f"--source={other}"]) == 2


def test_folders_of_earlier_versions_are_taken_as_they_are(tmp_path):
    folder = prepare.prepare("own", [npz(tmp_path / "g.npz")], str(tmp_path))
    path = pathlib.Path(folder, "metadata.json")
    known = json.loads(path.read_text())
    del known["source_key"]
    path.write_text(json.dumps(known))
    assert prepare.prepare("own", [npz(tmp_path / "h.npz")], str(tmp_path)) == folder


def test_empty_classes_and_other_counts_than_published_are_noticed(tmp_path, capsys):
    prepare.prepare("cifar10_ddpm", [npz(tmp_path / "g.npz", labels=9)], str(tmp_path))
    told = capsys.readouterr().err
    assert "cifar10_ddpm: notice: train has no images of 1 of 10 classes: truck\n" in told
    assert "cifar10_ddpm: notice: 25 images where 1000000 were published\n" in told
    prepare.prepare("own", [str(tmp_path / "g.npz")], str(tmp_path))
    assert "notice" not in capsys.readouterr().err
