"""The network under examination: what it answers, its gradients, and attacks on it.

Each program is compiled once: radius, steps, loss and start are arguments. An attack that two
checks ask for runs once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import metrics, threat_models
from score_jax.attacks import PGD
from score_jax.divergences import label_cross_entropy, margin
from score_jax.types import Array, Key, UserError, lookup

LogitsFn = Callable[[Array], Array]


def _normalised_cross_entropy(logits: Array, labels: Array, targets: Array) -> Array:
    """Cross-entropy of logits whose largest and smallest lie 10 apart: blind to their scale."""
    del targets
    spread = jnp.max(logits, axis=-1, keepdims=True) - jnp.min(logits, axis=-1, keepdims=True)
    spread = jax.lax.stop_gradient(jnp.where(spread > 0, spread, 1))
    return label_cross_entropy(10 * logits / spread, labels)


def _towards(logits: Array, labels: Array, targets: Array) -> Array:
    def of(classes):
        return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]

    return of(targets) - of(labels)


# (logits f[b, k], labels i[b], targets i[b]) -> f[b], what an attack ascends.
LOSSES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "cross_entropy": lambda logits, labels, targets: label_cross_entropy(logits, labels),
    "margin": lambda logits, labels, targets: -margin(logits, labels),
    "targeted": _towards,
    "normalised_cross_entropy": _normalised_cross_entropy,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """What one PGD left.

    Attributes:
      right: bool[n], still right at the last iterate (and on the clean image).
      withstood: bool[n], right at every iterate.
      loss: f32[n], cross-entropy at the last iterate.
      images: f32[n, h, w, c], the last iterates; None where they were not asked for.
    """

    right: np.ndarray
    withstood: np.ndarray
    loss: np.ndarray
    images: np.ndarray | None

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


class Subject:
    """A function from images to logits, with the images it is examined on.

    Attributes:
      images: f32[n, h, w, c] in [0, 1]; labels: i32[n].
      clean: f32[n, k], the logits of the images.
      is_right: bool[n], on the clean images.
      standing: bool[n], right on every iterate of every gradient attack within eps so far.
      fell_otherwise: bool[n], to attacks that need no gradient of this network.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        norm: str,
        eps: float,
        num_classes: int,
        seed: int,
        batch_size: int,
    ) -> None:
        """Raises: UserError: a function that gives no logits f32[b, num_classes] under jit."""
        self.direct, self.labels = logits_fn, np.asarray(labels, np.int32)
        self.images = np.asarray(images, np.float32)
        self.norm, self.eps, self.num_classes = norm, float(eps), num_classes
        self._threat = lookup(threat_models.THREAT_MODELS, "norm", norm)
        self.seed, self._key = seed, jax.random.key(seed)
        self.rng = np.random.default_rng(seed)
        self.batch_size = min(batch_size, len(self.labels))
        self._constants, self._run = self._trace(logits_fn)
        self._programs = {
            "logits": jax.jit(self._run),
            "gradients": jax.jit(self._gradients),
            "walk": jax.jit(self._walk),
            "noise": jax.jit(self._noise),
        }
        self._walks: dict[tuple, Walk] = {}
        self.clean = self.logits(self.images)
        self.is_right = self.clean.argmax(-1) == self.labels
        self.standing = self.is_right.copy()
        self.fell_otherwise = np.zeros(len(self.labels), bool)
        # i32[n, k-1]: the wrong classes, the most likely first.
        order = np.argsort(-self.clean, axis=-1, kind="stable")
        self._wrong = order[order != self.labels[:, None]].reshape(len(order), -1).astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def left(self) -> np.ndarray:
        """bool[n], right under every attack so far."""
        return self.standing & ~self.fell_otherwise

    def logits(self, images: np.ndarray) -> np.ndarray:
        """f32[n, k] of images f32[n, h, w, c], by the compiled program."""
        return self._in_batches("logits", images)[0]

    def accuracy(self, images: np.ndarray) -> float:
        """On other forms of the same images."""
        return float((self.logits(images).argmax(-1) == self.labels).mean())

    def gradients(self, images: np.ndarray, readout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Input gradients f32[n, h, w, c] of the cross-entropy, and of sum(readout * logits)."""
        return tuple(self._in_batches("gradients", images, self.labels, readout))

    def random_points(self, restart: int = 0) -> np.ndarray:
        """A random start for every image, f32[n, h, w, c]: a point of its ball."""
        noise = self._draw(restart, self.eps)
        return np.asarray(self._threat(eps=self.eps).random_start(noise, self.images))

    def walk(
        self,
        loss: str = "cross_entropy",
        num_steps: int = 20,
        *,
        eps: float | None = None,
        random_start: bool = True,
        restart: int = 0,
        rank: int = 0,
        keep_images: bool = False,
    ) -> Walk:
        """PGD with steps of 2.5 eps / num_steps, or one of eps.

        Args:
          eps: None: the subject's own.
          restart: which random start.
          rank: for 'targeted', the wrong class to go to, by its likelihood on the clean image.
        """
        eps = self.eps if eps is None else eps
        asked = (loss, num_steps, eps, random_start, restart, rank)
        known = self._walks.get(asked)
        if known is None or (keep_images and known.images is None):
            known = self._walks[asked] = self._new_walk(*asked, keep_images)
            if eps <= self.eps:
                self.standing &= known.withstood
        return known

    def attack_standing(self, attack: Callable[[LogitsFn, Key, Array, Array], Array]) -> np.ndarray:
        """Attacks the images that still stand; bool[n], which of them fall to it.

        Args:
          attack: (logits_fn, keys [b], images f32[b, h, w, c], labels i32[b]) -> images. What it
            finds counts only within eps and [0, 1], by the network's own answer.
        """

        @jax.jit
        def program(constants, keys, images, labels):
            found = attack(lambda x: self._run(constants, x), keys, images, labels)
            return jnp.clip(self._threat(eps=self.eps).project(found, images), 0.0, 1.0)

        left, fell = np.flatnonzero(self.standing), np.zeros(len(self), bool)
        for start in range(0, len(left), self.batch_size):
            part = left[start : start + self.batch_size]
            rows = np.resize(part, self.batch_size)
            keys = jax.vmap(lambda row: jax.random.fold_in(self._key, row))(rows)
            found = program(self._constants, keys, self.images[rows], self.labels[rows])
            answers = np.asarray(self._programs["logits"](self._constants, found)).argmax(-1)
            fell[rows] |= answers != self.labels[rows]
        return fell

    def _new_walk(self, loss, num_steps, eps, random_start, restart, rank, keep_images):
        if random_start:
            start = self._draw(restart, eps)
        else:  # What the threat model's start makes the clean image of.
            start = self.images if self.norm == "l2" else np.zeros_like(self.images)
        step_size = eps if num_steps == 1 else 2.5 * eps / num_steps
        scalars = (np.float32(eps), np.float32(step_size), np.int32(num_steps))
        which = np.int32(list(LOSSES).index(loss))
        targets = self._wrong[:, min(rank, self._wrong.shape[1] - 1)]
        right, withstood, losses, images = self._in_batches(
            "walk", self.images, self.labels, targets, start, scalars=(*scalars, which),
            keep=(True, True, True, keep_images),
        )  # fmt: skip
        return Walk(
            right=right & self.is_right, withstood=withstood & self.is_right, loss=losses,
            images=images,
        )  # fmt: skip

    def _draw(self, restart, eps):
        """The draw that a random start is made of; an image's does not depend on the others."""
        key = jax.random.fold_in(self._key, restart)
        return np.asarray(self._programs["noise"](key, np.float32(eps)))

    def _noise(self, key, eps):
        def one(index):
            image_key = jax.random.fold_in(key, index)
            return self._threat(eps=eps).noise(image_key, self.images.shape[1:], jnp.float32)

        return jax.vmap(one)(jnp.arange(len(self)))

    def _trace(self, logits_fn):
        """(weights, function of weights and images): weights as constants would be compiled into
        every program."""
        shape = (self.batch_size, *self.images.shape[1:])
        try:
            closed = jax.make_jaxpr(logits_fn)(jax.ShapeDtypeStruct(shape, jnp.float32))
        except jax.errors.JAXTypeError as error:
            raise UserError(
                f"the logits function cannot be traced by jax.jit ({type(error).__name__}); write "
                "it with jax.numpy."
            ) from None
        expected = (self.batch_size, self.num_classes)
        found = [aval.shape for aval in closed.out_avals]
        if found != [expected]:
            raise UserError(
                f"the logits function gives {', '.join(map(str, found))} for {self.batch_size} "
                f"images; it must give logits of shape {expected}."
            )

        def run(constants, images):
            return jax.core.eval_jaxpr(closed.jaxpr, constants, images)[0].astype(jnp.float32)

        return closed.consts, run

    def _gradients(self, constants, images, labels, readout):
        def losses(images):
            logits = self._run(constants, images)
            return label_cross_entropy(logits, labels).sum(), (logits * readout).sum()

        _, pull_back = jax.vjp(losses, images)
        one, zero = jnp.float32(1), jnp.float32(0)
        return pull_back((one, zero))[0], pull_back((zero, one))[0]

    def _walk(self, constants, images, labels, targets, start, eps, step_size, num_steps, which):
        def loss_of(logits):
            branches = [lambda z, loss=loss: loss(z, labels, targets) for loss in LOSSES.values()]
            return jax.lax.switch(which, branches, logits)

        def watched(adversarial, index, fell):
            del index
            logits = self._run(constants, adversarial)
            right = metrics.correct(logits, labels)
            return loss_of(logits), (right, fell | ~right)

        attack = PGD(threat=self._threat(eps=eps), step_size=step_size, num_steps=num_steps)
        attacked = attack.watch(
            watched, self._key, images, start, carry=jnp.zeros(labels.shape, bool)
        )
        logits = self._run(constants, attacked.images)
        right = metrics.correct(logits, labels)
        return right, right & ~attacked.carry, label_cross_entropy(logits, labels), attacked.images

    def _in_batches(self, program, *arrays, scalars=(), keep=None):
        """The program's results for all images, on the host; None for those not kept."""
        parts = []
        for start, rows in self._batches(len(arrays[0])):
            results = self._programs[program](self._constants, *(a[rows] for a in arrays), *scalars)
            results = results if isinstance(results, tuple) else (results,)
            kept = keep or (True,) * len(results)
            count = min(self.batch_size, len(arrays[0]) - start)
            parts.append(
                [np.asarray(r)[:count] if k else None for r, k in zip(results, kept, strict=True)]
            )
        return [
            None if columns[0] is None else np.concatenate(columns)
            for columns in zip(*parts, strict=True)
        ]

    def _batches(self, count) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows): of one size, so that each program is compiled once."""
        for start in range(0, count, self.batch_size):
            yield start, (start + np.arange(self.batch_size)) % count
