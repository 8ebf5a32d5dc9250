import json

import pytest

from score_jax import config as config_module
from score_jax import overrides
from score_jax.types import UserError


def changed(*texts):
    return overrides.apply(config_module.default(), texts)


def test_the_default_is_possible_and_gives_no_warning():
    assert config_module.validate(config_module.default(), train_size=50000) == []


def test_eps_and_norm_have_one_home():
    config = changed("eps=4/255", "norm=l2")
    for attack in (config.attack, config.validation.attack):
        assert (attack.eps, attack.norm) == (4 / 255, "l2")


def test_an_attack_may_leave_the_common_radius():
    config = changed("validation.attack.eps=16/255")
    assert (config.eps, config.attack.eps) == (8 / 255, 8 / 255)
    assert config.validation.attack.eps == 16 / 255


def test_a_recipe_replaces_a_section_and_mistakes_in_fields_are_refused():
    config = config_module.default()
    config.objective = dict(name="madry")
    assert config.objective.to_dict() == {"name": "madry"}
    with pytest.raises(AttributeError):
        config.attack.epss = 0.1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["eps=8"], "config.eps=8 is not a radius in pixel units: images are in [0, 1]; write 8/2"),
        (["eps=1"], "config.eps=1 is not a radius in pixel units"),
        (["attack.eps=None"], "config.attack.eps=None is not optional; give it a value"),
        (["attack.eps=8"], "config.attack.eps=8 is not a radius"),
        (["eps=-8/255"], "config.eps=-0.0313725 is not a radius"),
        (["eps=nan"], "config.eps=nan is not a finite number"),
        (["norm=linff"], "config.norm='linff' is unknown; known: linf, l2; did you mean 'linf'?"),
        (["precision.attack=fp16"], "config.precision.attack='fp16' is unknown"),
        (["attack.start=unifrom"], "did you mean 'uniform'?"),
        (["attack.statistics=eval"], "config.attack.statistics='eval' is unknown"),
        (["schedule.unit=epochs"], "did you mean 'epoch'?"),
        (["optimizer.weight_decay_roles=kernel,scale"], "weight_decay_roles='scale' is unknown"),
        (["batchnorm.groups=3"], "batch_size=512 must be divisible by config.batchnorm.groups=3"),
        (["batchnorm.groups=3"], "use 510 or 513"),
        (["data.batch_size=0"], "config.data.batch_size=0 must be at least 1"),
        (["data.validation_size=-1"], "config.data.validation_size=-1 must be at least 1"),
        (["data.validation_size=50000"], "leaves nothing to train on: cifar10 has 50000"),
        (["num_epochs=0"], "config.num_epochs=0 must be at least 1"),
        (["data.generated_fraction=1"], "config.data.generated_fraction=1.0 must be below 1.0"),
        (["data.generated_fraction=0"], "config.data.generated_fraction=0.0 must be above 0"),
        (["attack.step_size=0"], "config.attack.step_size=0.0 must be above 0; write"),
        (["validation.attack.step_size=-1"], "config.validation.attack.step_size=-1.0 must be abo"),
        (["schedule.learning_rate=-1"], "config.schedule.learning_rate=-1.0 must be at least 0"),
        (["ema.decay=1"], "config.ema.decay=1.0 must be below 1.0"),
        (["ema.warmup_fraction=1.5"], "config.ema.warmup_fraction=1.5 must be at most 1.0"),
        (["batchnorm.first_step_momentum=2"], "first_step_momentum=2.0 must be at most 1.0"),
        (["optimizer.weight_decay=-1"], "config.optimizer.weight_decay=-1.0 must be at least 0"),
        (["large_batch.warmup_epochs=401"], "warmup_epochs=401.0 is longer than the run, num_epo"),
    ],
)
def test_the_impossible_is_refused_in_one_line(texts, message):
    with pytest.raises(UserError) as refusal:
        config_module.validate(changed(*texts), train_size=50000)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "texts",
    [
        ["attack.num_steps=1", "attack.step_size=8/255", "attack.start=zero"],
        ["batchnorm.first_step_momentum=1"],
        ["norm=l2", "eps=1.0", "attack.step_size=0.25", "validation.attack.step_size=0.1"],
        ["schedule.learning_rate=0", "data.validation_size=1", "ema.warmup_fraction=1"],
        ["eps=0"],
        ["validation.attack.name=apgd-ce", "validation.attack.num_steps=3"],
        ["optimizer.name=lars", "optimizer.trust_coefficient=0.02"],
        ["large_batch.reference_batch_size=128", "large_batch.warmup_epochs=400"],
    ],
)
def test_the_unusual_is_allowed(texts):
    assert config_module.validate(changed(*texts), train_size=50000) == []


