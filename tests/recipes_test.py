"""From configs to the objects of a run, at the published sizes."""

import dataclasses

import jax
import pytest

from score_jax import config as config_lib
from score_jax import recipes
from score_jax.types import UserError

FORMS = (
    "cifar10_score.py:model=wrn-70-16-swish,beta=3",
    "cifar10_score.py:threat=l2",
    "cifar10_trades.py:recipe=original",
    "cifar10_madry.py:model=wrn-34-20-relu",
    "cifar10_madry.py:threat=l2",
    "cifar10_gowal.py",
    "cifar10_yang.py",
    "cifar100_awp.py",
)


@pytest.mark.parametrize("form", FORMS)
def test_published_sizes_build(form):
    config = config_lib.load(f"configs/{form}")
    config_lib.validate(config, train_size=50000)
    run = recipes.build(config)
    assert run.num_train_steps == config.num_epochs * run.steps_per_epoch > 0
    assert config.attack.eps == config.validation.attack.eps == config.eps
    params, _ = jax.eval_shape(run.recipe.classifier.init, jax.random.key(0))
    assert jax.tree.leaves(params)


def test_score_recipe_is_the_published_one():
    """SCORE's README and reference numbers: 98 steps an epoch, warm-up of the average 980."""
    config = config_lib.load("configs/cifar10_score.py")
    run = recipes.build(config)
    assert (run.steps_per_epoch, run.num_train_steps) == (98, 39200)
    assert run.recipe.ema_warmup_steps == pytest.approx(980)
    assert float(run.rates.learning_rate(0)) == pytest.approx(0.008)
    assert float(run.rates.momentum(98 * 9)) == pytest.approx(0.85)
    assert run.recipe.first_step_momentum == 1.0
    assert run.recipe.attack.num_steps == 10 and run.judge.attack.num_steps == 40
    assert run.judge.loss == "margin" and run.recipe.attack_statistics == "batch"


def test_an_attack_of_autoattack_may_judge(monkeypatch):
    attack = ["validation.attack.name=apgd-t", "validation.attack.num_steps=20"]
    config = config_lib.load("configs/cifar10_score.py", [f"config.{field}" for field in attack])
    judge = recipes.build(config).judge
    assert (judge.name, judge.eps, judge.norm) == ("apgd_t20", 8 / 255, "linf")
    few = dataclasses.replace(recipes.sources.DATASETS["cifar10"], num_classes=3)
    monkeypatch.setitem(recipes.sources.DATASETS, "cifar10", few)
    with pytest.raises(UserError, match="name=apgd-t needs 4 classes or more, cifar10 has 3"):
        recipes.build(config)


def test_a_large_batch_scales_the_rate_that_is_used_and_logged():
    def built(*fields):
        fields = ["data.batch_size=256", "schedule.unit=step", *fields]
        run = recipes.build(config_lib.load("configs/digits_score.py", fields))
        gradients = params = jax.tree.map(lambda _: jax.numpy.ones(()), run.recipe.classifier.roles)
        optimizer = run.recipe.optimizer
        updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
        return run, float(jax.tree.leaves(updates)[0])

    own, own_update = built()
    large, large_update = built("large_batch.reference_batch_size=64")
    assert large_update == pytest.approx(4 * own_update)
    warmup = f"large_batch.warmup_epochs={10 / own.steps_per_epoch}"
    warmed, _ = built("large_batch.reference_batch_size=64", warmup)
    for step, factor in ((0, 1), (5, 2.5), (10, 4), (30, 4)):
        rate = float(own.rates.learning_rate(step))
        assert float(warmed.rates.learning_rate(step)) == pytest.approx(factor * rate)
        assert float(large.rates.learning_rate(step)) == pytest.approx(4 * rate)


def test_l2_attack_is_the_one_of_the_score_code():
    attack = recipes.build(config_lib.load("configs/cifar10_score.py:threat=l2")).recipe.attack
    assert attack.step_size == pytest.approx(0.10039, abs=1e-5)
    assert attack.start == "normal" and attack.threat.zero_gradient == "noise"


def test_smoke_keeps_a_network_that_was_asked_for():
    config = config_lib.load("configs/cifar10_score.py:model=wrn-16-1-swish,smoke")
    assert config.model.name == "wrn-16-1-swish" and config.data.batch_size == 128


def test_original_trades_is_for_linf():
    with pytest.raises(UserError, match="recipe=original is for threat=linf"):
        config_lib.load("configs/cifar10_trades.py:recipe=original,threat=l2")


def test_generated_set_is_no_training_set():
    config = config_lib.load("configs/cifar10_score.py", ["data.name=cifar10_ddpm"])
    with pytest.raises(UserError, match="train on cifar10 with --config.data.generated"):
        recipes.build(config)


def test_every_field_of_the_objective_can_be_overridden():
    config = recipes.load("configs/cifar10_madry.py", ["objective.keep_clean=true"])
    assert config.objective.keep_clean is True
    config = recipes.load("configs/cifar10_score.py", ["objective.cutmix=true"])
    assert config.objective.to_dict() == dict(
        name="score", beta=4.0, clip=0.0, cutmix=True, label_smoothing=0.0, smoothing="others"
    )
    assert (config.model.dropout, config.model.init, config.model.remat) == (0.0, "torch", False)


def test_another_objective_begins_with_its_own_fields():
    overrides = ["config.objective.name=gairat", "objective.weight_lambda=0"]
    config = recipes.load("configs/cifar10_score.py", overrides)
    assert config.objective.name == "gairat" and "beta" not in config.objective
    assert (config.objective.weight_lambda, config.objective.burn_in_epochs) == (0.0, 59)
    recipes.build(config)
    with pytest.raises(UserError, match="unknown config.objective.name 'gairatt'.*'gairat'"):
        recipes.build(recipes.load("configs/cifar10_score.py", ["objective.name=gairatt"]))


def test_a_model_field_that_is_none_is_refused(tmp_path):
    recipe = tmp_path / "typo.py"
    recipe.write_text(
        "from configs import common\n"
        "def get_config():\n"
        "    config = common.default()\n"
        "    with config.unlocked():\n"
        "        config.model.dropuot = 0.5\n"
        "    return config\n"
    )
    with pytest.raises(UserError, match="config.model has no field 'dropuot'; it has name, remat"):
        recipes.load(str(recipe))
