"""AutoAttack in JAX: the ensemble on any function, the same for every batch, refusals."""

import functools
import gc
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import score_jax
from score_jax import mesh
from score_jax.attacks import apgd, autoattack_batches, autoattack_inputs, autoattack_searches
from score_jax.attacks.autoattack import NOT_OFFICIAL, choose_attacks
from score_jax.types import UserError
from tests.apgd_test import SHAPE, apply, distances, linear_case, network

EPS = {"linf": 0.04, "l2": 0.2, "l1": 0.6}


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    """Square asks 60 times; the other attacks are whole."""
    monkeypatch.setattr(autoattack_searches, "NUM_QUERIES", 60)
    monkeypatch.setattr(autoattack_searches, "SQUARE_STOPS", (1, 20, 61))
    autoattack_batches._compiled.cache_clear()


@pytest.fixture(scope="module")
def case():
    """Logits function, images f[n, h, w, c], labels of which two are wrong."""
    key = jax.random.key(1)
    logits_fn = functools.partial(apply, network(key))
    images = np.asarray(jax.random.uniform(jax.random.fold_in(key, 1), (40, *SHAPE)))
    labels = np.array(logits_fn(images).argmax(-1))
    labels[[3, 30]] = (labels[[3, 30]] + 1) % 5
    return logits_fn, images, labels


@pytest.mark.parametrize(
    ("norm", "attacks"),
    [("linf", ()), ("l2", ("apgd-dlr", "square")), ("l1", ("square", "apgd-ce"))],
)
def test_the_result_is_what_the_images_say(case, norm, attacks):
    logits_fn, images, labels = case
    lines = []
    result = score_jax.autoattack(
        logits_fn, images, labels, norm=norm, eps=EPS[norm], attacks=attacks, batch_size=16,
        report=lines.append,
    )  # fmt: skip
    predictions = np.asarray(logits_fn(result.images).argmax(-1))
    np.testing.assert_array_equal(result.predictions, predictions)
    np.testing.assert_array_equal(result.robust, predictions == labels)
    assert result.clean_accuracy == 38 / 40
    assert 0 < result.robust.sum() < 38
    assert result.robust_accuracy == result.robust.mean()
    assert result.images.dtype == np.float32
    assert result.images.min() >= 0 and result.images.max() <= 1
    assert (distances(result.images, images, norm) <= EPS[norm] * (1 + 1e-5)).all()
    changed = (result.images != images).any((1, 2, 3))
    np.testing.assert_array_equal(changed, ~result.robust & ~np.isin(np.arange(40), [3, 30]))
    names = attacks or ("apgd-ce", "apgd-t", "fab-t", "square")
    assert tuple(record["name"] for record in result.attacks) == names
    assert sum(record["fallen"] for record in result.attacks) == 38 - result.robust.sum()
    assert result.attacks[-1]["robust_accuracy"] == result.robust_accuracy
    assert result.official is False and result.note == NOT_OFFICIAL
    assert len(lines) == 1 + len(names) and lines[0] == "clean accuracy 95.00% on 40 images"


@pytest.mark.parametrize("attack", ["apgd-t", "square"])
def test_neither_batches_nor_devices_change_what_an_image_meets(case, monkeypatch, attack):
    results = []
    layouts = [mesh.create(jax.devices()[:devices]) for devices in (4, 1)]
    for batch_size, layout in zip((1000, 7), layouts, strict=True):
        monkeypatch.setattr(autoattack_batches.mesh, "create", lambda layout=layout: layout)
        logits_fn, images, labels = case
        results.append(
            score_jax.autoattack(
                logits_fn, images, labels, eps=EPS["linf"], attacks=(attack,),
                batch_size=batch_size, seed=3,
            )
        )  # fmt: skip
    assert 0 < results[0].robust.sum() < 38
    np.testing.assert_array_equal(results[0].robust, results[1].robust)
    np.testing.assert_allclose(results[0].images, results[1].images, rtol=0, atol=1e-5)


