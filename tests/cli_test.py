import json
import logging
import shlex
import sys
import types

import pytest

import score_jax
from score_jax import cli, workdir, writers
from score_jax import config as config_module
from score_jax.types import UserError

RECIPE = """
from configs import common

def get_config(arg=""):
    arg = common.parse_arg(arg, smoke=False)
    config = common.default()
    with config.unlocked():
        config.num_epochs = 2 if arg.smoke else 400
    return config

def sweep():
    for beta in (3.0, 4.0):
        yield {"objective.beta": beta}
"""


@pytest.fixture(autouse=True)
def quiet_root_logger():
    handlers, level = list(logging.getLogger().handlers), writers.LOGGER.level
    yield
    logging.getLogger().handlers[:] = handlers
    writers.LOGGER.setLevel(level)


@pytest.fixture
def job(monkeypatch):
    """Puts a stand-in where a job imports its module; the stand-in keeps what it is called with."""

    def replace(module, function, result=None):
        calls = []

        def record(*args, **kwargs):
            calls.append((args, kwargs))
            if isinstance(result, BaseException):
                raise result
            return result

        stand_in = types.SimpleNamespace(**{function: record})
        monkeypatch.setitem(sys.modules, f"score_jax.{module}", stand_in)
        monkeypatch.setattr(score_jax, module, stand_in, raising=False)
        return calls

    return replace


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return str(path)


def test_train_gets_the_resolved_config_and_tells_its_choices(job, recipe, tmp_path, capsys):
    calls = job("train", "train", {"steps": 3})
    arguments = [f"--config={recipe}:smoke", f"--workdir={tmp_path / 'run'}", "--data_dir=/data"]
    arguments += [
        "--config.objective.beta=3",
        "--config.eps",
        "4/255",
        "--noconfig.optimizer.nesterov",
    ]
    assert cli.main(["train", *arguments]) == 0
    (config, folder), _ = calls[0]
    assert (config.num_epochs, config.objective.beta, config.attack.eps) == (2, 3.0, 4 / 255)
    assert (config.data.dir, config.optimizer.nesterov, config.is_locked) == ("/data", False, True)
    assert folder == str(tmp_path / "run")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"steps": 3}
    assert err.startswith("run: eps=4/255 ")
    assert "\nobjective: beta=3.0 " in err


def test_train_tells_what_is_doubtful(job, recipe, tmp_path, capsys):
    job("train", "train")
    arguments = [f"--config={recipe}", f"--workdir={tmp_path}", "--config.eps=0.031"]
    assert cli.main(["train", *arguments, "--log_level=warning"]) == 0
    assert capsys.readouterr().err.startswith("warning: config.eps=0.031 looks like 8/255")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attack.epss=1", "no field 'attack.epss'; did you mean 'attack.eps'?"),
        ("data.batch_size=many", "config.data.batch_size='many' is not an integer"),
        ("eps=8", "config.eps=8 is not a radius in pixel units"),
        ("data.validation_size=50000", "cifar10 has 50000 training images"),
    ],
)
def test_a_wrong_config_never_reaches_training(job, recipe, tmp_path, capsys, override, message):
    calls = job("train", "train")
    arguments = [f"--config={recipe}", f"--workdir={tmp_path}", f"--config.{override}"]
    assert cli.main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("score-jax train: ") and message in err
    assert (out, err.count("\n"), calls) == ("", 1, [])


def test_a_run_goes_on_without_naming_its_recipe(job, tmp_path):
    calls = job("train", "train")
    workdir.open_workdir(tmp_path, config_module.default(), [])
    assert cli.main(["train", f"--workdir={tmp_path}"]) == 0
    (config, _), _ = calls[0]
    assert config_module.to_dict(config) == config_module.to_dict(config_module.default())


