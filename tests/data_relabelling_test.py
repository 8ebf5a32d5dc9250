"""Other labels: exactly as many wrong ones as asked for, and a network's for its own images."""

import numpy as np
import pytest

from score_jax import config as config_module
from score_jax.data import relabelling
from score_jax.data.sampling import LabelledImages
from score_jax.data.sources import Images, Source
from score_jax.types import UserError

CLASSES = 10


def images(name="digits", count=2000):
    generator = np.random.default_rng(count)
    return Images(
        images=generator.integers(0, 256, (count, 2, 2, 1)).astype(np.uint8),
        labels=generator.integers(0, CLASSES, count).astype(np.int32),
        fingerprint=f"{name} {count}",
        name=name,
        split="train",
        path=f"/data/{name}",
    )


def relabelled(held, **data):
    config = config_module.default()
    config.data.update(name="digits", **data)
    chosen = LabelledImages(train_size=len(held[0]), validation_size=100)
    return relabelling.relabelled(config, held, chosen, CLASSES)


def write(path, **changes):
    """Pseudo-labels of the set 'made' of 500 images."""
    generator = np.random.default_rng(7)
    fields = dict(
        label=generator.integers(0, CLASSES, 500).astype(np.int32),
        confidence=generator.random(500, np.float32),
        format=relabelling.FORMAT,
        dataset="made",
        fingerprint="made 500",
        model_sha256="0",
    )
    fields |= changes
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    return str(path), fields["label"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.333, 1.0])
def test_exactly_the_share_of_the_trained_labels_is_wrong(share):
    own = images()
    (found,) = relabelled((own,), label_noise=share)
    taken, labels = found.take(np.arange(2000))
    np.testing.assert_array_equal(taken, own.images)
    wrong = labels != own.labels
    assert wrong.sum() == round(share * 1900) and not wrong[:100].any()
    assert labels.dtype == np.int32 and labels.min() >= 0 and labels.max() < CLASSES
    np.testing.assert_array_equal(found.labels, labels)
    some = np.array([1999, 3, 700])
    np.testing.assert_array_equal(found.take(some)[1], labels[some])


def test_wrong_labels_are_symmetric_and_fixed_by_their_seed():
    own = images()
    noisy = [
        relabelled((own,), label_noise=share, label_noise_seed=seed)[0].labels
        for share, seed in ((1.0, 0), (1.0, 0), (1.0, 1), (0.3, 0))
    ]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (noisy[0] != noisy[2]).mean() > 0.7
    # More noise keeps what was wrong with less.
    wrong = noisy[3] != own.labels
    np.testing.assert_array_equal(noisy[3][wrong], noisy[0][wrong])
    # Every pair of a class and another is alike: 90 pairs, chi squared has deviation 13.
    trained = slice(100, None)
    pairs = own.labels[trained] * CLASSES + noisy[0][trained]
    counts = np.bincount(pairs, minlength=100).reshape(CLASSES, CLASSES)
    assert not counts.diagonal().any()
    expected = counts.sum(1, keepdims=True) / (CLASSES - 1) * (1 - np.eye(CLASSES))
    off = expected > 0
    assert ((counts - expected)[off] ** 2 / expected[off]).sum() < 80 + 4 * 13


def test_a_subset_alone_may_be_wrong():
    own, chosen = images(), np.arange(500, 1000)
    shifts = relabelling.wrong_labels(chosen, len(own), CLASSES, 0.5, seed=3)
    assert (shifts > 0).sum() == 250 and set(np.flatnonzero(shifts)) <= set(chosen)


def test_pseudo_labels_replace_those_of_their_set(tmp_path):
    held = (images(), images("other", 700), images("made", 500))
    path, expected = write(tmp_path / "f.npz")
    found = relabelled(held, generated="other:1,made:2", pseudo_labels=path)
    assert found[:2] == held[:2]
    indices = np.array([499, 0, 3, 3])
    taken, labels = found[2].take(indices)
    np.testing.assert_array_equal(taken, held[2].images[indices])
    np.testing.assert_array_equal(labels, expected[indices])
    np.testing.assert_array_equal(found[2].labels, expected)
    assert labels.dtype == np.int32 and len(found[2]) == 500
    source: Source = found[2]
    assert (source.name, source.fingerprint, source.storage) == ("made", "made 500", "memory")


def test_each_set_may_have_a_file(tmp_path):
    held = (images(), images("other", 700), images("made", 500))
    one, labels = write(tmp_path / "one.npz")
    other = np.zeros(700, np.int32)
    two, _ = write(tmp_path / "two.npz", label=other, dataset="other", fingerprint="other 700")
    found = relabelled(held, generated="other,made", pseudo_labels=f"{one}, {two}")
    np.testing.assert_array_equal(found[1].labels, other)
    np.testing.assert_array_equal(found[2].labels, labels)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(dataset="else"), "labels 'else', which data.generated does not name; .*: made"),
        (
            dict(label=np.zeros(499, np.int32)),
            r"labels int32 of shape \(499,\) where made has 500 images",
        ),
        (dict(label=np.zeros(500, np.int64)), r"labels int64 of shape \(500,\) where made has"),
        (dict(label=np.full(500, 10, np.int32)), "labels from 10 to 10 where digits has 0 to 9"),
        (dict(label=np.full(500, -1, np.int32)), "labels from -1 to -1"),
        (dict(fingerprint="made of others"), r"labels other images .*\(made of othe, not made 50"),
        (dict(format="another"), "is not a file of pseudo-labels"),
        (dict(confidence=None), "is not a file of pseudo-labels"),
        (dict(label=np.array([{}] * 500)), "labels object of shape"),  # Not unpickled.
        (dict(dataset=np.zeros(10**6)), "is damaged or no npz .dataset is no short text"),
    ],
)
def test_pseudo_labels_of_something_else_are_refused(changes, message, tmp_path):
    path, _ = write(tmp_path / "f.npz", **changes)
    with pytest.raises(UserError, match=message) as caught:
        relabelled((images(), images("made", 500)), generated="made", pseudo_labels=path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    held = (images(), images("made", 500))
    with pytest.raises(UserError, match="does not exist; write it with: score-jax data label"):
        relabelled(held, generated="made", pseudo_labels=str(tmp_path / "none.npz"))
    path, _ = write(tmp_path / "f.npz")
    content = (tmp_path / "f.npz").read_bytes()
    for damaged in (b"", b"text", content[:-30], content[:100] + b"\1" + content[101:]):
        (tmp_path / "f.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged or no npz") as caught:
            relabelled(held, generated="made", pseudo_labels=path)
        assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_or_has_the_same_labels(tmp_path):
    path, labels = write(tmp_path / "f.npz")
    content = (tmp_path / "f.npz").read_bytes()
    held, refused = (images(), images("made", 500)), 0
    generator = np.random.default_rng(0)
    for number in range(100):
        damaged = bytearray(content)
        at, other = generator.integers(0, len(content), 2)
        if number % 3 == 0:
            damaged[at] ^= 1 << generator.integers(8)
        elif number % 3 == 1:
            damaged[at : at + 50] = damaged[other : other + 50]
        else:
            del damaged[at:]
        (tmp_path / "f.npz").write_bytes(damaged)
        try:
            found = relabelled(held, generated="made", pseudo_labels=path)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(found[1].labels, labels)
    assert refused > 50
