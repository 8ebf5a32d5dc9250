"""What a training step costs, in forward passes over the batch."""

from score_jax.recipe import Recipe


def count(recipe: Recipe) -> int:
    """Forward-equivalents of one step: a forward pass counts 1, each of a backward pass's two
    halves (by the images, by the weights) 1.

    An attack step needs the first half only; an outer pass all three. A second clean pass costs
    nothing unless dropout makes it another one. This is the floor of the method as written: where
    the attack normalises by the batch, the compiler merges its clean pass with the outer one.
    """
    objective, order = recipe.objective, recipe.update_order
    inner = 0
    if recipe.attack is not None:
        inner = len(objective.inners) * 2 * recipe.attack.num_steps
        if objective.needs_gradient:
            inner += 2
        elif objective.needs_clean_logits:
            inner += 1
        inner += "attacked" in order
    outer = 0
    for name in objective.forwards:
        if name == "clean_again" and not recipe.classifier.dropout:
            continue
        outer += 6 if name == "joint" else 3
    if objective.needs_gradient:
        # The clean pass, its input gradient, and both halves of the backward pass of each.
        outer += 3
    if recipe.awp_gamma:
        outer *= 2
    # Passes that only record.
    return inner + outer + ("unused_clean" in order) + ("updated_clean" in order)