def test_the_ensemble_s_apgd_is_the_function_s(case):
    logits_fn, images, labels = case
    result = score_jax.autoattack(
        logits_fn, images, labels, eps=0.03, attacks=("apgd-t",), seed=5
    )  # fmt: skip
    key = jax.random.fold_in(jax.random.key(5), list(autoattack_searches.ATTACKS).index("apgd-t"))
    keys = autoattack_searches._keys(key, jnp.arange(40))
    attack = jax.jit(functools.partial(apgd.apgd_targeted, logits_fn, norm="linf", eps=0.03))
    found = attack(keys, images, jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(result.images, found, rtol=0, atol=1e-5)
    assert 0 < result.robust.sum() < 38


def test_seeds_draw_anew(case):
    logits_fn, images, labels = case
    run = functools.partial(score_jax.autoattack, logits_fn, images, labels, attacks=("square",))
    first, again, other = (run(eps=0.04, seed=seed).images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_ensemble_finds_the_exact_accuracy_of_a_linear_classifier(key):
    logits_fn, images, labels, exact = linear_case(key, "linf", 5)
    eps = float(np.median(exact))
    result = score_jax.autoattack(logits_fn, images, labels, eps=eps, batch_size=16)
    clear = np.abs(exact / eps - 1) > 1e-3
    np.testing.assert_array_equal(result.robust[clear], (exact > eps)[clear])


def test_weights_travel_as_arguments(case):
    logits_fn, images, _ = case
    traced = []

    def counted(weights, batch):
        traced.append(batch.shape)
        return apply(weights, batch)

    closure = autoattack_batches.with_weights(jax.jit(logits_fn), (4, *SHAPE))
    assert sorted(leaf.shape for leaf in jax.tree.leaves(closure)) == [(16, 5), (40, 16)]
    np.testing.assert_allclose(closure(images[:4]), logits_fn(images[:4]), atol=1e-6)
    run = functools.partial(score_jax.autoattack, attacks=("apgd-ce",), eps=0.03, batch_size=16)
    accuracies = []
    for seed in (1, 2, 2):
        weights = network(jax.random.key(seed))
        labels = np.asarray(apply(weights, images).argmax(-1))
        accuracies.append(run(Partial(counted, weights), images, labels).robust_accuracy)
        traced.append(None)
    first = traced.index(None)
    # After the first call only the shape of the logits is asked for, and nothing compiled.
    assert traced[first + 1 :] == [(16, *SHAPE), None] * 2
    assert first > 1 and accuracies[1] == accuracies[2]


def test_a_call_leaves_no_weights_behind_and_places_them_once(case):
    _, images, labels = case
    weights = network(jax.random.key(3))
    placed = []

    def run():
        own = jax.tree.map(jnp.copy, weights)
        function = lambda x: apply(own, x)  # noqa: E731
        batches = autoattack_batches.Batches(function, images, labels, 30)
        logits = batches.logits(np.arange(40)), batches.logits_of_few()
        assert len(batches._placed) == 2
        leaves = [jax.tree.leaves(there) for there in batches._placed.values()]
        placed.append([first is second for first, second in zip(*leaves, strict=True)])
        del batches
        return logits

    run()
    gc.collect()
    before = len(jax.live_arrays())
    run()
    gc.collect()
    assert len(jax.live_arrays()) == before
    assert placed == [[True, True]] * 2


def test_functions_for_all_devices_or_one_size_are_taken(case):
    logits_fn, images, labels = case
    expected = np.asarray(logits_fn(images[:16]))
    inner = jax.jit(logits_fn, in_shardings=mesh.create().batch)
    for function in (inner, lambda x: inner(x), for_one_size(logits_fn, 16)):
        assert autoattack_inputs.num_classes(function, (16, *SHAPE), labels) == 5
        batches = autoattack_batches.Batches(function, images, labels, 16)
        np.testing.assert_allclose(batches.logits(np.arange(16)), expected, atol=1e-5)


def test_sizes_are_few_and_fit_the_devices():
    assert autoattack_batches.ladder(500, 1) == (16, 32, 63, 125, 250, 500)
    assert autoattack_batches.ladder(500, 8) == (16, 32, 64, 128, 256, 504)
    assert autoattack_batches.ladder(3, 4) == (4,)


def test_an_attack_has_sizes_that_fit_its_images(case):
    logits_fn, images, labels = case
    for function, rungs in ((logits_fn, (16, 28)), (Partial(logits_fn), (16, 32))):
        batches = autoattack_batches.Batches(function, images, labels, 30)
        assert batches.rungs == (16, 32)
        batches.fit(52)
        assert batches.rungs == rungs
        assert batches.logits(np.arange(3)).shape == (3, 5)


def test_few_classes_leave_attacks_out():
    kept, notes = choose_attacks("standard", (), 3)
    assert kept == ("apgd-ce", "fab-t", "square")
    assert notes == ["apgd-t left out: its loss needs 4 classes, there are 3"]
    assert choose_attacks("plus", (), 2)[0] == ("apgd-ce", "fab", "square", "fab-t")
    assert autoattack_searches.settings("standard", "linf", 6).num_targets == 5
    with pytest.raises(UserError, match="'apgd-dlr' needs 3 classes or more, logits_fn has 2"):
        choose_attacks("standard", ("apgd-dlr",), 2)


def test_gradient_masking_is_told(case):
    logits_fn, images, labels = case

    def masked(x):
        return jnp.round(logits_fn(x) * 4) / 4 + 1e-4 * jnp.arange(5.0)[None]

    labels = np.asarray(masked(images).argmax(-1))
    result = score_jax.autoattack(
        masked, images, labels, eps=0.06, attacks=("apgd-ce", "square"), batch_size=16
    )  # fmt: skip
    assert len(result.notes) == 1 and "gradient masking" in result.notes[0]


def test_rounding_is_told_and_more_is_refused(case):
    logits = np.asarray(case[0](case[1]))
    largest = max(1.0, float(np.abs(logits).max()))
    for difference, count in ((1e-5, 0), (1e-3, 1)):
        other = logits[:8] + np.float32(difference * largest)
        notes = autoattack_inputs.check_logits(logits, logits, other)
        assert len(notes) == count
        assert all("between two batch sizes" in note for note in notes)
    with pytest.raises(UserError, match="between two passes"):
        autoattack_inputs.check_logits(logits, logits + np.float32(0.02 * largest), logits)


def test_images_that_are_no_numbers_are_clean_ones_and_told(case, monkeypatch):
    logits_fn, images, labels = case

    def broken(batches, standing, *_):
        found = images[standing].copy()
        found[:3] = np.nan
        yield standing, found

    monkeypatch.setitem(autoattack_searches.ATTACKS, "apgd-t", broken)
    result = score_jax.autoattack(
        logits_fn, images, labels, eps=0.03, attacks=("apgd-t",), batch_size=16
    )  # fmt: skip
    assert result.robust.sum() == 38 and result.attacks[0]["fallen"] == 0
    np.testing.assert_array_equal(result.images, images)
    assert result.notes == ["apgd-t left 3 images that are no numbers; they stand"]


def with_nan(logits_fn):
    return lambda x: logits_fn(x).at[0, 0].set(jnp.nan)


def for_one_size(logits_fn, size):
    exported = jax.export.export(jax.jit(logits_fn))(
        jax.ShapeDtypeStruct((size, *SHAPE), np.float32)
    )
    return lambda x: exported.call(x)


def by_the_batch(logits_fn):
    return lambda x: logits_fn(x) - logits_fn(x)[:1] * len(x)


REFUSED = [
    (dict(images=lambda x: (x * 255).astype(np.uint8)), "images are uint8; give float32 in [0, 1]"),
    (dict(images=lambda x: x * 255), "images lie in ["),
    (dict(images=lambda x: x.reshape(40, -1)), "images have shape (40, 40)"),
    (dict(images=lambda x: x * np.nan), "images lie in [nan, nan]"),
    (dict(labels=lambda y: y[:5]), "labels are int32 of shape (5,); give integers of shape (40,)"),
    (dict(labels=lambda y: y + 1.0), "labels are float"),
    (dict(labels=lambda y: y + 1), "labels lie in [1, 5], logits_fn tells 5 classes apart"),
    (dict(labels=lambda y: y - 1), "labels lie in [-1, 3]"),
    (dict(eps=8), "eps=8 is not a radius in pixel units: images are in [0, 1]; write 8/255"),
    (dict(eps=0.0), "eps=0 is not a positive radius"),
    (dict(eps=float("nan")), "eps=nan is not a positive radius"),
    (dict(eps=-0.1), "eps=-0.1 is not a positive radius"),
    (dict(norm="l0"), "unknown norm 'l0'; known: l1, l2, linf"),
    (dict(version="fast"), "unknown AutoAttack version 'fast'"),
    (dict(version="rand"), "a function of images alone has none"),
    (dict(attacks=("apgd",)), "unknown attack 'apgd'"),
    (dict(batch_size=0), "batch_size=0 is not positive"),
    (dict(logits_fn=lambda f: lambda x: jax.nn.softmax(f(x))), "returned probabilities"),
    (dict(logits_fn=with_nan), "NaN or infinite logits"),
    (dict(logits_fn=by_the_batch), "between two batch sizes"),
    (dict(logits_fn=lambda f: lambda x: f(x)[:, 0]), "logits_fn returned (32,) for 32 images"),
    (dict(logits_fn=lambda f: lambda x: np.asarray(x)[:, 0, 0]), "that jax.jit can trace"),
    (dict(logits_fn=lambda f: for_one_size(f, 16)), "can trace for 32 images: ValueError"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[text[:40] for _, text in REFUSED])
def test_nonsense_is_refused_in_one_line(case, change, message):
    logits_fn, images, labels = case
    arguments = dict(eps=0.03, batch_size=32, attacks=("apgd-ce",)) | {
        name: value for name, value in change.items() if not callable(value)
    }
    for name, value in dict(logits_fn=logits_fn, images=images, labels=labels).items():
        arguments[name] = change[name](value) if name in change else value
    with pytest.raises(UserError) as raised:
        score_jax.autoattack(**arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_package_alone_imports_no_jax():
    program = "import sys, score_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'auto_attack'"):
        score_jax.auto_attack  # noqa: B018
