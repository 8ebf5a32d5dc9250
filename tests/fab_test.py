"""FAB: exact projections, closed-form distances, the official code's trajectories, its promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.attacks import fab as fab_module
from score_jax.attacks.fab import closest, fab
from score_jax.attacks.fab_projections import NORMS
from score_jax.types import UserError

COUNT, SHAPE, CLASSES = 12, (5, 5, 1), 5
SIZE = int(np.prod(SHAPE))
RADIUS = {"linf": 0.08, "l2": 0.3, "l1": 0.5}


def network(scale=3.0):
    """(weights, images, labels): a random tanh network, its own predictions as the labels."""
    random = np.random.default_rng(0)
    weights = [
        (scale * random.normal(size=(SIZE, 16)) / SIZE**0.5).astype(np.float32),
        random.normal(size=(16, CLASSES)).astype(np.float32),
    ]
    images = random.uniform(size=(COUNT, *SHAPE)).astype(np.float32)
    labels = np.asarray(logits_of(weights)(images)).argmax(1).astype(np.int32)
    return weights, jnp.asarray(images), jnp.asarray(labels)


def logits_of(weights):
    def logits(images):
        flat = images.reshape(len(images), -1) - 0.5
        return jnp.tanh(flat @ jnp.asarray(weights[0])) @ jnp.asarray(weights[1])

    return logits


def keys_of(count, seed=0):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))


def attack(logits, images, labels, *, norm="linf", keys=None, function=fab, **options):
    options = {"eps": RADIUS[norm], "num_steps": 20, "num_targets": CLASSES - 1, **options}
    keys = keys_of(len(images)) if keys is None else keys
    return jax.jit(lambda k, x, y: function(logits, k, x, y, norm=norm, **options))(
        keys, images, labels
    )


def lengths(delta, norm):
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(np.asarray(delta, np.float64).reshape(len(delta), -1), order, axis=1)


def problems(count=200, size=30):
    random = np.random.default_rng(1)
    images = random.uniform(size=(count, size)).astype(np.float32)
    images[::5] = images[::5].round()  # Corners: no room in one of the directions.
    normal = random.normal(size=(count, size)).astype(np.float32)
    normal[::3] *= random.uniform(size=(len(normal[::3]), size)) < 0.5
    # From next to nothing to more than the whole of [0, 1] gives.
    gap = (random.normal(size=count) * 10.0 ** random.uniform(-3, 1.5, count)).astype(np.float32)
    return images, normal, gap


def bisected(norm, image, normal, gap):
    """The shortest move, by 200 halvings of the multiplier; independent of the code under test."""
    w = np.asarray(normal, np.float64) * np.sign(gap)
    room = np.where(w > 0, 1 - image, image).astype(np.float64) * (w != 0)

    def at(multiplier):
        if norm == "linf":
            return np.minimum(multiplier, room)
        return np.minimum(multiplier * np.abs(w), room)

    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(w) @ at(middle) < abs(gap) else (low, middle)
    return np.sign(w) * at(high)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projections_are_those_of_bisection(norm):
    images, normal, gap = problems()
    moves = np.asarray(jax.jit(NORMS[norm].move)(images, normal, gap))
    for move, problem in zip(moves, zip(images, normal, gap, strict=True), strict=True):
        np.testing.assert_allclose(move, bisected(norm, *problem), atol=2e-6)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_projections_reach_the_hyperplane_as_briefly_as_the_official_ones(norm):
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("pyautoattack.fab_projections")
    images, normal, gap = problems()
    moves = np.asarray(jax.jit(NORMS[norm].move)(images, normal, gap))
    assert (images + moves >= -1e-6).all() and (images + moves <= 1 + 1e-6).all()
    reached = np.sum(normal * moves, axis=1)
    room = np.where(normal * gap[:, None] > 0, 1 - images, images)
    most = np.sum(np.abs(normal) * room, axis=1)
    expected = np.sign(gap) * np.minimum(np.abs(gap), most)
    np.testing.assert_allclose(reached, expected, atol=2e-5)
    offset = gap + np.sum(normal * images, axis=1)
    theirs = getattr(official, f"projection_{norm}")(
        *(torch.tensor(array) for array in (images, normal, offset))
    ).numpy()
    # The official L1 code answers an unreachable hyperplane with the corner too.
    np.testing.assert_allclose(lengths(moves, norm), lengths(theirs, norm), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_nothing_to_gain_or_no_direction_is_no_move(norm):
    images = jnp.asarray([[0.2, 0.9], [0.2, 0.9], [0.0, 1.0]])
    normal = jnp.asarray([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]])
    moves = NORMS[norm].move(images, normal, jnp.asarray([0.0, 1.0, 1.0]))
    np.testing.assert_array_equal(moves, 0)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_a_linear_boundary_is_found_where_it_is(norm, dual):
    random = np.random.default_rng(2)
    kernel = random.normal(size=(SIZE, 3)).astype(np.float32)
    # In the middle of [0, 1], so that the box never helps the defender.
    images = jnp.asarray(0.5 + 0.02 * random.normal(size=(COUNT, *SHAPE)), jnp.float32)

    def logits(x):
        return (x.reshape(len(x), -1) - 0.5) @ jnp.asarray(kernel)

    clean = np.asarray(logits(images), np.float64)
    labels = clean.argmax(1)
    rows = np.arange(COUNT)
    gaps = clean[rows, labels][:, None] - clean
    sizes = [
        [np.linalg.norm(kernel[:, j] - kernel[:, y], dual) or np.inf for j in range(3)]
        for y in labels
    ]
    distances = np.where(np.arange(3) == labels[:, None], np.inf, gaps / np.array(sizes)).min(1)
    found, told = attack(
        logits, images, jnp.asarray(labels, jnp.int32), norm=norm, function=closest, num_targets=2
    )
    np.testing.assert_allclose(told, distances, rtol=0.01)
    np.testing.assert_allclose(lengths(found - images, norm), told, rtol=1e-3)
    assert (np.asarray(logits(found)).argmax(1) != labels).all()
    median = float(np.median(distances))
    kept = attack(logits, images, jnp.asarray(labels, jnp.int32), norm=norm, eps=median)
    fooled = np.asarray(logits(kept)).argmax(1) != labels
    clear = np.abs(distances - median) > 0.01 * median
    np.testing.assert_array_equal(fooled[clear], (distances < median)[clear])


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_it_finds_what_the_official_code_finds(norm, targeted, monkeypatch):
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("pyautoattack.fab_pt")
    weights, images, labels = network()
    monkeypatch.setattr(fab_module, "SEARCH_STEPS", 0)  # The official code left it out.
    ours, distances = attack(
        logits_of(weights), images, labels, norm=norm, function=closest,
        num_targets=1 if targeted else None,
    )  # fmt: skip
    first, second = (torch.tensor(part) for part in weights)

    def model(x):
        return torch.tanh((x.flatten(1) - 0.5) @ first) @ second

    theirs = official.FABAttack_PT(
        model, norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[norm], n_iter=20, eps=RADIUS[norm]
    )
    theirs.target_class = 2
    inputs = torch.tensor(np.asarray(images)[..., 0][:, None])
    found = theirs.attack_single_run(
        inputs, torch.tensor(np.asarray(labels)), is_targeted=targeted
    ).numpy()[:, 0, ..., None]
    official_distances = lengths(found - images, norm)
    official_distances[official_distances == 0] = np.inf
    np.testing.assert_allclose(distances, official_distances, rtol=2e-3)
    reached = np.isfinite(official_distances)
    assert reached.sum() > COUNT // 2
    np.testing.assert_allclose(ours[reached], found[reached], atol=2e-3)


@pytest.mark.parametrize(("norm", "targets"), [("linf", 2), ("l2", None), ("l1", 2)])
def test_what_it_returns_is_inside_and_no_better_than_clean(norm, targets):
    weights, images, labels = network()
    labels = labels.at[0].set((labels[0] + 1) % CLASSES)  # Wrong from the start.
    logits = logits_of(weights)
    found = attack(logits, images, labels, norm=norm, num_targets=targets, num_restarts=2)
    assert 0 <= float(found.min()) and float(found.max()) <= 1
    distances = lengths(found - images, norm)
    assert distances.max() <= RADIUS[norm] + 1e-6
    fooled = np.asarray(logits(found)).argmax(1) != labels
    assert 1 < fooled.sum() < COUNT
    np.testing.assert_array_equal(distances[~fooled], 0)
    np.testing.assert_array_equal(found[0], images[0])


def test_an_image_does_not_see_the_others():
    weights, images, labels = network()
    logits, keys = logits_of(weights), keys_of(COUNT)
    together = attack(logits, images, labels, keys=keys, num_restarts=2)
    part = np.array([7, 3, 1])
    alone = attack(logits, images[part], labels[part], keys=keys[part], num_restarts=2)
    np.testing.assert_allclose(together[part], alone, atol=1e-6)


def test_restarts_draw_from_the_keys_and_never_lose_what_was_found(monkeypatch):
    monkeypatch.setattr(fab_module, "SEARCH_STEPS", 0)
    weights, images, labels = network(scale=12)
    options = dict(function=closest, num_targets=1, num_steps=4)
    logits = logits_of(weights)
    once, again, other = (
        np.asarray(attack(logits, images, labels, keys=keys, num_restarts=n, **options)[1])
        for n, keys in ((1, keys_of(COUNT)), (3, keys_of(COUNT)), (3, keys_of(COUNT, seed=1)))
    )
    assert (again <= once).all() and (again < once * 0.999).any()
    assert (again != other).any()


def test_more_targets_reach_classes_that_are_less_probable():
    weights, images, labels = network()
    options = dict(function=closest)
    one, all_ = (
        np.asarray(attack(logits_of(weights), images, labels, num_targets=n, **options)[1])
        for n in (1, CLASSES + 3)
    )
    assert (all_ <= one * 1.01).all() and (all_ < one * 0.9).any()


def test_the_final_search_only_comes_nearer():
    weights, images, labels = network()
    logits = logits_of(weights)
    far = images + 1.0 * jnp.sign(jax.grad(lambda x: -logits(x).max(1).sum())(images))
    wrong = np.asarray(logits(far)).argmax(1) != labels
    assert wrong.sum() > 3
    refined = fab_module._refine(logits, images, labels, far)
    before, after = (lengths(x - images, "l2")[wrong] for x in (far, refined))
    assert (after < 0.9 * before).all()
    assert (np.asarray(logits(refined)).argmax(1)[wrong] != labels[wrong]).all()


def test_without_a_gradient_the_clean_image_comes_back():
    _, images, labels = network()

    def constant(x):
        return jax.nn.one_hot(labels, CLASSES) + 0 * x.sum((1, 2, 3))[:, None]

    found = attack(constant, images, labels, num_targets=2, num_restarts=2)
    np.testing.assert_array_equal(found, images)
    _, distances = attack(constant, images, labels, function=closest, num_targets=None)
    assert (np.asarray(distances) == np.inf).all()


def test_a_gradient_that_is_no_number_ends_and_harms_no_neighbour():
    weights, images, labels = network()
    logits = logits_of(weights)
    sound = attack(logits, images, labels)

    def broken(x):
        return logits(x) + jnp.where(jnp.arange(len(x)) == 2, jnp.nan, 0.0)[:, None]

    found = attack(broken, images, labels)
    others = np.arange(COUNT) != 2
    np.testing.assert_allclose(found[others], sound[others], atol=1e-6)
    assert np.isfinite(found).all()


def test_an_unknown_norm_is_refused():
    weights, images, labels = network()
    with pytest.raises(UserError, match="unknown norm 'l3'; known: l1, l2, linf"):
        fab(logits_of(weights), keys_of(COUNT), images, labels, norm="l3", eps=0.1)
