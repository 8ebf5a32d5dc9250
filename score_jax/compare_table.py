"""A comparison as a few lines of a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from score_jax.compare_measures import decisions_differ

NUM_LAYERS = 8


def describe(result: Mapping[str, Any]) -> list[str]:
    """The lines, the verdict last.

    Args:
      result: what `compare.compare` returns.
    """
    return [
        *_networks(result),
        *_answers(result),
        *_precisions(result),
        *_layers(result),
        f"verdict: {result['verdict']}",
    ]


def _networks(result: Mapping[str, Any]) -> Iterator[str]:
    for name in ("a", "b"):
        side = result[name]
        yield (
            f"{name.upper()}  {side['label']}: {side['model']}, computed by {side['engine']}, "
            f"sha256 {side['model_sha256'][:12]}"
        )
    yield f"the first {result['num_examples']} test images of {result['dataset']}"


def _answers(result: Mapping[str, Any]) -> Iterator[str]:
    logits, gradients = result["logits"], result["gradients"]
    ties = len(logits["disagreements"]) - decisions_differ(logits)
    yield (
        f"logits            differ by at most {logits['max_difference']:.2g}, on average "
        f"{logits['mean_difference']:.2g}; relative {logits['max_relative_difference']:.2g}; "
        f"the same class on {logits['agreement']:.2%}" + (f", {ties} more are ties" if ties else "")
    )
    for entry in logits["disagreements"][:3]:
        tie = ", a tie" if entry["is_tie"] else ""
        yield f"                  image {entry['image']}: A {entry['a']}, B {entry['b']}{tie}"
    yield (
        f"input gradients   cosine {gradients['median_cosine']:.6f} (median), "
        f"{gradients['min_cosine']:.6f} (least); signs alike on "
        f"{gradients['sign_agreement']:.3%} of pixels"
    )
    yield f"{'':<18}{'A':>8}{'B':>8}"
    yield _row("clean accuracy", result["clean_accuracy"])
    if pgd := result.get("pgd"):
        threat = f"{result['norm']} {result['eps']['written']}"
        yield _row(f"PGD-{pgd['num_steps']}", pgd["robust_accuracy"], pgd["robust"]) + f"; {threat}"
        transfer = pgd["transfer"]
        yield (
            f"{'transfer':<18}A's images on B {transfer['images_of_a_judged_by_b']:.2%}, "
            f"B's images on A {transfer['images_of_b_judged_by_a']:.2%}; "
            f"{pgd['same_adversarial_images']:.0%} of the images are equal bit by bit"
        )
    if found := result.get("autoattack"):
        yield _row("AutoAttack", found["robust_accuracy"], found["robust"])


def _row(name: str, accuracy: Mapping[str, float], robust: Mapping[str, Any] | None = None) -> str:
    row = f"{name:<18}{accuracy['a']:>8.2%}{accuracy['b']:>8.2%}"
    if robust is None:
        return row
    counts = [f"{words} {robust[key]}" for key, words in (
        ("both", "both"), ("only_a", "only A"), ("only_b", "only B"), ("neither", "neither")
    )]  # fmt: skip
    return f"{row}   robust: {', '.join(counts)}"


def _precisions(result: Mapping[str, Any]) -> Iterator[str]:
    for row in result["precisions"]:
        name = f"{row['precision']}, {row['side'].upper()}"
        if row["is_float32_bit_by_bit"]:
            yield f"{name:<18}equals float32 bit by bit on this {result['devices']['jax']}"
            continue
        logits, gradients = row["logits"], row["gradients"]
        attacked = ""
        if "pgd" in row:
            attacked = f"; {len(row['pgd']['robust']['differing_images'])} robust decisions change"
        yield (
            f"{name:<18}from float32: logits {logits['max_difference']:.2g} (relative "
            f"{logits['max_relative_difference']:.2g}), same class {logits['agreement']:.2%}, "
            f"cosine {gradients['median_cosine']:.4f}, signs {gradients['sign_agreement']:.2%}"
            f"{attacked}"
        )


def _layers(result: Mapping[str, Any]) -> Iterator[str]:
    if rows := result.get("parameters"):
        worst = max(rows, key=lambda row: row["relative_difference"])
        yield f"parameters        {len(rows)} tensors " + (
            f"compared; the largest relative difference is {worst['relative_difference']:.2g} at "
            f"{worst['path']}"
            if worst["relative_difference"]
            else "equal bit by bit"
        )
    layers = result.get("layers")
    if layers is None:
        yield f"modules           {result['layers_note']}"
        return
    modules = layers["modules"]
    worst = max(modules, key=lambda row: row["relative_difference"])
    where = layers["parted_at"]
    yield f"modules           {len(modules)} compared; " + (
        f"the first over {layers['tolerance']:g} is {where}"
        if where
        else f"the largest relative difference is {worst['relative_difference']:.2g} at "
        f"{worst['path']}"
    )
    if where:
        first = next(i for i, row in enumerate(modules) if row["path"] == where)
        for row in modules[max(0, first - 2) : first + NUM_LAYERS - 2]:
            yield f"{'':<18}{row['relative_difference']:<9.2g}{row['path']}"
