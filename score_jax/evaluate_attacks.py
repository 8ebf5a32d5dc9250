"""The attacks of `score-jax evaluate`, by name: what each is made of and how it is usually run."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from score_jax.attacks import PGD, multi_targeted, pgd
from score_jax.attacks.apgd import apgd, apgd_targeted, is_wrong
from score_jax.attacks.fab import fab
from score_jax.attacks.multi_targeted import MultiTargeted, draw_noise
from score_jax.attacks.square import square
from score_jax.divergences import ATTACK_LOSSES, label_cross_entropy
from score_jax.types import Array, Key, UserError

Logits = Callable[[Array], Array]
# (logits, keys [b], images f32[b, h, w, c], labels i32[b], eps f32[]) -> f32[b, h, w, c].
Attack = Callable[[Logits, Key, Array, Array, Array], Array]
# PGD's step at a radius and how that is written; None: the attack finds its own.
StepSize = Callable[[float, int, Mapping[str, Any]], tuple[float | None, str]]


def _usual_step(eps: float, steps: int, selection: Mapping[str, Any]) -> tuple[float, str]:
    """The selection attack's, where that is the same PGD."""
    is_pgd = selection.get("name", "pgd") == "pgd" and selection.get("num_steps") == steps
    if is_pgd and abs(selection.get("eps", -1) - eps) < 1e-9:
        return selection["step_size"], "config.validation.attack.step_size"
    return 2.5 * eps / steps, "2.5 * eps / num_steps"


def _step_of_yang(eps: float, steps: int, selection: Mapping[str, Any]) -> tuple[float, str]:
    del steps, selection
    return eps / multi_targeted.STEPS_PER_EPS, "eps / 10 (Yang et al. 2020)"


def _step_of_gairat(eps: float, steps: int, selection: Mapping[str, Any]) -> tuple[float, str]:
    del steps, selection
    return eps * 0.01 / 0.031, "eps * 0.01 / 0.031 (Zhang et al. 2021)"


