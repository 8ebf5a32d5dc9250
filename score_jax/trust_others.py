"""Checks against attacks that need none of the network's gradients, and against AutoAttack."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score_jax.attacks import apgd, square
from score_jax.trust_attacks import MAX_TARGETS, USUAL_STEPS, usual_accuracy
from score_jax.trust_check import Check, advice, grade, grade_loss, percent, worst
from score_jax.trust_subject import LogitsFn, Subject

NUM_QUERIES = 1000
APGD_STEPS = 50
# What AutoAttack's doubts about its own result mean here; others are amber.
FLAG_COLOURS = {"few_classes": "green", "randomized": "red", "probabilities": "red"}


def black_box(subject: Subject) -> Check:
    """Random search (Square) finds nothing where gradients, APGD-T's too, found nothing."""
    if subject.num_classes >= apgd.SMALLEST_NUM_CLASSES["targeted_dlr"]:
        subject.standing &= ~subject.attack_standing(
            lambda logits_fn, keys, images, labels: apgd.apgd_targeted(
                logits_fn, keys, images, labels, norm=subject.norm, eps=subject.eps,
                num_targets=min(MAX_TARGETS, subject.num_classes - 1), num_steps=APGD_STEPS,
            )
        )  # fmt: skip
    before = float(subject.standing.mean())
    fell = subject.attack_standing(
        lambda logits_fn, keys, images, labels: square.square(
            logits_fn, keys, images, labels, norm=subject.norm, eps=subject.eps,
            num_queries=NUM_QUERIES,
        )
    )  # fmt: skip
    subject.fell_otherwise |= fell
    gain = float(fell.mean())
    colour = grade("black_box_gain", gain, len(subject))
    return Check(
        name="black_box",
        colour=colour,
        finding=f"Square with {NUM_QUERIES} queries fools {percent(gain)} of all images where "
        f"every gradient attack failed ({percent(before)} were left)",
        numbers={"left_by_gradients": before, "gain": gain, "num_queries": NUM_QUERIES},
        remedy=advice(
            colour,
            "Random search beats the gradient: the accuracy under gradient attacks is an upper "
            "bound; find what hides the gradient and attack around it.",
        ),
    )


def transfer(subject: Subject, sources: Sequence[tuple[str, LogitsFn]]) -> Check:
    """Images made for other networks do not fool this one where its own gradient failed."""
    if not sources:
        return Check(
            name="transfer", colour="grey", finding="no other network to attack from", numbers={}
        )
    accuracies, fell = {}, np.zeros(len(subject), bool)
    for name, logits_fn in sources:
        other = Subject(
            logits_fn, subject.images, subject.labels, norm=subject.norm, eps=subject.eps,
            num_classes=subject.num_classes, seed=subject.seed, batch_size=subject.batch_size,
        )  # fmt: skip
        images = other.walk("cross_entropy", 20, keep_images=True).images
        wrong = subject.logits(images).argmax(-1) != subject.labels
        accuracies[name] = float((subject.is_right & ~wrong).mean())
        fell |= subject.standing & wrong
    subject.fell_otherwise |= fell
    gain, own = float(fell.mean()), usual_accuracy(subject)
    below = own - min(accuracies.values())
    colour = worst(
        grade("transfer_gain", gain, len(subject)), grade("transfer_below", below, len(subject))
    )
    told = ", ".join(f"{percent(value)} from {name}" for name, value in accuracies.items())
    return Check(
        name="transfer",
        colour=colour,
        finding=f"accuracy {told}, {percent(own)} from its own gradient; {percent(gain)} of the "
        "images fall to others only",
        numbers={"accuracy": accuracies, "own": own, "gain": gain},
        remedy=advice(
            colour,
            "Another network's gradient is the better guide: this "
            "one's is masked; report the transfer attack too.",
        ),
    )


def gap(subject: Subject, official: Mapping[str, Any] | None) -> Check:
    """PGD-20 is near the strongest attack: AutoAttack, or else the strongest one here.

    Args:
      official: a result.json of AutoAttack at the same norm and eps, with 'robust' bool[m] of the
        first m images; without them only attacks here are of the same images, and compared.
    """
    usual = subject.walk("cross_entropy", USUAL_STEPS).right
    left, source = subject.left, "all attacks here together"
    numbers, by_contradiction, aside = {}, "green", ""
    robust = None if official is None else official.get("robust")
    if robust is not None:
        shared = min(len(subject), len(robust))
        usual, left, source = usual[:shared], np.asarray(robust[:shared], bool), "AutoAttack"
        beaten = float((left & ~subject.left[:shared]).mean())
        by_contradiction = grade("beats_official", beaten, shared)
        numbers = {"fell_here_only": beaten}
    elif official is not None:
        known = official["robust_accuracy"], official["num_examples"]
        aside = f" (AutoAttack: {percent(known[0])} on {known[1]} images)"
    by_gap, lost = grade_loss("gap", usual, left)
    pgd, strongest = float(usual.mean()), float(left.mean())
    colour = worst(by_gap, by_contradiction)
    remedy = "PGD on cross-entropy overstates this network: report AutoAttack's figure only."
    if by_gap != colour:
        remedy = "Images that AutoAttack left fell here: run AutoAttack again on this model."
    return Check(
        name="gap",
        colour=colour,
        finding=f"accuracy {percent(pgd)} under PGD-20, {percent(strongest)} under {source}: "
        f"{percent(lost)} of it is lost{aside}",
        numbers={"pgd": pgd, "strongest": strongest, "source": source, "part_lost": lost} | numbers,
        remedy=advice(colour, remedy),
    )


def flags(official: Mapping[str, Any] | None) -> Check:
    """AutoAttack had no doubts about its own result."""
    if official is None:
        finding = "not judged by the official AutoAttack yet: score-jax autoattack"
        return Check(name="autoattack", colour="grey", finding=finding, numbers={})
    raised = official.get("flags") or []
    colour = worst("green", *(FLAG_COLOURS.get(flag["name"], "amber") for flag in raised))
    names = ", ".join(flag["name"] for flag in raised) or "no warning"
    first = next((flag for flag in raised if FLAG_COLOURS.get(flag["name"]) != "green"), None)
    return Check(
        name="autoattack",
        colour=colour,
        finding=f"{percent(official['robust_accuracy'])} on {official['num_examples']} images "
        f"({names})",
        numbers={
            "robust_accuracy": official["robust_accuracy"],
            "num_examples": official["num_examples"],
            "flags": [dict(flag) for flag in raised],
            "result": official.get("name", ""),
        },
        remedy="" if first is None else f"AutoAttack warns: {first.get('meaning', first['name'])}.",
    )
