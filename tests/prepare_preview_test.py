"""A preview shows what the training step makes of the first batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import cli, recipes
from score_jax.data import pipeline, sheet
from score_jax.prepare_preview import preview
from score_jax.train_step import prepare
from tests.data_sheet_test import read

RECIPE = "configs/digits_score.py:smoke"


def options(data_dir, *fields):
    return [f"data.dir={data_dir}", "data.augmentation=pad_crop_flip", *fields]


def first_step(resolved):
    """The batch, and the images that the first step of a run makes of it."""
    recipe, batch = recipes.build(resolved).recipe, pipeline.batch_at(resolved, 0)
    _, key, _ = jax.random.split(jax.random.key(resolved.seed), 3)
    augment_key, _, cutmix_key, _ = jax.random.split(jax.random.fold_in(key, 0), 4)
    made = jax.jit(functools.partial(prepare, recipe))
    return batch, made(batch, augment_key, cutmix_key, jnp.int32(0))


@pytest.mark.parametrize("field, versions", [("data.cutmix=2", 2)])
def test_the_first_column_is_the_image_the_next_what_the_first_step_sees(
    field, versions, data_dir, tmp_path, monkeypatch
):
    draw, drawn = sheet.sheet, {}

    def note(images, captions, columns, **options):
        drawn.update(images=images, captions=captions, columns=columns)
        return draw(images, captions, columns, **options)

    monkeypatch.setattr(sheet, "sheet", note)
    resolved = recipes.load(RECIPE, options(data_dir, field, "seed=3"))
    path = tmp_path / "sheet.png"
    told = preview(resolved, str(path), rows=3)
    assert f"{path}: 3 images" in told and "seed 3" in told
    assert drawn["columns"] == 9 and len(drawn["images"]) == len(drawn["captions"]) == 27
    assert path.read_bytes() == draw(**drawn, title=f"digits: {told.split('(digits: ')[1][:-1]}")
    batch, made = first_step(resolved)
    loaded = len(batch["images"])
    for i, shown in enumerate(drawn["images"].reshape(3, 9, 8, 8, 1)):
        np.testing.assert_array_equal(shown[0], batch["images"][i])
        assert drawn["captions"][9 * i] == str(batch["labels"][i])
        for version in range(versions):
            image = np.asarray(made.images[version * loaded + i])
            np.testing.assert_array_equal(shown[1 + version], np.round(image * 255))
            caption = drawn["captions"][9 * i + 1 + version]
            target = np.asarray(made.target_probs[version * loaded + i])
            if versions > 1:
                assert caption.startswith(f"{target.max():.0%} {target.argmax()}")
        assert len({image.tobytes() for image in shown}) > 6


def test_bytes_are_augmented_before_they_become_grey_levels(data_dir):
    resolved = recipes.load(RECIPE, options(data_dir))
    recipe, batch = recipes.build(resolved).recipe, pipeline.batch_at(resolved, 0)
    keys = jax.random.split(jax.random.key(1))

    def after(key, images):
        return recipe.augment(key, images.astype(jnp.float32) / 255)

    made = jax.jit(functools.partial(prepare, recipe))(batch, *keys, jnp.int32(0))
    assert made.images.dtype == jnp.float32
    np.testing.assert_array_equal(made.images, jax.jit(after)(keys[0], batch["images"]))


def test_the_command_draws_and_refuses_in_one_line(data_dir, tmp_path, capsys):
    command = ["data", "preview", f"--config={RECIPE}", f"--data_dir={data_dir}"]
    path = tmp_path / "new" / "sheet.png"
    assert cli.main([*command, "--num_examples=2", f"--out={path}"]) == 0
    assert "2 images of the first batch, 8 augmentations" in capsys.readouterr().out
    assert read(path.read_bytes()).ndim == 3
    assert [each.name for each in path.parent.iterdir()] == ["sheet.png"]
    for wrong, message in (
        ([f"--out={tmp_path / 'sheet.jpg'}"], "is not the name of a PNG file"),
        (["--out=/proc/nowhere/sheet.png"], "cannot be written"),
        (["--config.data.augmentation=cutuot"], "did you mean 'cutout'?"),
        (["--source=a"], "--source is for `data prepare`"),
        (["digits"], "write score-jax data preview"),
    ):
        assert cli.main([*command, *wrong]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert cli.main(["data", "preview"]) == 2
    assert cli.main(["data", "list", "--config.eps=1"]) == 2
    assert "for `data preview`, not `data list`" in capsys.readouterr().err
