"""What training makes of datasets other than CIFAR: shapes, augmentation, a few real steps."""

import jax
import numpy as np
import pytest

from score_jax import export, prepare, recipes, train
from score_jax.data import augment, sources
from tests import fuzz_sources, official_files
from tests.helpers import digits_config

SETS = {
    "mnist": fuzz_sources.mnist_zipped,
    "svhn": fuzz_sources.svhn_compressed,
    "tiny_imagenet": fuzz_sources.tiny_imagenet_zip,
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    "model",
    [
        "wrn-10-1-swish",
        pytest.param("preact-resnet-18-swish", marks=pytest.mark.slow),
        pytest.param("small-cnn", marks=pytest.mark.slow),
        pytest.param("resnet-50", marks=pytest.mark.slow),
    ],
)
def test_networks_take_its_images(name, model):
    spec = sources.DATASETS[name]
    run = recipes.build(digits_config(f"data.name={name}", f"model.name={model}"))
    classifier = run.recipe.classifier
    images = jax.ShapeDtypeStruct((4, *spec.image_shape), np.float32)

    def logits(images):
        params, batch_stats = classifier.init(jax.random.key(0))
        return classifier.logits(params, batch_stats, images)

    assert jax.eval_shape(logits, images).shape == (4, spec.num_classes)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("augmentation", ["pad_crop_flip", "pad_crop_flip_rotate"])
def test_augmentations_keep_its_shape(name, augmentation):
    images = jax.ShapeDtypeStruct((4, *sources.DATASETS[name].image_shape), np.uint8)
    augmented = jax.eval_shape(augment.AUGMENTATIONS[augmentation], jax.random.key(0), images)
    assert augmented.shape == images.shape and augmented.dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_it_is_prepared_trained_on_and_exported(name, tmp_path, monkeypatch):
    official_files.shrink(monkeypatch, name, **fuzz_sources.SIZES[name])
    data_dir = str(tmp_path / "data")
    prepare.prepare(name, [str(SETS[name](tmp_path))], data_dir)
    config = digits_config(
        f"data.name={name}", f"data.dir={data_dir}", "data.augmentation=pad_crop_flip",
        "data.batch_size=8", "data.validation_size=8", "validation.batch_size=8",
        "num_epochs=1", "steps_per_epoch=3", "eps=8/255",
    )  # fmt: skip
    workdir = str(tmp_path / "run")
    train.train(config, workdir)
    export.export(workdir)
    model = (tmp_path / "run" / "export" / "model.json").read_text()
    assert f'"dataset": "{name}"' in model