def test_a_sweep_is_listed_as_commands_that_train_its_settings(job, recipe, tmp_path, capsys):
    calls = job("train", "train")
    base = [f"--config={recipe}:smoke", f"--workdir={tmp_path / 'a b'}", "--config.seed=7"]
    base.append("--data_dir=/data")
    assert cli.main(["train", *base, "--list_sweep"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert not calls
    assert [command[:2] for command in commands] == [["score-jax", "train"]] * 2
    for index, command in enumerate(commands):
        assert cli.main(command[1:]) == 0
        assert cli.main(["train", *base, f"--sweep_index={index}"]) == 0
        pasted, by_index = (args for args, _ in calls[-2:])
        assert pasted[0].to_dict() == by_index[0].to_dict()
        assert pasted[0].objective.beta == (3.0, 4.0)[index]
        assert (pasted[0].seed, pasted[0].data.dir) == (7, "/data")
        assert pasted[1] == by_index[1] == str(tmp_path / "a b" / f"objective.beta={3.0 + index}")
    assert cli.main(["train", *base, "--sweep_index=2"]) == 2
    assert "has 2 settings, 0 to 1" in capsys.readouterr().err


def test_evaluate_gets_its_flags(job, tmp_path):
    (tmp_path / "export").mkdir()
    calls = job("evaluate", "evaluate")
    assert cli.main(["evaluate", f"--workdir={tmp_path}"]) == 0
    defaults = dict(data_dir="", num_examples=0, batch_size=500, eps=None, steps=None)
    defaults |= dict(eps_curve=True, name="", seed=0, attack="pgd", split="test", restarts=None)
    defaults |= dict(step_size=None)
    assert calls[0] == ((str(tmp_path / "export"),), defaults)
    arguments = ["--artifact=b", "--eps=8/255", "--steps=7", "--noeps_curve", "--num_examples=9"]
    assert cli.main(["evaluate", *arguments]) == 0
    changed = dict(eps=8 / 255, steps=7, eps_curve=False, num_examples=9)
    assert calls[1] == (("b",), defaults | changed)


def test_autoattack_gets_its_flags(job, capsys):
    told = dict(clean_accuracy=0.9, robust_accuracy=0.5, num_examples=10)
    calls = job("official_autoattack", "run", told | dict(versions={}))
    arguments = ["--artifact=b", "--attacks=apgd-ce,square", "--norm=l1", "--eps=1", "--seed=3"]
    assert cli.main(["autoattack", *arguments, "--backend=torch"]) == 0
    expected = dict(data_dir="", num_examples=0, batch_size=500, eps=1.0, norm="l1", seed=3)
    expected |= dict(attacks=("apgd-ce", "square"), version="standard", name="autoattack")
    expected |= dict(chunk_size=500, seeding="chunk", shard="")
    assert calls == [(("b",), expected | dict(backend="torch"))]
    assert json.loads(capsys.readouterr().out) == told


def test_the_norm_of_the_artifact_decides_about_eps(job, tmp_path, capsys):
    calls = job("evaluate", "evaluate")
    for norm, code in (("l2", 0), ("linf", 2)):
        (tmp_path / "model.json").write_text(json.dumps({"norm": norm}))
        assert cli.main(["evaluate", f"--artifact={tmp_path}", "--eps=1"]) == code
    assert len(calls) == 1
    assert "--eps=1 is not a radius in pixel units" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_artifact_is_one_line(content, tmp_path, capsys):
    (tmp_path / "model.json").write_bytes(content)
    assert cli.main(["evaluate", f"--artifact={tmp_path}", "--eps=8/255"]) == 2
    errors = capsys.readouterr().err
    assert f"{tmp_path / 'model.json'} " in errors and errors.count("\n") == 1


def test_export_and_report_get_their_flags(job):
    exports, reports = job("export", "export"), job("report", "report")
    assert cli.main(["export", "--workdir=a", "--checkpoint=last", "--weights=live"]) == 0
    assert exports == [(("a",), dict(checkpoint="last", weights="live"))]
    assert cli.main(["report", "--workdir=a", "--beside=b,c"]) == 0
    assert reports == [(("a",), dict(beside=("b", "c"), data_dir=""))]


def test_data_gets_its_flags(job, capsys):
    flags = ["prepare", "mine", "--source=a", "--source=b", "--extends=mnist", "--workers=3"]
    flags += ["--size=64", "--mirror=http://m"]
    options = dict(extends="mnist", workers=3, size=64, mirror="http://m")
    prepared = (("mine",), dict(sources=("a", "b"), data_dir="d", **options))
    verify = ["verify", "edm", "--against=mnist,svhn", "--out=o"]
    for module, action, words, expected in (
        ("prepare", "prepare", flags, prepared),
        ("dataset_info", "list_datasets", ["list"], (("d",), {})),
        ("dataset_info", "info", ["info", "mnist", "--out=s.png"], (("mnist", "d", "s.png"), {})),
        ("dataset_verify", "verify", verify, (("edm", "d", ("mnist", "svhn"), "o"), {})),
    ):
        calls = job(module, action, "told")
        assert cli.main(["data", *words, "--data_dir=d"]) == 0
        assert calls == [expected]
    assert capsys.readouterr().out == "told\n" * 4


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("two\nlines"), 2, "score-jax report: two lines\n"),
        (OSError(28, "No space left on device", "/a"), 2,
         "score-jax report: [Errno 28] No space left on device: '/a'\n"),
        (ModuleNotFoundError("No", name="torch"), 2,
         "score-jax report: this job needs torch; pip install 'score_jax[torch]'\n"),
        (KeyboardInterrupt(), 130, "score-jax report: interrupted\n"),
    ],
)  # fmt: skip
def test_what_the_user_can_act_on_is_one_line(job, capsys, error, code, message):
    job("report", "report", error)
    assert cli.main(["report", "--workdir=a"]) == code
    assert capsys.readouterr().err == message


