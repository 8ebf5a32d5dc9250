"""APGD: exact on a linear classifier, and step for step the released code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.attacks import apgd, apgd_walks, fab
from score_jax.types import UserError

EPS = {"linf": 0.04, "l2": 0.2, "l1": 0.6}
SHAPE = (4, 5, 2)


def network(key, shape=SHAPE, num_classes=5, width=16, scale=3.0, dtype=jnp.float32):
    """A two-layer network's weights; `apply` them."""
    first, second = jax.random.split(key)
    size = int(np.prod(shape))
    return {
        "first": jax.random.normal(first, (size, width), dtype) * scale / size**0.5,
        "second": jax.random.normal(second, (width, num_classes), dtype) / width**0.5,
    }


def apply(weights, images):
    hidden = jax.nn.relu((images.reshape(len(images), -1) - 0.5) @ weights["first"])
    return hidden @ weights["second"]


def batch(key, logits_fn, size=12, shape=SHAPE, dtype=jnp.float32):
    """Images, some of them with values at 0 and 1, their own labels except for two, keys."""
    images = jnp.clip(1.2 * jax.random.uniform(key, (size, *shape), dtype) - 0.1, 0, 1)
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)
    labels = labels.at[jnp.array([0, 5])].set((labels[jnp.array([0, 5])] + 1) % 5)
    return images, labels, jax.random.split(jax.random.fold_in(key, 1), size)


