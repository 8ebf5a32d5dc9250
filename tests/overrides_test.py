import textwrap

import pytest

from configs import common
from score_jax import config as config_module
from score_jax import overrides
from score_jax.types import UserError


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and gives its path."""

    def write(text, name="recipe.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


GOOD = """
    from configs import common

    def get_config(arg=""):
        arg = common.parse_arg(arg, model="wrn-28-10-swish", smoke=False)
        config = common.default()
        config.model.name = arg.model
        config.num_epochs = 2 if arg.smoke else 400
        config.schedule = dict(name="step", learning_rate=0.1, unit="epoch", milestones=(75, 90))
        return config

    def sweep():
        for beta in (3.0, 4.0):
            yield {"config.objective.beta": beta, "eps": 4 / 255}
    """


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("eps=8/255", "eps", 8 / 255),
        ("config.eps=0.5", "eps", 0.5),
        ("--config.eps=.25", "eps", 0.25),
        ("objective.beta=3", "objective.beta", 3.0),
        ("num_epochs=1e3", "num_epochs", 1000),
        ("seed=9007199254740993", "seed", 9007199254740993),
        ("log.tensorboard=true", "log.tensorboard", True),
        ("optimizer.nesterov=False", "optimizer.nesterov", False),
        ("optimizer.weight_decay_roles=kernel", "optimizer.weight_decay_roles", ("kernel",)),
        ("optimizer.weight_decay_roles=('bias',)", "optimizer.weight_decay_roles", ("bias",)),
        ("batchnorm.update_order=adversarial,clean", "batchnorm.update_order",
         ("adversarial", "clean")),
        ("batchnorm.first_step_momentum=1", "batchnorm.first_step_momentum", 1.0),
        ("data.dir=/a=b", "data.dir", "/a=b"),
        ("data.generated=", "data.generated", ""),
    ],
)  # fmt: skip
def test_text_becomes_a_value_of_the_field(text, field, value):
    config = overrides.apply(config_module.default(), [text])
    found = dict(overrides.flatten(config.to_dict()))[field]
    assert found == value
    assert type(found) is type(value)


def test_fields_that_show_no_type_take_what_the_text_looks_like():
    config = config_module.default()
    config.objective = dict(name="score", milestones=(), extra=None)
    overrides.apply(config, ["objective.milestones=75,0.5,late", "objective.extra=3"])
    assert config.objective.milestones == (75, 0.5, "late")
    assert config.objective.extra == 3


def test_an_optional_field_is_cleared_again():
    texts = ["batchnorm.first_step_momentum=1", "batchnorm.first_step_momentum=None"]
    assert overrides.apply(config_module.default(), texts).batchnorm.first_step_momentum is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attack.epss=1", "no field 'attack.epss'; did you mean 'attack.eps'?"),
        ("eps.x=1", "no field 'eps.x'"),
        ("zzzzzz=1", "no field 'zzzzzz'; known sections: "),
        ("data.batch_size=many", "config.data.batch_size='many' is not an integer"),
        ("data.batch_size=1.5", "config.data.batch_size='1.5' is not an integer"),
        ("num_epochs=1e-3", "config.num_epochs='1e-3' is not an integer"),
        ("num_epochs=inf", "config.num_epochs='inf' is not an integer"),
        ("seed=None", "config.seed='None' is not an integer"),
        ("eps=eight", "config.eps='eight' is not a number"),
        ("eps=8/0", "config.eps='8/0' is not a number"),
        ("log.tensorboard=maybe", "config.log.tensorboard='maybe' is not a boolean"),
        ("attack=3", "config.attack is a section; set one of its fields: attack."),
        ("eps", "'eps' is not FIELD=VALUE"),
    ],
)
def test_a_mistake_is_one_line(text, message):
    with pytest.raises(UserError) as refusal:
        overrides.apply(config_module.default(), [text])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_recipe_is_loaded_with_argument_and_overrides(recipe):
    path = recipe(GOOD)
    config = config_module.load(f"{path}:smoke,model=cnn-3", ["schedule.milestones=1,2,3"])
    assert (config.num_epochs, config.model.name) == (2, "cnn-3")
    assert config.schedule.milestones == (1, 2, 3)
    assert config.schedule.is_locked
    assert config_module.load(path).num_epochs == 400
    with pytest.raises(UserError, match="milestones='x' is not an integer"):
        config_module.load(path, ["schedule.milestones=x"])


@pytest.mark.parametrize(
    ("text", "arg", "message"),
    [
        (GOOD, ":smok", "unknown argument 'smok'; known: model, smoke; did you mean 'smoke'?"),
        ("x = 1", "", "no function get_config"),
        ("def get_config(): return 3", "", "get_config returned int, not a ConfigDict"),
        ("def get_config(): return {}['a']", "", "get_config raised KeyError: 'a'"),
        ("def get_config(): pass", ":a", "get_config raised TypeError: "),
        ("import nothing_of_that_name", "", "importing it raised ModuleNotFoundError"),
        ("def get_config(:", "", "importing it raised SyntaxError"),
    ],
)
def test_a_bad_recipe_is_one_line(recipe, text, arg, message):
    with pytest.raises(UserError) as refusal:
        config_module.load(recipe(text) + arg)
    assert message in str(refusal.value)
    assert "recipe.py" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_recipe_may_refuse_in_its_own_words(recipe):
    path = recipe("""
        from score_jax.types import UserError

        def get_config():
            raise UserError("told")
        """)
    with pytest.raises(UserError, match="^told$"):
        config_module.load(path)


def test_a_recipe_is_a_python_file(tmp_path):
    (tmp_path / "recipe.txt").write_text("")
    with pytest.raises(UserError, match="its name ends in .py"):
        config_module.load(str(tmp_path / "recipe.txt"))


def test_a_recipe_is_found_from_here_and_next_to_the_package(recipe, tmp_path, monkeypatch):
    recipe(GOOD, "near.py")
    monkeypatch.chdir(tmp_path)
    assert overrides.find_recipe("near.py") == (tmp_path / "near.py").resolve()
    assert overrides.find_recipe("near") == (tmp_path / "near.py").resolve()
    common_file = overrides.ROOT / "configs" / "common.py"
    assert overrides.find_recipe("configs/common.py") == common_file
    with pytest.raises(UserError, match="--config=far.py: no such file; known: .*configs/"):
        overrides.find_recipe("far.py")
    with pytest.raises(UserError, match="did you mean configs/cifar10_score.py?"):
        overrides.find_recipe("configs/cifar10_scor.py")


def test_loading_leaves_the_module_path_alone(recipe):
    import sys

    before = list(sys.path)
    config_module.load(recipe(GOOD))
    assert sys.path == before


def test_a_sweep_is_a_list_of_overrides(recipe):
    path = recipe(GOOD) + ":smoke"
    settings = overrides.load_sweep(path)
    assert [setting.overrides for setting in settings] == [
        (f"objective.beta={beta}", f"eps={4 / 255!r}") for beta in (3.0, 4.0)
    ]
    assert [setting.recipe for setting in settings] == [path, path]
    assert settings[0].name == f"objective.beta=3.0,eps={4 / 255!r}"
    assert overrides.apply(config_module.default(), settings[0].overrides).attack.eps == 4 / 255
    with pytest.raises(UserError, match="no function sweep"):
        overrides.load_sweep(recipe("x = 1"))


def test_a_sweep_may_be_of_arguments(recipe):
    path = recipe("def sweep():\n    yield 'method=mart'\n    yield ''\n    yield 'a=b/c,d'\n")
    settings = overrides.load_sweep(f"{path}:smoke")
    assert [setting.recipe for setting in settings] == [
        f"{path}:smoke,method=mart", f"{path}:smoke", f"{path}:smoke,a=b/c,d"
    ]  # fmt: skip
    assert [setting.name for setting in settings] == ["method=mart", "default", "a=b_c,d"]
    assert overrides.load_sweep(path)[0].recipe == f"{path}:method=mart"
    with pytest.raises(UserError, match="yields 'a=b_c' twice"):
        overrides.load_sweep(recipe("def sweep():\n    yield 'a=b/c'\n    yield dict(a='b/c')\n"))


@pytest.mark.parametrize("value", [3, 0.1, True, "a", (1, 2), ("kernel", "bias"), 8 / 255, 1e-8])
def test_what_is_written_is_read_again(value):
    assert overrides.parse(overrides.write(value), value, type(value), "field") == value


def test_arguments_of_recipes_have_types():
    arg = common.parse_arg("model=a,smoke,beta=1/2,n=1e3", model="", smoke=False, beta=1.0, n=0)
    assert vars(arg) == dict(model="a", smoke=True, beta=0.5, n=1000)
    assert vars(common.parse_arg(None, smoke=False)) == dict(smoke=False)
    assert common.parse_arg("smoke=false", smoke=True).smoke is False


@pytest.mark.parametrize("arg", ["n=x", "beta=1/0", "smoke=2", "n", "other=1"])
def test_wrong_arguments_of_recipes_are_refused(arg):
    with pytest.raises(ValueError, match="argument"):
        common.parse_arg(arg, smoke=False, beta=1.0, n=0)