@pytest.fixture
def log(tmp_path):
    """A log file of a run, which is open."""
    path = tmp_path / "host-0000.log"
    writers.start_logging(file=path)
    yield path
    for handler in logging.getLogger().handlers:
        if getattr(handler, "baseFilename", None) == str(path):
            handler.close()


@pytest.mark.parametrize("error", [UserError("why"), KeyboardInterrupt()])
def test_the_end_of_a_run_is_in_its_log_too(job, capsys, log, error):
    job("report", "report", error)
    assert cli.main(["report", "--workdir=a"])
    (line,) = capsys.readouterr().err.splitlines()
    (kept,) = log.read_text().splitlines()
    assert kept.endswith(f" ERROR {line}") and line.startswith("score-jax report: ")


def test_the_traceback_of_a_mistake_is_in_the_log_too(job, capsys, log):
    job("report", "report", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "--workdir=a"])
    assert capsys.readouterr().err == ""  # Python prints it, once.
    assert " ERROR score-jax report: " in log.read_text()
    assert log.read_text().endswith("ZeroDivisionError: a bug\n")


def test_a_home_is_found_in_the_flags_of_folders(job, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    calls = job("report", "report")
    assert cli.main(["report", "--workdir=~/a", "--data_dir=~/b"]) == 0
    assert calls == [((f"{tmp_path}/a",), dict(beside=(), data_dir=f"{tmp_path}/b"))]


def test_debug_shows_the_traceback(job, capsys):
    job("report", "report", UserError("told"))
    assert cli.main(["report", "--workdir=a", "--log_level=debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("score-jax report: told\n")


@pytest.mark.parametrize("error", [ZeroDivisionError(), ModuleNotFoundError("No", name="jaxs")])
def test_a_mistake_of_ours_keeps_its_traceback(job, error):
    job("report", "report", error)
    with pytest.raises(type(error)):
        cli.main(["report", "--workdir=a"])
