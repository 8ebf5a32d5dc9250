"""Checks of how gradient attacks behave: more of anything must not make them weaker."""

import math

import numpy as np

from score_jax.trust_check import Check, advice, grade, grade_loss, percent, worst
from score_jax.trust_subject import Subject

STEPS = (1, 5, 10, 20, 50, 100)
USUAL_STEPS = 20
RESTARTS = 10
MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
MAX_TARGETS = 9


def usual_accuracy(subject: Subject) -> float:
    """Under PGD-20 on cross-entropy from a random start: what papers call PGD-20."""
    return subject.walk("cross_entropy", USUAL_STEPS).accuracy


def steps(subject: Subject) -> Check:
    """PGD with more steps is not weaker, and has converged in the end."""
    walks = [subject.walk("cross_entropy", count) for count in STEPS]
    accuracies = [walk.accuracy for walk in walks]
    several = accuracies[1:]  # One step is compared in a check of its own.
    rise = max(after - before for before, after in zip(several, several[1:], strict=False))
    still = accuracies[-2] - accuracies[-1]
    count = len(subject)
    rising, unconverged = (
        grade("weaker_with_steps", rise, count), grade("unconverged", still, count),
    )  # fmt: skip
    colour = worst(rising, unconverged)
    remedy = "Use more steps or APGD: the surface is too rough for this number of steps."
    if worst(rising) == colour:
        remedy = "More steps must not be weaker: lower the step size, then suspect the gradient."
    curve = ", ".join(f"{percent(a)} at {n}" for n, a in zip(STEPS, accuracies, strict=True))
    return Check(
        name="steps",
        colour=colour,
        finding=f"accuracy under PGD by its steps: {curve}",
        numbers={
            "steps": list(STEPS),
            "accuracy": accuracies,
            "loss": [float(np.mean(walk.loss)) for walk in walks],
            "largest_rise": rise,
            "last_fall": still,
        },
        remedy=advice(colour, remedy),
    )


def one_step(subject: Subject) -> Check:
    """One step (FGSM) is weaker than many."""
    fgsm = subject.walk("cross_entropy", 1, random_start=False).accuracy
    from_random = subject.walk("cross_entropy", 1).accuracy
    many = usual_accuracy(subject)
    gain = many - min(fgsm, from_random)
    colour = grade("one_step_gain", gain, len(subject))
    return Check(
        name="one_step",
        colour=colour,
        finding=f"accuracy {percent(fgsm)} under one step (FGSM), {percent(from_random)} with a "
        f"random start, {percent(many)} under {USUAL_STEPS}",
        numbers={"fgsm": fgsm, "fgsm_random_start": from_random, "pgd": many, "gain": gain},
        remedy=advice(
            colour,
            "A single step beats many: local gradients mislead; "
            "do not report PGD, use attacks without gradients and adaptive ones.",
        ),
    )


def start(subject: Subject) -> Check:
    """Where PGD starts matters little."""
    clean = subject.walk("cross_entropy", USUAL_STEPS, random_start=False).accuracy
    random = usual_accuracy(subject)
    difference = abs(clean - random)
    colour = grade("start_difference", difference, len(subject))
    return Check(
        name="start",
        colour=colour,
        finding=f"accuracy {percent(random)} from a random start, {percent(clean)} from the clean "
        "image",
        numbers={"random_start": random, "clean_start": clean, "difference": difference},
        remedy=advice(
            colour,
            "Start at random and restart: the gradient at one of the two places leads nowhere.",
        ),
    )


def restarts(subject: Subject) -> Check:
    """More random starts do not go on lowering the accuracy."""
    withstood, kept = subject.is_right, []
    for restart in range(RESTARTS):
        walk = subject.walk("cross_entropy", USUAL_STEPS, restart=restart)
        withstood = withstood & walk.withstood
        kept.append(withstood)
    colour, lost = grade_loss("restarts_go_on", kept[RESTARTS // 2 - 1], kept[-1])
    accuracies = [float(each.mean()) for each in kept]
    middle = accuracies[RESTARTS // 2 - 1]
    return Check(
        name="restarts",
        colour=colour,
        finding=f"accuracy {percent(accuracies[0])} after one start, {percent(middle)} after "
        f"{RESTARTS // 2}, {percent(accuracies[-1])} after {RESTARTS}",
        numbers={"accuracy": accuracies, "part_lost_late": lost},
        remedy=advice(
            colour,
            "Go on restarting until nothing falls, and report "
            "that: a few starts find what chance lets them find.",
        ),
    )


def radius(subject: Subject) -> Check:
    """Accuracy falls with the radius, to 0 where any image may become any other."""
    largest = 1.0 if subject.norm == "linf" else math.sqrt(subject.images[0].size)
    radii = [m * subject.eps for m in MULTIPLES if m * subject.eps < largest] + [largest]
    accuracies = [float(subject.is_right.mean())]
    for eps in radii:
        walk = subject.walk("cross_entropy", 50 if eps == largest else USUAL_STEPS, eps=eps)
        accuracies.append(walk.accuracy)
    rise = max(after - before for before, after in zip(accuracies, accuracies[1:], strict=False))
    left, count = accuracies[-1], len(subject)
    colour = worst(grade("left_at_large_eps", left, count), grade("rises_with_eps", rise, count))
    return Check(
        name="radius",
        colour=colour,
        finding=f"accuracy {percent(left)} at eps={largest:.3g}, where every image is in reach; "
        f"{percent(max(rise, 0))} is the largest rise on the way",
        numbers={"eps": [0.0, *radii], "accuracy": accuracies, "largest_rise": rise},
        remedy=advice(
            colour,
            "An attack without bounds must reach 0%: what is left "
            "is the attack's failure, so look for lost gradients.",
        ),
    )


def loss_choice(subject: Subject) -> Check:
    """Cross-entropy is as good a loss to attack as those that do not see the logits' scale."""
    targets = min(MAX_TARGETS, subject.num_classes - 1)
    own = subject.is_right.copy()
    for restart in range(RESTARTS):
        own &= subject.walk("cross_entropy", USUAL_STEPS, restart=restart).withstood
    others = {
        "margin": subject.walk("margin", USUAL_STEPS).withstood,
        "normalised_cross_entropy": subject.walk("normalised_cross_entropy", USUAL_STEPS).withstood,
        "targeted": np.logical_and.reduce(
            [subject.walk("targeted", USUAL_STEPS, rank=rank).withstood for rank in range(targets)]
        ),
    }
    together = np.logical_and.reduce(list(others.values()))
    before, after = float(own.mean()), float(together.mean())
    colour, lost = grade_loss("loss_choice", own, together)
    single = {name: float(kept.mean()) for name, kept in others.items()}
    return Check(
        name="loss",
        colour=colour,
        finding=f"accuracy {percent(before)} under {RESTARTS} runs on cross-entropy, "
        f"{percent(after)} under {targets + 2} on the margin, on {targets} targets and on "
        "normalised logits",
        numbers={
            "cross_entropy": before,
            "cross_entropy_once": usual_accuracy(subject),
            **single,
            "together": after,
            "part_lost": lost,
        },
        remedy=advice(
            colour,
            "Accuracy under PGD on cross-entropy is not robustness "
            "here: report AutoAttack's, whose losses do not depend on the scale of the logits.",
        ),
    )
