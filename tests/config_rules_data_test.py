"""What a config may say of the images in its batches."""

import pytest

from score_jax import config as config_module
from score_jax import config_rules_data
from score_jax.types import UserError


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", {}),
        ("a", {"a": 1.0}),
        ("a:1,b:3", {"a": 1.0, "b": 3.0}),
        (" a , b : 0.5 ", {"a": 1.0, "b": 0.5}),
    ],
)
def test_sets_are_named_with_their_weights(text, expected):
    assert config_rules_data.generated_sets(text) == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(generated="a,"), "names no set before ''"),
        (dict(generated=":3"), "names no set before ':3'"),
        (dict(generated="a,a:2"), "names 'a' twice"),
        (dict(generated="a:x"), "has the weight 'x'; give a number above 0"),
        (dict(generated="a:0"), "has the weight '0'"),
        (dict(generated="a:-1"), "has the weight '-1'"),
        (dict(generated="a:inf"), "has the weight 'inf'"),
        (dict(generated=",".join(f"a{i}" for i in range(101))), "names 101 sets"),
        (dict(generated_sampling="once"), "known: replacement, permutation"),
        (dict(mixing="pools"), "did you mean 'pool'"),
        (dict(mixing="pool"), "there are none; set config.data.generated"),
        (dict(mixing="pool", generated="a:2"), "write the names alone"),
        (dict(mixing="pool", generated="a", repeats=2), "config.data.repeats=2 has no meaning"),
        (dict(mixing="pool", generated="a", emulated_workers=2), "emulated_workers=2 has no m"),
        (
            dict(mixing="pool", generated="a", generated_sampling="permutation"),
            "generated_sampling=permutation has no meaning",
        ),
        (dict(emulated_workers=2, repeats=2), "set config.data.repeats=1"),
        (dict(pseudo_labels="f.npz"), "there are none; set config.data.generated"),
        (dict(label_noise=1.5), "config.data.label_noise=1.5 must be at most 1.0"),
        (dict(take=-1), "config.data.take=-1 must be at least 0"),
    ],
)
def test_what_excludes_each_other_is_refused(changes, message):
    config = config_module.default()
    config.data.update(changes)
    with pytest.raises(UserError, match=message) as caught:
        config_module.validate(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(), ()),
        (dict(generated="a", generated_take=9, generated_fraction=0.5), ()),
        (dict(generated="a", generated_sampling="permutation"), ()),
        (dict(generated="a", mixing="pool", generated_take=9), ()),
        (dict(label_noise=0.1, label_noise_seed=3), ()),
        (dict(generated_take=9), ("generated_take=9",)),
        (dict(generated_sampling="permutation"), ("generated_sampling=permutation",)),
        (dict(generated_fraction=0.5), ("generated_fraction=0.5",)),
        (dict(generated="a", mixing="pool", generated_fraction=0.5), ("generated_fraction=0.5",)),
        (dict(label_noise_seed=3), ("label_noise_seed=3",)),
    ],
)
def test_fields_without_effect_are_told(changes, expected):
    config = config_module.default()
    config.data.update(changes)
    found = config_module.validate(config)
    assert len(found) == len(expected)
    for line, field in zip(found, expected, strict=True):
        assert line.startswith(f"config.data.{field} is not used: ") and "\n" not in line


def test_the_recipe_with_most_generated_images_repeats_none_before_all_others():
    path = "configs/cifar10_bartoldson.py"
    assert config_module.load(path).data.generated_sampling == "permutation"
    smoke = config_module.load(f"{path}:smoke")
    assert not any("generated_sampling" in line for line in config_module.validate(smoke))
