"""Square: random search that needs no gradient, each image on its own."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.attacks import apgd, square, square_windows
from score_jax.types import UserError
from tests.apgd_test import SHAPE, apply, batch, distances, network

EPS = {"linf": 0.06, "l2": 0.4, "l1": 1.2}
NUM_QUERIES = 120


def attack(norm, logits_fn, num_queries=NUM_QUERIES):
    return jax.jit(
        functools.partial(
            square.square, logits_fn, norm=norm, eps=EPS[norm], num_queries=num_queries
        )
    )


@pytest.fixture(scope="module", params=EPS)
def case(request):
    """An attacked batch, to look at from several sides."""
    key, norm = jax.random.key(3), request.param
    logits_fn = functools.partial(apply, network(key))
    images, labels, keys = batch(key, logits_fn)
    run = attack(norm, logits_fn)
    return SimpleNamespace(
        norm=norm, logits_fn=logits_fn, images=images, labels=labels, keys=keys, run=run,
        attacked=run(keys, images, labels),
    )  # fmt: skip


def test_every_result_is_an_adversarial_image_of_the_ball_or_the_clean_one(case):
    attacked, images, labels = case.attacked, case.images, case.labels
    assert attacked.dtype == images.dtype
    assert float(attacked.min()) >= 0 and float(attacked.max()) <= 1
    assert (distances(attacked, images, case.norm) <= EPS[case.norm] * (1 + 1e-5)).all()
    clean = np.asarray(case.logits_fn(images).argmax(-1) == labels)
    right = np.asarray(case.logits_fn(attacked).argmax(-1) == labels)
    changed = np.asarray((attacked != images).any((1, 2, 3)))
    assert not changed[~clean].any()
    assert (right == (clean & ~changed)).all()
    assert 0 < changed.sum() < len(images) - 2, "the case tests both outcomes"


def test_an_image_does_not_feel_its_batch(case):
    some = jnp.array([7, 2, 9])
    alone = case.run(case.keys[some], case.images[some], case.labels[some])
    np.testing.assert_allclose(alone, case.attacked[some], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", ["linf", "l2"], indirect=True)
def test_a_search_in_parts_is_the_same_search(case):
    part = jax.jit(
        lambda found, first, stop: square.search(
            case.logits_fn, case.keys, case.images, case.labels, found, norm=case.norm,
            eps=EPS[case.norm], num_queries=NUM_QUERIES, first=first, stop=stop,
        )
    )  # fmt: skip
    whole = part(square.beginning(case.images), 0, NUM_QUERIES + 1)
    found = square.beginning(case.images)
    for first, stop in ((0, 1), (1, 40), (40, NUM_QUERIES + 1)):
        found = part(found, first, stop)
    for piece, one in zip(found, whole, strict=True):
        np.testing.assert_allclose(piece, one, rtol=0, atol=2e-6)


def test_it_finds_what_a_masked_gradient_hides(key):
    weights = network(key)

    def logits_fn(images):
        return jnp.round(apply(weights, images) * 4) / 4 + 1e-4 * jnp.arange(5.0)[None]

    images, labels, keys = batch(key, logits_fn, size=32)
    clean = int((logits_fn(images).argmax(-1) == labels).sum())
    ascend = jax.jit(functools.partial(apgd.apgd, logits_fn, norm="linf", eps=EPS["linf"]))
    robust = {
        name: int((logits_fn(run(keys, images, labels)).argmax(-1) == labels).sum())
        for name, run in (("apgd", ascend), ("square", attack("linf", logits_fn, 300)))
    }
    # APGD never leaves its random start, where only few images fall.
    assert robust["apgd"] > 0.6 * clean
    assert robust["square"] < 0.5 * robust["apgd"]


def test_it_stops_asking_when_everyone_is_fooled(key):
    asked = []

    def logits_fn(images):
        jax.debug.callback(lambda: asked.append(1))
        # Wrong from the first query on, right on clean images.
        moved = jnp.abs(images - 0.5).max((1, 2, 3))
        return jnp.stack([0.01 - moved, moved * 0, moved * 0], axis=1)

    images, labels = jnp.full((3, *SHAPE), 0.5), jnp.zeros(3, jnp.int32)
    keys = jax.random.split(key, 3)
    attacked = jax.block_until_ready(attack("linf", logits_fn)(keys, images, labels))
    jax.effects_barrier()
    assert len(asked) == 2
    assert (distances(attacked, images, "linf") > 0.05).all()
    asked.clear()
    # Class 1 is never told, so nobody is ever right, and nobody attacked.
    jax.block_until_ready(attack("linf", logits_fn)(keys, images, labels + 1))
    jax.effects_barrier()
    assert len(asked) == 1


def released(norm):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("pyautoattack.square")
    attack = module.SquareAttack(
        None, norm=norm, eps=0.1, p_init=0.8, resc_schedule=False, device="cpu"
    )
    return torch, attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_windows_shrink_as_in_the_released_code(norm):
    _, attack = released("Linf")
    shape, queries = (32, 28, 3), 9000
    ours = square_windows.PROPOSALS[norm](eps=0.1).sides(queries + 1, shape)[1:]
    theirs = []
    for query in range(queries):
        side = round((attack.p_selection(query) * 32 * 28) ** 0.5)
        side = max(side, 1 if norm == "linf" else 3)
        theirs.append(min(side + (norm == "l2" and side % 2 == 0), 28))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("norm", "power"), [("L2", 2), ("L1", 1)])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13])
def test_bumps_are_those_of_the_released_code(norm, power, side):
    torch, attack = released(norm)
    torch.manual_seed(0)
    theirs = attack.eta(side).numpy()
    ours = square_windows._bumps(side, power)
    if not np.allclose(theirs, ours, atol=1e-6):
        ours = ours.T
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_windows_reach_what_the_released_ones_reach(key):
    seen = jax.vmap(lambda k: square_windows._window(k, (6, 5, 1), jnp.int32(3))[0])(
        jax.random.split(key, 200)
    )
    reached = np.asarray(seen.any(0))[..., 0]
    assert reached[:-1, :-1].all() and not reached[-1].any() and not reached[:, -1].any()
    assert set(np.asarray(seen.sum((1, 2, 3)))) == {9}
    whole = square_windows._window(key, (6, 5, 1), jnp.int32(5))[0]
    assert bool(whole[:5, :, 0].all())


@pytest.mark.parametrize("shape", [(3, 3, 1), (4, 9, 2), (11, 6, 3)])
def test_l2_moves_fill_the_ball_on_any_shape(key, shape):
    walk = square_windows.L2(eps=0.1)
    image = jnp.full(shape, 0.5)
    points = [walk.start(key, image)]
    for number, side in enumerate((3, 3, 3)):
        points.append(
            walk.propose(jax.random.fold_in(key, number), image, points[-1], jnp.int32(side))
        )
    for point in points:
        assert float(jnp.linalg.norm((point - image).ravel())) == pytest.approx(0.1, rel=1e-4)
    assert len({np.asarray(point).tobytes() for point in points}) == 4


def test_bad_arguments_are_refused_in_one_line(key):
    logits_fn = functools.partial(apply, network(key))
    images, labels, keys = batch(key, logits_fn)
    with pytest.raises(UserError, match="num_queries=0 is no attack"):
        square.square(logits_fn, keys, images, labels, norm="linf", eps=0.1, num_queries=0)
    with pytest.raises(UserError, match="unknown norm 'l0'"):
        square.square(logits_fn, keys, images, labels, norm="l0", eps=0.1)
