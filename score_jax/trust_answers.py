"""Checks of what a network answers: logits, repetition, its batch, pixel range, smoothness."""

import numpy as np

from score_jax.trust_check import Check, advice, grade, percent, worst
from score_jax.trust_subject import LogitsFn, Subject

NEAR_CHANCE = 0.1  # Of the way from chance to all images right.
FAR_APART = 50.0  # Logits; see THRESHOLDS["saturated"].
TINY_MOVE = 1 / 2040  # An eighth of a level of 8-bit pixels.
MOVED_VALUES = 4


def outputs(subject: Subject) -> Check:
    """Finite logits, no probabilities, not so large that float32 loses the gradient."""
    logits = subject.clean
    if not np.isfinite(logits).all():
        return Check(
            name="outputs",
            colour="red",
            finding="NaN or infinite logits",
            numbers={"finite": False},
            remedy="Find the first layer that overflows; nothing else was examined.",
        )
    ordered = np.sort(logits, axis=-1)
    gaps = ordered[:, -1] - ordered[:, -2]
    sums = logits.sum(-1)
    are_probabilities = bool((logits >= 0).all() and np.abs(sums - 1).max() < 1e-3)
    accuracy, chance = float(subject.is_right.mean()), 1 / subject.num_classes
    numbers = {
        "clean_accuracy": accuracy,
        "finite": True,
        "probabilities": are_probabilities,
        "largest_logit": float(np.abs(logits).max()),
        "median_gap": float(np.median(gaps)),
        "saturated_share": float((gaps > FAR_APART).mean()),
    }
    finding = (
        f"logits up to {numbers['largest_logit']:.3g}, the largest two {numbers['median_gap']:.3g} "
        f"apart (median), {percent(accuracy)} right"
    )
    if are_probabilities:
        colour, remedy = "red", "Give the logits: attacks on a softmax lose their gradients."
        finding = f"the outputs are probabilities, {percent(accuracy)} right"
    else:
        colour = grade("saturated", numbers["saturated_share"], len(subject))
        remedy = (
            "Divide the logits by a constant before attacking; the classes do not change and "
            "cross-entropy gets its gradient back."
        )
        if colour == "green" and accuracy < chance + NEAR_CHANCE * (1 - chance):
            colour, remedy = "amber", "Check labels and input range: this is near chance."
    return Check(
        name="outputs", colour=colour, finding=finding, numbers=numbers,
        remedy=advice(colour, remedy),
    )  # fmt: skip


def repeatable(subject: Subject) -> Check:
    """Three direct passes and two compiled ones give the same logits."""
    images = subject.images[: subject.batch_size]
    passes = [np.asarray(subject.direct(images)) for _ in range(3)]
    passes += [subject.logits(subject.images)[: len(images)] for _ in range(2)]
    difference = max(_relative(passes[0], other) for other in passes[1:])
    colour = grade("unrepeatable", difference)
    changed = int(sum((other.argmax(-1) != passes[0].argmax(-1)).sum() for other in passes[1:]))
    return Check(
        name="repeatable",
        colour=colour,
        finding=f"five passes over the same images differ by {difference:.1g} of the largest "
        f"logit; {changed} predictions change",
        numbers={"largest_difference": difference, "changed_predictions": changed},
        remedy=advice(
            colour,
            "Remove the randomness (noise, dropout), or attack its "
            "expectation over many draws (EOT; AutoAttack's version rand): one draw says little.",
        ),
    )


