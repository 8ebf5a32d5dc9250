"""A sheet of what the training step makes of images: their augmentations, CutMix and all."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax import recipes
from score_jax.data import pipeline, sheet, sources
from score_jax.data.datasets import DatasetSpec
from score_jax.train_step import prepare, run_keys, step_keys
from score_jax.types import Array, UserError

COLUMNS = 8  # Augmentations of each image.


def preview(config: ConfigDict, out: str, rows: int = 8) -> str:
    """Writes a PNG with a row for each of the first images of a run: as it is, then augmented.

    The images are those of the run's first batch. The first augmentation is the one that the first
    step sees, byte for byte; the others are what the next steps would make of the same batch. Under
    an image that CutMix made stand the largest two shares of its target.

    Args:
      config: as `config.validate` accepts it.
      out: the PNG file.
      rows: images; at most those of the batch are shown.

    Raises:
      UserError: unprepared data, or a file that is no PNG or cannot be written.
    """
    sheet.check_name(out)
    recipe = recipes.build(config).recipe
    spec = sources.spec(config.data.name, config.data.dir)
    batch = pipeline.open_training_data(config).batch_at(0)
    if rows < 1:
        raise UserError(f"--num_examples={rows} shows no image; give 1 or more")
    rows = min(rows, len(batch["images"]))
    versions = recipe.cutmix or recipe.augmented_views
    key = run_keys(config.seed)[1]

    @jax.jit
    def augmented(batch: dict[str, Array], step: Array) -> tuple[Array, Array]:
        augment_key, _, cutmix_key, _ = step_keys(key, step)
        made = prepare(recipe, batch, augment_key, cutmix_key, step)
        first = jnp.arange(versions)[:, None] * batch["images"].shape[0] + jnp.arange(rows)[None, :]
        return made.images[first], made.target_probs[first]

    steps = [augmented(batch, jnp.int32(step)) for step in range(-(-COLUMNS // versions))]
    images = np.concatenate([np.asarray(made) for made, _ in steps])[:COLUMNS]
    probs = np.concatenate([np.asarray(each) for _, each in steps])[:COLUMNS]
    shown = np.concatenate([batch["images"][None, :rows], np.round(images * 255).astype(np.uint8)])
    captions = []
    for i in range(rows):
        own = _name(spec, int(batch["labels"][i]))
        captions.append(f"{own}\n(generated)" if batch["generated"][i] else own)
        captions += [_mixture(spec, each[i]) if recipe.cutmix else "" for each in probs]
    title = f"{config.data.name}: {_told(config)}"
    png = sheet.sheet(
        np.swapaxes(shown, 0, 1).reshape(-1, *shown.shape[2:]), captions, len(shown), title=title
    )
    path = sheet.save(out, png)
    return f"{path}: {rows} images of the first batch, {len(probs)} augmentations of each ({title})"


def _told(config: ConfigDict) -> str:
    mixed = f", CutMix in {config.data.cutmix} versions" if config.data.cutmix else ""
    views = f", {config.data.augmented_views} views" if config.data.augmented_views > 1 else ""
    return f"{config.data.augmentation}{mixed}{views}, seed {config.seed}"


def _name(spec: DatasetSpec, label: int) -> str:
    return spec.class_names[label] if label < len(spec.class_names) else f"class {label}"


def _mixture(spec: DatasetSpec, probs: np.ndarray) -> str:
    """The classes of a target, the larger share first."""
    first, second = np.argsort(-probs, kind="stable")[:2]
    lines = [f"{probs[first]:.0%} {_name(spec, int(first))}"]
    if probs[second] > 1.5 * np.median(probs) + 1e-3:  # Else what label smoothing gives to all.
        lines.append(f"{probs[second]:.0%} {_name(spec, int(second))}")
    return "\n".join(lines)
