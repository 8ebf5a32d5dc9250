"""Our training step beside an independent PyTorch one: the same data, weights and attack starts.

    python -m benchmarks.training_parity --objective=score --data=digits --steps=200
    python -m benchmarks.training_parity --data=cifar10 --model=wrn-10-1-swish --precision=float32

Each step: PGD on the objective with batch statistics that nobody records, the outer loss, SGD with
Nesterov momentum and a weight decay that spares BatchNorm, averaged weights, and BatchNorm's
running averages moved by the clean and then by the attacked pass. The PyTorch half
(`training_parity_torch.py`) uses torch alone: its autograd, its SGD, its BatchNorm, the networks of
`score_jax.torch_models`. Both are given the recipe's learning rate and momentum of each step.

float64 shows whether the mathematics is the same, float32 how rounding grows: an attack takes the
sign of a gradient, so that one rounding error in a pixel near 0 becomes a step of another size.
"""

import argparse
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.training_parity_torch import TorchTrainer
from score_jax import recipes, train_state
from score_jax.data import sources
from score_jax.minimax import maximize, minimized
from score_jax.recipes import Run
from score_jax.train_step import prepare, step_keys, train_step
from score_jax.types import UserError

RECIPES = {"digits": "configs/digits_score.py", "cifar10": "configs/cifar10_score.py"}
MODELS = {"digits": "cnn-3", "cifar10": "wrn-10-1-swish"}
PRECISIONS = {"float32": (jnp.float32, torch.float32), "float64": (jnp.float64, torch.float64)}


def build(objective: str, data: str, model: str, batch_size: int) -> Run:
    """The recipe, without augmentation: its random draws cannot be given to PyTorch."""
    overrides = [
        f"objective.name={objective}",
        f"model.name={model or MODELS[data]}",
        f"data.batch_size={batch_size}",
        "data.augmentation=none",
        "num_epochs=20",
        "schedule.unit=step",
        "ema.warmup_steps=2",
    ]
    return recipes.build(recipes.load(RECIPES[data], overrides))