def _its_own(eps: float, steps: int, selection: Mapping[str, Any]) -> tuple[None, str]:
    del eps, steps, selection
    return None, "the attack's own"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What was asked for; `walk` is the PGD of it, where there is one."""

    norm: str
    steps: int
    walk: PGD | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """An attack of the job: an image counts as robust where it withstands each part.

    Attributes:
      parts: name -> its making. The first makes the example images, the last the curve over radii;
        none: AutoAttack, which is no single program.
      steps: so many where none are asked for.
      restarts: likewise; 0: it has none.
      step_size: of PGD.
      has_curve: whether it is quick enough to be run over a range of radii.
    """

    parts: Mapping[str, Callable[[Setting], Attack]]
    steps: int
    restarts: int = 1
    step_size: StepSize = _its_own
    has_curve: bool = True

    def setting(
        self,
        norm: str,
        eps: float,
        steps: int,
        selection: Mapping[str, Any],
        asked: float | None = None,
    ) -> tuple[Setting, str]:
        """What the parts are made of, and where the step size is from.

        Args:
          selection: config.validation.attack of the run; {} where it is not known.
          asked: the step size; None: the attack's usual one.

        Raises:
          UserError: a step size that is none, or of an attack that finds its own.
        """
        # At the same radius of another norm the selection's attack is another one.
        comparable = selection if selection.get("norm", norm) == norm else {}
        step_size, rule = self.step_size(eps, steps, comparable)
        if asked is not None:
            if step_size is None:
                raise UserError(f"--step_size={asked:g}: this attack finds its own; leave it out")
            if not 0 < asked < float("inf"):
                raise UserError(f"--step_size={asked:g} is no step; give one such as 2/255")
            step_size, rule = asked, "as asked"
        walk = None
        if step_size is not None:
            walk = pgd.create(norm=norm, eps=eps, step_size=step_size, num_steps=steps)
        return Setting(norm=norm, steps=steps, walk=walk), rule


def _ascending(name: str) -> Callable[[Setting], Attack]:
    """PGD on one of `ATTACK_LOSSES`."""
    loss = ATTACK_LOSSES[name]

    def make(setting):
        def attack(logits, keys, images, labels, eps):
            walk = pgd.epsilon_sweep(setting.walk, eps)
            noise = draw_noise(walk.threat, keys, images)
            return walk(lambda x: loss(logits(x), labels), keys[0], images, noise)

        return attack

    return make


def _every_iterate(setting: Setting) -> Attack:
    """PGD on the cross-entropy that keeps the first iterate that is classified wrong (PGD+)."""

    def attack(logits, keys, images, labels, eps):
        def watched(moved, index, carry):
            found, is_found = carry
            answers = logits(moved)
            right = ~is_wrong(answers, labels)
            found = jnp.where((is_found | right)[:, None, None, None], found, moved)
            return label_cross_entropy(answers, labels), (right, (found, is_found | ~right))

        walk = pgd.epsilon_sweep(setting.walk, eps)
        start = (images, jnp.zeros(labels.shape, bool))
        noise = draw_noise(walk.threat, keys, images)
        attacked = walk.watch(watched, keys[0], images, noise, carry=start)
        found, is_found = attacked.carry
        return jnp.where(is_found[:, None, None, None], found, attacked.images)

    return attack


def _towards_every_class(by: str) -> Callable[[Setting], Attack]:
    def make(setting):
        def attack(logits, keys, images, labels, eps):
            walk = pgd.epsilon_sweep(setting.walk, eps)
            return MultiTargeted(attack=walk, by=by)(logits, keys, images, labels)

        return attack

    return make


def _of_autoattack(
    function: Callable[..., Array], steps: str = "num_steps"
) -> Callable[[Setting], Attack]:
    def make(setting):
        def attack(logits, keys, images, labels, eps):
            options = {"norm": setting.norm, steps: setting.steps}
            return function(logits, keys, images, labels, eps=eps, **options)

        return attack

    return make


ATTACKS = {
    "pgd": Kind(
        parts={"cross_entropy": _ascending("cross_entropy"), "margin": _ascending("margin")},
        steps=40,
        step_size=_usual_step,
    ),
    "cw": Kind(parts={"": _ascending("margin")}, steps=40, step_size=_usual_step),
    "pgd_plus": Kind(parts={"": _every_iterate}, steps=40, restarts=5, step_size=_step_of_gairat),
    "multi_targeted": Kind(
        parts={"": _towards_every_class("probability")},
        steps=multi_targeted.NUM_STEPS,
        step_size=_step_of_yang,
    ),
    "multi_targeted_margin": Kind(
        parts={"": _towards_every_class("margin")},
        steps=multi_targeted.NUM_STEPS,
        step_size=_usual_step,
    ),
    "apgd-ce": Kind(parts={"": _of_autoattack(functools.partial(apgd, loss="ce"))}, steps=100),
    "apgd-t": Kind(parts={"": _of_autoattack(apgd_targeted)}, steps=100, has_curve=False),
    "fab-t": Kind(parts={"": _of_autoattack(fab)}, steps=100, restarts=0, has_curve=False),
    "square": Kind(
        parts={"": _of_autoattack(square, steps="num_queries")}, steps=5000, has_curve=False
    ),
    "autoattack": Kind(parts={}, steps=0, restarts=0, has_curve=False),
}


def check_counts(name: str, kind: Kind, steps: int | None, restarts: int | None) -> tuple[int, int]:
    """(steps, restarts), those that were asked for or the usual ones.

    Raises:
      UserError: less than 1, or a count that this attack does not have.
    """
    chosen = []
    for flag, given, usual in (("steps", steps, kind.steps), ("restarts", restarts, kind.restarts)):
        if given is not None and not usual:
            raise UserError(f"--{flag}={given}: {name} has no {flag} to choose; leave it out")
        if given is not None and given < 1:
            raise UserError(f"--{flag}={given} is no attack; give 1 or more")
        chosen.append(usual if given is None else given)
    return chosen[0], chosen[1]
