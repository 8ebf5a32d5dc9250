"""Every recipe and every published row builds; every method trains, goes on and is exported."""

import itertools
import json
import re

import jax
import pytest

from score_jax import config as config_lib
from score_jax import export, mesh, overrides, recipes, train
from score_jax.data import pipeline, sources
from score_jax.types import UserError
from tests import official_files

TABLES = overrides.load_module("configs/published.py").TABLES
ROWS = [(table, name) for table in TABLES for name in TABLES[table].rows]
FILES = [file.name for file in overrides.recipe_files()]


def settings(name):
    try:
        return overrides.load_sweep(f"configs/{name}")
    except UserError as error:
        assert "no function sweep" in str(error)
        return []


SETTINGS = [setting for name in FILES for setting in settings(name)]


def build(config):
    """The objects of a config, its network made small: building a large one takes seconds."""
    config_lib.validate(config, train_size=50000)
    config.model.name = re.sub(r"wrn-\d+-\d+-", "wrn-10-1-", config.model.name)
    return recipes.build(config)


@pytest.mark.parametrize("form", [f"{name}{arg}" for name in FILES for arg in ("", ":smoke")])
def test_every_recipe_builds(form):
    config = config_lib.load(f"configs/{form}")
    run = build(config)
    assert run.num_train_steps == config.num_epochs * run.steps_per_epoch > 0
    assert config.validation.attack.eps == config.eps
    assert not config.data.generated or not form.endswith(":smoke")
    text = (overrides.ROOT / "configs" / form.split(":")[0]).read_text()
    assert [text.count(word) for word in ("Command:", "Expected", "Cost:")] == [1, 1, 1]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.recipe)
def test_every_setting_of_a_sweep_builds(setting):
    build(config_lib.load(setting.recipe, setting.overrides))


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_a_published_row_and_its_recipe_name_each_other(table, name):
    row = TABLES[table].rows[name]
    assert len(row.values) == len(TABLES[table].columns)
    config = config_lib.load(f"configs/{row.recipe}")
    assert (config.published.table, config.published.row) == (table, name)
    assert name.endswith(config.model.name)
    if config.data.generated:
        assert sources.DATASETS[config.data.generated].extends == config.data.name
    build(config)


def test_only_the_published_setting_is_published():
    for form in ("score.py:beta=5", "score.py:threat=l2", "score.py:smoke", "madry.py",
                 "yang.py:method=at,dropout", "gowal.py:recipe=rebuffi21,cutmix",
                 "yang.py:method=llr,variant=qin2019", "fat.py:objective=trades"):  # fmt: skip
        config = config_lib.load(f"configs/cifar10_{form}")
        assert config.published.to_dict() == {"table": "", "row": ""}, form


def test_smoke_keeps_the_method():
    """What happens at an epoch happens at the same share of the ten epochs."""
    config = config_lib.load("configs/cifar10_gairat.py:method=gair-fat,smoke")
    assert config.objective.burn_in_epochs == 5
    assert (config.attack.patience, config.attack.patience_epochs) == ((0, 3, 6), (3, 6))
    assert config.schedule.boundaries == (5.0, 7.0, 9.0)
    assert config.schedule.factors == (0.1, 0.01, 0.005)
    assert (config.num_epochs, config.model.name) == (10, "wrn-10-2-relu")
    whole = config_lib.load("configs/cifar10_gairat.py:method=gair-fat")
    for name in ("norm", "eps", "batchnorm", "optimizer", "loss_reduction"):
        assert config[name] == whole[name]


SLOW = pytest.mark.slow
TRAINED = [
    *(f"{name}:smoke" for name in FILES),
    *(f"cifar10_yang.py:method={method},smoke" for method in ("natural", "gr", "llr", "rst")),
    "cifar10_yang.py:method=at,dropout,smoke",
    "cifar10_yang.py:method=llr,variant=qin2019,smoke",
    "cifar10_gairat.py:method=gair-fat,smoke",
    "cifar10_fat.py:objective=trades,smoke",
    "cifar10_bag_of_tricks.py:method=at,smoke",
    "cifar10_rst.py:method=gair,smoke",
    "cifar10_trades.py:recipe=original,smoke",
    "cifar10_gowal.py:cutmix,smoke",
    "cifar10_score.py:threat=l2,smoke",
]
TINY = (
    "num_epochs=3", "steps_per_epoch=1", "data.batch_size=8", "data.validation_size=8",
    "attack.num_steps=2", "validation.attack.num_steps=1", "validation.batch_size=8",
    "validation.every_epochs=3", "checkpoint.every_epochs=1", "log.every_steps=1",
    "log.attack_share=false", "data.prefetch=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cifar10", "cifar100", "digits"):
            official_files.shrink(patch, name, train=200, test=100)
            official_files.prepare_random(folder, name)
        yield str(folder)


@pytest.fixture(scope="module")
def quick_compiler(tmp_path_factory):
    """Programs that run three steps are not optimized, and those of a run's first part are kept."""
    options = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_numpy_dtype_promotion": "standard",  # As users have it; optax needs it for Adam.
    }
    before = {name: jax.config.values[name] for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


# In the fast suite: natural training and SCORE's.
QUICK = ("digits_natural.py", "cifar10_score.py")


@pytest.mark.parametrize(
    "form",
    [
        form if form in [f"{name}:smoke" for name in QUICK] else pytest.param(form, marks=SLOW)
        for form in TRAINED
    ],
)
def test_every_method_trains_goes_on_and_is_exported(
    form, data_dir, quick_compiler, tmp_path, monkeypatch
):
    config = config_lib.load(f"configs/{form}", [f"data.dir={data_dir}", *TINY])
    small = "cnn-3"
    if config.model.get("dropout") or config.model.get("init") == "haiku":
        small = re.sub(r"wrn-\d+-\d+-", "wrn-10-1-", config.model.name)
    config.model.name = small
    one_device = mesh.create(jax.devices()[:1])
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_batches", two_batches(pipeline.train_batches))
        with pytest.raises(Killed):
            train.train(config, str(tmp_path), one_device)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert train.train(config, str(tmp_path), one_device)["steps"] == 3
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = {line["step"]: line for line in lines if "train/loss" in line}
    assert sorted(lines) == [1, 2, 3]
    assert all(0 < line["train/loss"] < 1e4 for line in lines.values())
    export.export(str(tmp_path))
    assert export.load(tmp_path).spec["model"]["name"] == small


class Killed(Exception):
    """The end of a run that nothing announced."""


def two_batches(train_batches):
    """Dies when the third batch is asked for: the first step is saved, the second is lost."""

    def batches(*args, **given):
        yield from itertools.islice(train_batches(*args, **given), 2)
        raise Killed

    return batches