@pytest.mark.parametrize(
    ("texts", "warning"),
    [
        (["attack.num_steps=3"], "step_size*num_steps=0.02353 cannot reach the boundary"),
        (["eps=0.031"], "config.eps=0.031 looks like 8/255=0.031373 rounded"),
        (["norm=l2", "eps=128"], "config.eps=128 is large for l2"),
        (["optimizer.momentum=0.8"], "config.optimizer.momentum=0.8 is not used"),
        (["optimizer.momentum=0.8", "optimizer.name=lamb", "schedule.cycle_momentum=false"],
         "momentum=0.8 is not used: lamb's first moment has 0.9"),
        (["optimizer.trust_coefficient=0.01"], "is not used: sgd has none"),
        (["large_batch.warmup_epochs=5"], "set config.large_batch.reference_batch_size"),
        (["large_batch.reference_batch_size=128", "optimizer.name=lamb"], "take the square root"),
    ],
)  # fmt: skip
def test_the_doubtful_is_told(texts, warning):
    warnings = config_module.validate(changed(*texts))
    assert any(warning in line for line in warnings), warnings


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("attack", "config.attack is missing"),
        ("objective.name", "config.objective has no name"),
        ("ema.decay", "config.ema.decay is missing"),
        ("validation.attack.loss", "config.validation.attack.loss is missing"),
    ],
)
def test_a_missing_field_is_named(path, message):
    data = config_module.to_dict(config_module.default())
    *sections, leaf = path.split(".")
    inner = data
    for section in sections:
        inner = inner[section]
    del inner[leaf]
    with pytest.raises(UserError, match=message):
        config_module.validate(config_module.from_json(json.dumps(data)))


def test_json_holds_the_same_config():
    config = changed("eps=8/255", "batchnorm.first_step_momentum=1.0")
    again = config_module.from_json(config_module.to_json(config))
    assert config_module.to_dict(again) == config_module.to_dict(config)
    assert again.eps == 8 / 255
    assert again.optimizer.weight_decay_roles == ("kernel", "bias")
    assert again.is_locked


@pytest.mark.parametrize("text", ["3", "[]", "{"])
def test_text_that_is_no_config_is_refused(text):
    with pytest.raises(ValueError):
        config_module.from_json(text)


def test_differences_name_fields_and_both_values():
    there, here = config_module.default(), changed("objective.beta=5", "data.batch_size=256")
    there.objective = dict(name="score", beta=4.0)
    here.objective = dict(name="score", beta=5.0, clip=0.1)
    lines = config_module.differences(config_module.to_dict(there), config_module.to_dict(here))
    assert lines == [
        "data.batch_size: 512 there, 256 here",
        "objective.beta: 4.0 there, 5.0 here",
        "objective.clip: absent there, 0.1 here",
    ]


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (128 / 255, "128/255"), (0.5, "0.5"), (0.2, "0.2"), (1.0, "1.0")]
    + [(0.031, "0.031"), (0.0, "0.0"), (1, "1.0"), (16 / 255 + 1e-12, "16/255")],
)  # fmt: skip
def test_radii_are_written_as_people_write_them(eps, text):
    assert config_module.write_eps(eps) == text


def test_steps_of_a_run():
    config = changed("num_epochs=3", "data.batch_size=512")
    assert config_module.steps_per_epoch(config, 50000) == 98
    assert config_module.num_train_steps(config, 50000) == 294
    assert config_module.num_train_steps(changed("num_epochs=3", "steps_per_epoch=5"), 50000) == 15


def test_every_choice_is_described():
    lines = list(config_module.describe(config_module.default()))
    fields = dict(overrides.flatten(config_module.to_dict(config_module.default())))
    text = "\n".join(lines)
    assert all(f"{name.split('.')[-1]}=" in text for name in fields)
    assert lines[0].startswith("run: eps=8/255 ")
    assert len(lines) == 1 + sum(
        not isinstance(v, (int, float, str)) for v in config_module.default().values()
    )