def batches(
    data: str, batch_size: int, eps: float, num_steps: int, random: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Images f64[b, h, w, c] in [0, 1], labels i32[b] and start noise of U(-eps, eps).

    Of the prepared training split, or of uniform noise with random labels.
    """
    rng = np.random.default_rng(0)
    spec = sources.DATASETS[data]
    split = None if random else sources.train_split(data)
    for _ in range(num_steps):
        if split is None:
            images = rng.uniform(0, 1, (batch_size, *spec.image_shape))
            labels = rng.integers(0, spec.num_classes, batch_size)
        else:
            chosen = rng.integers(0, len(split), batch_size)
            images, labels = split.images[chosen] / 255.0, split.labels[chosen]
        noise = rng.uniform(-eps, eps, images.shape)
        yield {"images": images, "labels": labels.astype(np.int32), "start_noise": noise}


def our_step(recipe, key, state, batch):
    """`train_step`, and its loss, which it tells in float32 only, at full precision."""
    augment_key, attack_key, cutmix_key, _ = step_keys(key, state.step)
    prepared = prepare(recipe, batch, augment_key, cutmix_key, state.step)
    prepared, batch_stats = maximize(
        recipe, state.params, state.batch_stats, attack_key, prepared, batch["start_noise"]
    )
    loss, _ = minimized(recipe, state.params, batch_stats, prepared)
    return train_step(recipe, state, batch, key)[0], loss


def measure(
    *, objective: str = "score", data: str = "digits", model: str = "", num_steps: int = 20,
    batch_size: int = 64, precision: str = "float64", random: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Trains both from the same start; one row a step.

    Returns:
      'step', 'loss_jax', 'loss_torch', and the largest differences of 'params', 'ema_params' and
      'batch_stats'.
    """
    jax_dtype, torch_dtype = PRECISIONS[precision]
    # Optax multiplies by rates in float32, whatever the weights are in.
    with jax.enable_x64(precision == "float64"), jax.numpy_dtype_promotion("standard"):
        run = build(objective, data, model, batch_size)
        name, key = model or MODELS[data], jax.random.key(0)
        state = train_state.initial_state(run.recipe, key)
        params, batch_stats = jax.tree.map(
            lambda leaf: leaf.astype(jax_dtype), (state.params, state.batch_stats)
        )
        state = train_state.TrainState(
            step=state.step, params=params, ema_params=params, batch_stats=batch_stats,
            opt_state=run.recipe.optimizer.init(params), sums=state.sums,
        )  # fmt: skip
        other = TorchTrainer(run, data, name, params, batch_stats, torch_dtype)
        ours = jax.jit(functools.partial(our_step, run.recipe, key))
        eps, rows = run.recipe.attack.threat.eps, []
        for step, batch in enumerate(batches(data, batch_size, eps, num_steps, random)):
            batch |= {name: batch[name].astype(jax_dtype) for name in ("images", "start_noise")}
            state, loss = ours(state, batch)
            # As the step computed them: compiled and uncompiled, float32 cosines differ by a bit.
            rates = {name: float(value) for name, value in state.opt_state[-1].hyperparams.items()}
            tensors = {name: torch.from_numpy(x) for name, x in batch.items()}
            loss_torch = other.step(tensors, **rates)
            rows.append({"step": step, "loss_jax": float(loss), "loss_torch": loss_torch})
            rows[-1] |= other.distances(state)
    return rows


def describe(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a step, at most about twenty."""
    yield f"{'step':>5}{'JAX loss':>13}{'PyTorch':>13}{'difference':>12}" + "".join(
        f"{words:>12}" for words in ("parameters", "averaged", "BatchNorm")
    )
    every = max(1, len(rows) // 20)
    for row in rows:
        if row["step"] % every and row is not rows[-1]:
            continue
        difference = abs(row["loss_jax"] - row["loss_torch"])
        yield (
            f"{row['step']:>5}{row['loss_jax']:>13.8f}{row['loss_torch']:>13.8f}{difference:>12.1e}"
            f"{row['params']:>12.1e}{row['ema_params']:>12.1e}{row['batch_stats']:>12.1e}"
        )


def draw(rows: Sequence[dict[str, Any]], title: str) -> Any:
    """Both loss curves, and below them the differences, on a logarithmic axis."""
    import matplotlib
    from matplotlib.figure import Figure

    from score_jax.report_style import MUTED, STYLE, color

    steps = [row["step"] for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.6), dpi=100, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        above.set_title(title, loc="left", fontweight="bold")
        above.plot(steps, [row["loss_jax"] for row in rows], color=color(0), label="JAX")
        above.plot(
            steps, [row["loss_torch"] for row in rows], color=color(1), label="PyTorch",
            linestyle=(0, (3, 3)),
        )  # fmt: skip
        above.set_ylabel("loss")
        above.set_ylim(bottom=0)
        above.legend(frameon=False)
        curves = {
            "loss": [abs(row["loss_jax"] - row["loss_torch"]) for row in rows],
            "parameters": [row["params"] for row in rows],
            "averaged parameters": [row["ema_params"] for row in rows],
            "BatchNorm statistics": [row["batch_stats"] for row in rows],
        }
        for index, (label, values) in enumerate(curves.items()):
            below.plot(steps, [max(v, 1e-17) for v in values], color=color(index), label=label)
        below.set_yscale("log")
        below.minorticks_off()
        below.set_ylabel("largest difference", color=MUTED)
        below.set_xlabel("step", loc="left")
        handles, labels = below.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def _measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    return measure(
        objective=given.objective, data=given.data, model=given.model, num_steps=given.steps,
        batch_size=given.batch_size, precision=given.precision, random=given.random,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objective", choices=("score", "trades"), default="score")
    parser.add_argument("--data", choices=sorted(RECIPES), default="digits")
    parser.add_argument("--model", default="", help="'': cnn-3 or wrn-10-1-swish")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="float64")
    parser.add_argument("--random", action="store_true", help="noise instead of images")
    parser.add_argument("--out", default="", help="folder for JSON and plots")
    given = parser.parse_args()
    if given.steps < 1 or given.batch_size < 2:
        parser.error("--steps must be 1 or more, --batch_size 2 or more")
    try:
        rows = _measure(given)
    except UserError as error:
        parser.error(str(error))
    model = given.model or MODELS[given.data]
    images = f"random images like {given.data}" if given.random else given.data
    title = f"{given.objective}, {model}, {images}, {given.precision}"
    print(title)
    print("\n".join(describe(rows)))
    if given.out:
        from score_jax.report_style import to_png, to_svg

        folder = Path(given.out)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"parity_{given.objective}_{model}_{given.precision}_{given.steps}"
        record = {**vars(given), "model": model, "rows": rows}
        (folder / f"{stem}.json").write_text(json.dumps(record, indent=1))
        figure = draw(rows, title)
        (folder / f"{stem}.png").write_bytes(to_png(figure))
        (folder / f"{stem}.svg").write_text(to_svg(figure))
        print(f"written to {folder}")


if __name__ == "__main__":
    main()