def batch(subject: Subject) -> Check:
    """An image's logits depend neither on the order of the batch, nor on its size or company."""
    size = subject.batch_size
    images, half = subject.images[:size], max(size // 2, 1)
    whole = np.asarray(subject.direct(images))
    again = _relative(whole, np.asarray(subject.direct(images)))
    if grade("unrepeatable", again) != "green":
        return Check(
            name="batch", colour="grey", finding="not to be told from its randomness", numbers={}
        )
    others = {
        "reversed": np.asarray(subject.direct(images[::-1]))[::-1],
        "halved": np.concatenate([subject.direct(images[:half]), subject.direct(images[half:])])
        if size > 1 else whole,
        "alone": np.asarray(subject.direct(np.repeat(images[:1], size, axis=0))),
    }  # fmt: skip
    whole_of = {"alone": np.repeat(whole[:1], size, axis=0)}
    numbers = {name: _relative(whole_of.get(name, whole), z) for name, z in others.items()}
    name, difference = max(numbers.items(), key=lambda entry: entry[1])
    colour = grade("batch_dependence", difference)
    return Check(
        name="batch",
        colour=colour,
        finding=f"logits differ by {difference:.1g} of the largest at most, when the batch is "
        f"{name}",
        numbers=numbers,
        remedy=advice(
            colour,
            "Switch BatchNorm to running statistics and dropout "
            "off: the answer to an image must not depend on its batch.",
        ),
    )


def input_range(subject: Subject, normalisation: tuple | None) -> Check:
    """The network wants pixels in [0, 1], and normalises them itself.

    Args:
      normalisation: (mean, std) of each channel that the network subtracts and divides by.
    """
    images, own = subject.images, float(subject.is_right.mean())
    mean, std = images.mean((0, 1, 2)), np.maximum(images.std((0, 1, 2)), 1e-3)
    tried = {"[0, 255]": images * np.float32(255), "normalised": (images - mean) / std}
    accuracies = {name: _accuracy(subject, other) for name, other in tried.items()}
    beyond = images * np.float32(1.5) - np.float32(0.25)
    clips = _answers_alike(subject, beyond, np.clip(beyond, 0, 1))
    gains = {name: (value or 0) - own for name, value in accuracies.items()}
    best = max(gains, key=gains.get)
    colour = grade("other_range", gains[best], len(subject))
    remedy = f"The network wants {best} input: put that into the function, so that eps is in "
    remedy += "pixels of [0, 1]."
    shift = 0.0
    if normalisation is not None and any(normalisation[0]):
        shift = float(np.abs((np.asarray(normalisation[0]) - mean) / std).max())
        own_colour = grade("foreign_normalisation", shift)
        if worst(colour, own_colour) != colour:
            colour = own_colour
            remedy = "Check mean and std of the network: they are not those of these images."
    refused = [name for name, value in accuracies.items() if value is None]
    told = ", ".join(
        f"{'refused' if value is None else percent(value)} on {name}"
        for name, value in accuracies.items()
    )
    return Check(
        name="range",
        colour=colour,
        finding=f"{percent(own)} right on pixels in [0, 1], {told}"
        + ("; images outside [0, 1] are clipped" if clips else ""),
        numbers={
            "accuracy": own,
            "other_accuracy": accuracies,
            "refuses": refused,
            "clips": clips,
            "image_mean": mean,
            "image_std": std,
            "mean_shift": shift,
        },
        remedy=advice(colour, remedy),
    )


def staircase(subject: Subject) -> Check:
    """Logits answer to the smallest change; rounded input makes them a staircase."""
    points = subject.random_points(restart=1)
    flat = points.reshape(len(points), -1).copy()
    count = min(MOVED_VALUES, flat.shape[1])
    columns = subject.rng.permuted(np.tile(np.arange(flat.shape[1]), (len(flat), 1)), axis=1)
    rows = np.arange(len(flat))[:, None]
    moved = flat.copy()
    inward = np.where(flat < 0.5, TINY_MOVE, -TINY_MOVE).astype(np.float32)
    moved[rows, columns[:, :count]] += inward[rows, columns[:, :count]]
    same = (subject.logits(moved.reshape(points.shape)) == subject.logits(points)).all(-1)
    share = float(same.mean())
    colour = grade("staircase", share, len(subject))
    return Check(
        name="staircase",
        colour=colour,
        finding=f"{percent(share)} of the images keep their logits exactly when {count} values "
        "move by 1/2040",
        numbers={"constant_share": share, "move": TINY_MOVE, "moved_values": count},
        remedy=advice(
            colour,
            "The input (or the arithmetic) is rounded: attack with "
            "the identity in place of the rounding's gradient (BPDA), and with a black-box attack.",
        ),
    )


def precision(subject: Subject, coarse: LogitsFn | None) -> Check:
    """Classes in bfloat16 are those in float32, on clean and attacked images.

    Args:
      coarse: the same network in bfloat16.
    """
    if coarse is None:
        return Check(
            name="precision", colour="grey", finding="no bfloat16 form to compare with", numbers={}
        )
    attacked = subject.walk(keep_images=True).images
    numbers = {}
    for name, images in (("clean", subject.images), ("attacked", attacked)):
        size, answers = subject.batch_size, []
        for start in range(0, len(images), size):
            part = np.resize(images[start : start + size], (size, *images.shape[1:]))
            answers.append(np.asarray(coarse(part))[: len(images) - start])
        classes = np.concatenate(answers).argmax(-1)
        numbers[f"{name}_changed"] = float((classes != subject.logits(images).argmax(-1)).mean())
        numbers[f"{name}_accuracy_change"] = float(
            (classes == subject.labels).mean() - subject.accuracy(images)
        )
    value = max(numbers["clean_changed"], abs(numbers["attacked_accuracy_change"]))
    colour = grade("precision_changes", value, len(subject))
    return Check(
        name="precision",
        colour=colour,
        finding=f"bfloat16 changes {percent(numbers['clean_changed'])} of the clean predictions "
        f"and {percent(numbers['attacked_changed'])} of the attacked ones",
        numbers=numbers,
        remedy=advice(
            colour,
            "Attack and report in float32 only, and name the precision: rounding decides here.",
        ),
    )


def _relative(logits: np.ndarray, others: np.ndarray) -> float:
    scale = float(np.abs(logits).max())
    return float(np.abs(logits - others).max()) / (scale if scale > 0 else 1.0)


def _accuracy(subject: Subject, images: np.ndarray) -> float | None:
    """None where the function refuses the images."""
    answers = []
    try:
        for start in range(0, len(images), subject.batch_size):
            part = np.resize(
                images[start : start + subject.batch_size],
                (subject.batch_size, *images.shape[1:]),
            )
            answers.append(np.asarray(subject.direct(part.astype(np.float32))))
    except Exception:  # Whatever the user's function raises is its refusal.
        return None
    classes = np.concatenate(answers)[: len(images)].argmax(-1)
    return float((classes == subject.labels).mean())


def _answers_alike(subject: Subject, images: np.ndarray, others: np.ndarray) -> bool:
    return _relative(subject.logits(images), subject.logits(others)) < 1e-6