def distances(adversarial, images, norm):
    delta = np.asarray(adversarial - images, np.float64).reshape(len(images), -1)
    return np.linalg.norm(delta, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


ATTACKS = {
    "ce": functools.partial(apgd.apgd, loss="ce", num_restarts=2),
    "dlr": functools.partial(apgd.apgd, loss="dlr"),
    "targeted": apgd.apgd_targeted,
}


@pytest.mark.parametrize(
    ("attack", "norm"),
    [("ce", "linf"), ("dlr", "l2"), ("targeted", "linf"), ("ce", "l1")],
)
def test_every_result_is_an_adversarial_image_of_the_ball_or_the_clean_one(key, attack, norm):
    logits_fn = functools.partial(apply, network(key))
    images, labels, keys = batch(key, logits_fn)
    attacked = jax.jit(
        functools.partial(ATTACKS[attack], logits_fn, norm=norm, eps=EPS[norm], num_steps=20)
    )(keys, images, labels)
    assert attacked.dtype == images.dtype
    assert float(attacked.min()) >= 0 and float(attacked.max()) <= 1
    assert (distances(attacked, images, norm) <= EPS[norm] * (1 + 1e-5)).all()
    clean = np.asarray(logits_fn(images).argmax(-1) == labels)
    right = np.asarray(logits_fn(attacked).argmax(-1) == labels)
    changed = np.asarray((attacked != images).any((1, 2, 3)))
    # What was wrong is left alone; what was right is wrong now exactly where it was changed.
    assert not changed[~clean].any()
    assert (right == (clean & ~changed)).all()
    assert 0 < changed.sum() < len(images) - 2, "the case tests both outcomes"


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_an_image_does_not_feel_its_batch(key, norm):
    logits_fn = functools.partial(apply, network(key))
    images, labels, keys = batch(key, logits_fn)
    attack = jax.jit(
        functools.partial(apgd.apgd, logits_fn, norm=norm, eps=EPS[norm], num_steps=20)
    )
    together = attack(keys, images, labels)
    some = jnp.array([7, 2, 9])
    np.testing.assert_allclose(
        attack(keys[some], images[some], labels[some]), together[some], rtol=0, atol=2e-6
    )


def linear_case(key, norm, num_classes=5):
    """A linear classifier and each image's exact distance to the wrong side, [0, 1] not felt."""
    weights = jax.random.normal(key, (40, num_classes)) / 40
    bias = jax.random.normal(jax.random.fold_in(key, 1), (num_classes,)) / 100
    images = 0.5 + 0.1 * jax.random.normal(jax.random.fold_in(key, 2), (64, *SHAPE))
    images = jnp.clip(images, 0.3, 0.7)

    def logits_fn(x):
        return (x.reshape(len(x), -1) - 0.5) @ weights + bias[None]

    logits = np.asarray(logits_fn(images), np.float64)
    labels = logits.argmax(-1)
    columns = np.asarray(weights, np.float64)
    normals = columns[:, labels].T[:, :, None] - columns[None]
    dual = np.linalg.norm(normals, ord={"linf": 1, "l2": 2, "l1": np.inf}[norm], axis=1)
    gaps = logits[np.arange(64), labels][:, None] - logits
    with np.errstate(invalid="ignore"):
        exact = np.where(gaps > 0, gaps / dual, np.inf).min(1)
    return logits_fn, images, jnp.asarray(labels, jnp.int32), exact


@pytest.mark.parametrize(
    ("attack", "num_classes", "norm"),
    [("ce", 2, "linf"), ("ce", 2, "l1"), ("targeted", 5, "linf"), ("targeted", 5, "l2")],
)
def test_a_linear_classifier_has_exactly_its_robust_accuracy(key, norm, attack, num_classes):
    # Cross-entropy of more than two classes pulls to several at once.
    logits_fn, images, labels, exact = linear_case(key, norm, num_classes)
    eps = float(np.quantile(exact, 0.5))
    assert eps < (0.29 if norm != "l1" else 40 * 0.29)
    keys = jax.random.split(key, len(images))
    attack = jax.jit(functools.partial(ATTACKS[attack], logits_fn, norm=norm, eps=eps))
    attacked = attack(keys, images, labels)
    right = np.asarray(logits_fn(attacked).argmax(-1) == labels)
    # The nearest images may stand by rounding; L1 comes near the corner step by step.
    clear = np.abs(exact / eps - 1) > (0.02 if norm == "l1" else 1e-3)
    assert clear.sum() > 50
    assert (right == (exact > eps))[clear].all()


@pytest.mark.parametrize("norm", EPS)
def test_a_network_without_gradient_gives_no_nan(key, norm):
    def logits_fn(images):
        flat = jnp.round(images.reshape(len(images), -1))
        return jnp.stack([jnp.ones(len(images)), flat.sum(1) * 0, flat.sum(1) * 0], axis=1)

    images = jax.random.uniform(key, (4, *SHAPE))
    keys, labels = jax.random.split(key, 4), jnp.zeros(4, jnp.int32)
    attack = functools.partial(
        apgd.apgd, logits_fn, norm=norm, eps=EPS[norm], loss="dlr", num_steps=20
    )
    assert (jax.jit(attack)(keys, images, labels) == images).all()
    walk = apgd_walks.WALKS[norm](eps=EPS[norm])
    points = walk.start(keys, images)
    iterate = apgd_walks.Iterate(
        images=points, gradient=jnp.zeros_like(points), loss=jnp.zeros(4), best=points,
        best_gradient=points, best_loss=jnp.zeros(4), step_size=jnp.ones(4),
    )  # fmt: skip
    moved = walk.move(iterate, images, images, walk.memory(points, images), jnp.bool_(False))
    assert bool(jnp.isfinite(moved).all())


@pytest.mark.parametrize("attack", ["ce", "fab"])
def test_a_gradient_that_is_no_number_fools_nobody(key, attack):
    """The length of a vector of zeros has no gradient: one of dead units, here."""
    inner = functools.partial(apply, network(key))

    def logits_fn(images):
        flat = images.reshape(len(images), -1)
        dead = jnp.where(flat[:, :1] < 0.55, flat - jax.lax.stop_gradient(flat), flat)
        length = jnp.sqrt(jnp.sum(jnp.square(dead), axis=1, keepdims=True))
        # Never class 0, which the largest of no numbers would be.
        return (
            (inner(images) + (dead / jnp.maximum(length, 1e-3)).sum(1, keepdims=True))
            .at[:, 0]
            .add(-9.0)
        )

    images, labels, keys = batch(key, inner)
    images = images.at[:6].multiply(0.5)
    labels = logits_fn(images).argmax(-1).astype(jnp.int32)
    gradient = jax.grad(lambda x: logits_fn(x)[:, 0].sum())(images)
    broken = ~np.isfinite(gradient).all((1, 2, 3))
    assert 0 < broken.sum() < len(images)
    kind = ATTACKS["ce"] if attack == "ce" else fab.fab
    attacked = jax.jit(functools.partial(kind, logits_fn, norm="l2", eps=0.2, num_steps=20))(
        keys, images, labels
    )
    assert np.isfinite(attacked).all()
    changed = np.asarray((attacked != images).any((1, 2, 3)))
    wrong = np.asarray(logits_fn(attacked).argmax(-1) != labels)
    np.testing.assert_array_equal(changed, wrong)
    answers = jnp.array([[jnp.nan, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert apgd.is_wrong(answers, jnp.ones(3, jnp.int32)).tolist() == [False, False, True]


def test_the_passes_are_those_that_the_attack_needs(key):
    weights, passes = network(key), {"forward": 0, "gradient": 0}

    def count(kind):
        passes[kind] += 1

    @jax.custom_vjp
    def counted(images):
        jax.debug.callback(lambda: count("forward"))
        return apply(weights, images)

    def forward(images):
        jax.debug.callback(lambda: count("forward"))
        return jax.vjp(lambda x: apply(weights, x), images)

    def backward(pull_back, cotangent):
        jax.debug.callback(lambda: count("gradient"))
        return pull_back(cotangent)

    counted.defvjp(forward, backward)
    images, labels, keys = batch(key, functools.partial(apply, weights))
    # A small radius: every restart and every target has something left to attack.
    for attack, runs in (("ce", 2), ("targeted", 4)):
        passes.update(forward=0, gradient=0)
        jax.block_until_ready(
            jax.jit(
                functools.partial(ATTACKS[attack], counted, norm="linf", eps=1e-3, num_steps=7)
            )(keys, images, labels)
        )
        jax.effects_barrier()
        assert passes == {"forward": 1 + runs * 8, "gradient": runs * 7}


def torch_twin(weights, norm, eps, num_steps, loss, targets=None):
    """The released APGD on the same network, in float64."""
    torch = pytest.importorskip("torch")
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    rows = np.arange(np.prod(SHAPE)).reshape(SHAPE).transpose(2, 0, 1).ravel()
    first = torch.from_numpy(np.array(weights["first"])[rows])
    second = torch.from_numpy(np.array(weights["second"]))

    def model(x):
        return torch.relu((x.flatten(1) - 0.5) @ first) @ second

    kind = autopgd.APGDAttack if targets is None else autopgd.APGDAttack_targeted
    name = {"linf": "Linf", "l2": "L2"}[norm]
    given = {"loss": loss} if targets is None else {}
    attack = kind(model, n_iter=num_steps, norm=name, eps=eps, device="cpu", **given)
    attack.y_target = None if targets is None else torch.from_numpy(np.array(targets)).long()
    return attack


@pytest.mark.parametrize(
    ("loss", "norm", "num_steps"),
    [("ce", "l2", 30), ("dlr", "linf", 100), ("targeted", "linf", 100), ("targeted", "l2", 30)],
)
def test_it_walks_as_the_released_code(key, monkeypatch, loss, norm, num_steps):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "zeros", functools.partial(torch.zeros, dtype=torch.float64))
    monkeypatch.setattr(torch, "ones", functools.partial(torch.ones, dtype=torch.float64))
    with jax.enable_x64(True):
        weights = network(key, scale=6.0, dtype=jnp.float64)
        logits_fn = functools.partial(apply, weights)
        images, labels, keys = batch(key, logits_fn, size=16, dtype=jnp.float64)
        eps = EPS[norm]
        start = apgd_walks.WALKS[norm](eps=eps).start(keys, images)
        targets = apgd.likely_targets(logits_fn(images), 2)[:, 1]
        loss_fn = {
            "ce": lambda z: apgd.label_cross_entropy(z, labels),
            "dlr": lambda z: apgd.dlr(z, labels),
            "targeted": lambda z: apgd.targeted_dlr(z, labels, targets),
        }[loss]
        walk = apgd_walks.WALKS[norm](eps=eps)
        ascend = jax.jit(
            lambda start: apgd._ascend(logits_fn, start, images, labels, walk, loss_fn, num_steps)
        )
        best, found, fooled = ascend(start)
        best_loss = loss_fn(logits_fn(best))
    attack = torch_twin(
        weights, norm, eps, num_steps, loss, targets if loss == "targeted" else None
    )

    def to_torch(x):
        return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))

    def back(x):
        return x.detach().permute(0, 2, 3, 1).numpy()

    x = to_torch(images)
    attack.init_hyperparam(x)
    their_best, their_acc, their_loss, their_adv = attack.attack_single_run(
        x, torch.from_numpy(np.array(labels)).long(), x_init=to_torch(start)
    )
    fooled = np.asarray(fooled)
    assert 0 < fooled.sum() < 16
    np.testing.assert_array_equal(fooled, ~their_acc.bool().numpy())
    np.testing.assert_allclose(best_loss, their_loss.numpy(), rtol=1e-9, atol=1e-9)
    # Where the label is third or lower, DLR is flat at 1 and rounding chooses the way.
    steep = np.asarray(best_loss) < (1 - 1e-6 if loss == "dlr" else np.inf)
    assert (fooled & steep).any()
    np.testing.assert_allclose(best[steep], back(their_best)[steep], atol=1e-9)
    clear = fooled & steep
    np.testing.assert_allclose(np.asarray(found)[clear], back(their_adv)[clear], atol=1e-9)


def test_checkpoints_are_the_paper_s():
    # Croce and Hein 2020, section 3: 0, .22, .41, .57, .7, .8, .87, .93, .99 of 100 steps.
    steps = apgd_walks.Linf(eps=0.1).checkpoints(100)
    assert steps == [22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd_walks.Linf(eps=0.1).checkpoints(1) == [1]


def test_the_l1_projection_is_the_nearest_point(key):
    images = jax.random.uniform(key, (6, 3, 3, 1))
    delta = jax.random.normal(jax.random.fold_in(key, 1), images.shape) * jnp.array(
        [0.01, 0.3, 1.0, 3.0, 10.0, 0.0]
    ).reshape(6, 1, 1, 1)
    projected = apgd_walks.project_l1(delta, images, 1.5)
    assert (distances(projected, 0 * projected, "l1") <= 1.5 + 1e-6).all()
    moved = images + projected
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    np.testing.assert_array_equal(projected[0], jnp.clip(delta[0], -images[0], 1 - images[0]))
    # No feasible point is nearer: in every feasible direction the distance grows.
    others = jax.random.normal(jax.random.fold_in(key, 2), (100, *images.shape))
    others = jax.jit(jax.vmap(lambda y: apgd_walks.project_l1(y, images, 1.5)))(others)
    inner = jnp.sum((others - projected[None]) * (delta - projected)[None], axis=(2, 3, 4))
    assert float(inner.max()) < 1e-4


def test_bad_arguments_are_refused_in_one_line(key):
    logits_fn = functools.partial(apply, network(key, num_classes=3))
    images = jax.random.uniform(key, (2, *SHAPE))
    arguments = (logits_fn, jax.random.split(key, 2), images, jnp.zeros(2, jnp.int32))
    known = dict(norm="linf", eps=0.1)
    with pytest.raises(UserError, match="needs 4 classes or more, there are 3"):
        apgd.apgd_targeted(*arguments, **known)
    with pytest.raises(UserError, match="unknown APGD loss 'cw'"):
        apgd.apgd(*arguments, **known, loss="cw")
    with pytest.raises(UserError, match="unknown norm 'l3'"):
        apgd.apgd(*arguments, norm="l3", eps=0.1)
    with pytest.raises(UserError, match="num_steps=0"):
        apgd.apgd(*arguments, **known, num_steps=0)
