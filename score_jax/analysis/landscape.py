"""Parts of `score-jax analyze geometry` that show models around single images, side by side: the
loss on a plane, input gradients, and what becomes of images in growing balls.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from score_jax.analysis import (
    landscape_gradients,
    landscape_radii,
    landscape_surface,
    landscape_words,
)
from score_jax.analysis.finding import Finding
from score_jax.analysis.geometry_kappa import class_name
from score_jax.analysis.landscape_radii import write_radius
from score_jax.analysis.landscape_runs import (
    mean,
    measured,
    picture,
    places,
    ratio,
    rows_for,
    runs_of,
    some,
    titles,
    written,
)
from score_jax.analysis.subject import Subject
from score_jax.analysis.subject_words import tell_models

REACH = 1.5  # The plane ends so many eps from the image.
SHOWN_POINTS, COUNTED_POINTS = 31, 13
COUNTED = 100  # Images whose planes are counted: each costs 169 answers.
RADII_STEPS = 20  # At least: far away there is more way to go.


def surface(subject: Subject) -> Finding:
    """The loss on the plane of the adversarial and a random direction; local linearity."""
    runs, attack = runs_of(subject), landscape_surface.attack_of(subject)
    points = np.linspace(-REACH, REACH, SHOWN_POINTS)
    inside = np.linspace(-1, 1, COUNTED_POINTS)
    counted = min(COUNTED, len(subject.images))
    linear = measured(runs, landscape_surface.linearity(attack), "loss held to its tangent")
    planes = measured(
        some(runs, range(counted), COUNTED_POINTS), landscape_surface.plane(attack, inside),
        "planes counted",
    )  # fmt: skip
    shown = measured(
        some(runs, subject.chosen[: rows_for(runs)], SHOWN_POINTS),
        landscape_surface.plane(attack, points), "planes drawn",
    )  # fmt: skip
    facts = {
        run.name: {
            **run.measured_model(),
            **{name: float(values.mean()) for name, values in of_tangent.items()},
            "num_hidden": int(landscape_surface.is_hidden(of_plane).sum()),
            "num_planes": counted,
            "mean_above": float(landscape_surface.above(of_plane).mean()),
        }
        for run, of_tangent, of_plane in zip(runs, linear, planes, strict=True)
    }
    return Finding(
        name="geometry_surface",
        title="The loss around images",
        summary=[
            *(
                landscape_words.tell_surface(name, means, attack.num_steps)
                for name, means in facts.items()
            ),
            "Points of a random plane that lie above all that PGD saw tell of gradients that hide "
            "the way up. γ is the largest distance of the loss from its tangent that PGD found in "
            "the ball (Qin et al. 2019): where it is nearly the whole rise, the gradient at the "
            "image says little of what an attack reaches.",
            *tell_models(runs),
        ],
        facts={
            **subject.facts(), "steps": subject.steps, "step_size": subject.step_size,
            "reach": REACH, "shown": places(subject, rows_for(runs)), "runs": facts,
        },
        table=[
            ("run", "loss", "rise by PGD", "by the tangent", "γ", "γ / rise", "PGD surpassed"),
            *(
                (
                    name, *(written(means[of]) for of in ("clean", "rise", "tangent", "gap")),
                    ratio(means["gap"], means["rise"]), f"{means['num_hidden']} of {counted}",
                )
                for name, means in facts.items()
            ),
        ],
        pictures={
            "planes": picture(
                "Cross-entropy on the plane through each image (dot), the highest point that PGD "
                "saw (cross) and a random direction; every point is clipped to [0, 1]. White "
                "dashes: the ball. Black line: where the answer turns wrong. #: place in the "
                "split.",
                "surfaces", [run.name for run in runs], points, shown,
                titles(subject)[: rows_for(runs)], subject.norm, subject.eps,
            )
        },
        arrays={
            "coordinates": points,
            **{name: np.stack([found[name] for found in shown]) for name in shown[0]},
        },
    )  # fmt: skip


def gradients(subject: Subject) -> Finding:
    """What input gradients show of images."""
    runs, shape = runs_of(subject), subject.images.shape[1:]
    found = measured(runs, landscape_gradients.numbers, "gradients taken")
    sheets = measured(some(runs, subject.chosen), landscape_gradients.of_loss, "gradients drawn")
    noise = landscape_gradients.of_noise(shape)
    facts = {
        run.name: {
            **run.measured_model(),
            **{name: mean(values) for name, values in numbers.items()},
            "num_zero": int((numbers["size"] == 0).sum()),
        }
        for run, numbers in zip(runs, found, strict=True)
    }
    names, columns = [run.name for run in runs], ("alignment", "variation", "spread", "size")
    images = subject.images[list(subject.chosen)].astype(np.float32) / 255
    return Finding(
        name="geometry_gradients",
        title="Input gradients",
        summary=[
            *(landscape_words.tell_gradients(name, means, noise) for name, means in facts.items()),
            "Alignment: the cosine, without its sign, of an image and the gradient of its largest "
            "logit (Etmann et al. 2019, divided by the image's length). Of the gradient of the "
            "cross-entropy: total variation, differences of neighbours by entry; spread, the "
            "share of pixels that it is on, 1 where all weigh the same.",
            *tell_models(runs),
        ],
        facts={**subject.facts(), "shown": places(subject), "noise": noise, "runs": facts},
        table=[
            ("run", "alignment", "total variation", "spread", "Σ|gradient|"),
            *((name, *(written(means[of]) for of in columns)) for name, means in facts.items()),
            ("noise", *(written(noise.get(of)) for of in columns)),
        ],
        pictures={
            "sheet": picture(
                "Gradients of the cross-entropy with respect to the image, 0 as grey, each "
                f"channel cut off at ±{landscape_gradients.SIGMAS} standard deviations. #: place "
                "in the split.",
                "gradients", names, images, titles(subject), sheets,
            ),
            "alignment": picture(
                "How many images have an alignment of gradient and image up to a value.",
                "alignments", names, [numbers["alignment"] for numbers in found],
                noise["alignment"],
            ),
        },
        arrays={
            "gradients": np.stack(sheets),
            **{of: np.stack([numbers[of] for numbers in found]) for of in columns},
        },
    )  # fmt: skip


def radii(subject: Subject) -> Finding:
    """What becomes of images and answers in balls of growing radius."""
    runs = runs_of(subject)
    steps = max(subject.steps, RADII_STEPS)
    step_size = 2.5 * subject.eps / steps
    attack = landscape_surface.attack_of(
        dataclasses.replace(subject, steps=steps, step_size=step_size)
    )
    sizes = landscape_radii.radii_of(subject.norm, subject.eps)
    found = measured(runs, landscape_radii.attacked(attack, sizes), "images attacked")
    sheets = measured(
        some(runs, subject.chosen[: rows_for(runs)]),
        landscape_radii.attacked(attack, sizes, keeps_images=True), "images drawn",
    )  # fmt: skip
    far = landscape_radii.towards_each_class(attack, sizes[-1])
    led = measured(some(runs, subject.chosen), far, "images led to each class")
    name_of = functools.partial(class_name, subject)
    seen = [_seen(runs, found_by["images"], subject) for found_by in led]
    curves = [
        {of: values[of].mean(0) for of in ("loss", "confidence")}
        | {"accuracy": values["is_right"].mean(0)}
        for values in found
    ]
    names, row = [run.name for run in runs], subject.chosen[0]
    count = led[0]["images"].shape[1]
    num_classes = subject.artifact.spec["model"].get("num_classes", count)
    classes = landscape_words.led_to(count, num_classes)
    facts = {
        run.name: {
            **run.measured_model(),
            **{of: values.tolist() for of, values in curve.items()},
            "led_images_seen_as_led_by": dict(zip(names, by, strict=True)),
        }
        for run, curve, by in zip(runs, curves, seen, strict=True)
    }
    return Finding(
        name="geometry_radii",
        title="Images in growing balls",
        summary=[
            *(
                landscape_words.tell_radii(name, of, sizes)
                for name, of in zip(names, curves, strict=True)
            ),
            *landscape_words.tell_seen(names, seen, sizes[-1], classes),
            landscape_words.tell_limit(subject.norm, sizes[-1], subject.images.shape[1:]),
            *tell_models(runs),
        ],
        facts={
            **subject.facts(), "steps": steps, "step_size": step_size, "radii": list(sizes),
            "shown": places(subject, rows_for(runs)), "runs": facts,
        },
        table=[
            ("run", "", *(f"ε = {write_radius(size)}" for size in sizes)),
            *(
                (name, of, *(f"{value:.1%}" for value in curve[of]))
                for name, curve in zip(names, curves, strict=True)
                for of in ("accuracy", "confidence")
            ),
        ],
        pictures={
            "sheet": picture(
                "What PGD makes of images at each radius, with the answer and its probability; "
                "wrong ones are bold. #: place in the split.",
                "radii", names, sizes, sheets, titles(subject),
                subject.labels[list(subject.chosen)], name_of, subject.norm,
            ),
            "led": picture(
                f"An image on the way to {classes} within {write_radius(sizes[-1])}, with the "
                "probability that the run gives that class there; as it is in its own class's.",
                "led", names, subject.images[row].astype(np.float32) / 255,
                int(subject.labels[row]), led, name_of, sizes[-1], subject.norm,
            ),
            "confidence": picture(
                "Accuracy and mean confidence, the probability of the answer, under PGD of "
                "growing radius.",
                "confidence", names, sizes, curves, subject.norm,
            ),
        },
        arrays={
            "images": np.stack([values["images"] for values in sheets]),
            "led": np.stack([values["images"] for values in led]),
            **{of: np.stack([values[of] for values in found]) for of in ("confidence", "is_right")},
        },
    )  # fmt: skip


def _seen(runs: Sequence[Subject], images: np.ndarray, subject: Subject) -> list[float]:
    """The share of images f[n, k, h, w, c], led to other classes, that each run sees as led."""
    n, k = images.shape[:2]
    targets = np.tile(np.arange(k, dtype=np.int32), n)
    is_led = targets != np.repeat(subject.labels[list(subject.chosen)], k)
    flat = (255 * images.reshape(n * k, *images.shape[2:])).round().astype(np.uint8)
    shown = [
        dataclasses.replace(
            run, images=flat[is_led], labels=targets[is_led], indices=np.arange(is_led.sum())
        )
        for run in runs
    ]
    return [
        float(right.mean())
        for right in measured(shown, landscape_radii.is_right, "led images seen")
    ]
