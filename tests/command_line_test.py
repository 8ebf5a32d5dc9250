import os
import shlex
import subprocess
import sys

import pytest

from score_jax import cli, command_line, command_line_run, overrides


def shell(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=overrides.ROOT)


def test_help_of_everything_without_loading_jax():
    code = (
        "import sys; from score_jax import cli\n"
        "for job in cli.JOBS: assert cli.main([job, '--help']) == 0\n"
        "assert cli.main(['--help']) == 0\n"
        "assert cli.main(['train', '--wokdir=a']) == 2\n"
        "assert not {'jax', 'torch', 'numpy', 'rich'} & set(sys.modules)\n"
    )
    run = shell("-c", code)
    assert run.returncode == 0, run.stderr
    for name, entry in cli.JOBS.items():
        assert f"score-jax {name}: {entry.summary}\nExample:\n  score-jax {name}" in run.stdout


@pytest.mark.parametrize("name", [name for name, job in cli.JOBS.items() if not job.topics])
def test_help_lists_every_flag_with_default_and_choices(name, capsys):
    assert cli.main([name, "-h"]) == 0
    text = capsys.readouterr().out.partition("\nFlags:\n")[2]
    assert [line.split()[0][2:] for line in text.splitlines()] == [*cli.JOBS[name].all_flags]
    assert text.rstrip().endswith("One of: debug, info, warning, error. [info]")


TOPICS = [(name, what) for name, job in cli.JOBS.items() for what in job.topics]


@pytest.mark.parametrize(("name", "what"), TOPICS)
def test_help_of_a_topic_lists_its_own_flags(name, what, capsys):
    topic = cli.JOBS[name].topics[what]
    assert cli.main([name, what, "-h"]) == 0
    head, _, text = capsys.readouterr().out.partition("\nFlags:\n")
    assert head.startswith(f"score-jax {name} {what}: {topic.summary}\nExample:\n  score-jax ")
    assert [line.split()[0][2:] for line in text.splitlines()] == [*topic.flags, "log_level"]
    for flag, meaning in topic.meanings.items():
        assert f"  --{flag:<13} {meaning}" in text
    for example in topic.example.splitlines():
        words = shlex.split(example)
        call = cli.parse(name, cli.JOBS[name], words[2:])
        assert words[:3] == ["score-jax", name, what] and call.words == (what,)
        assert all(word[2:].partition("=")[0] in topic.flags for word in words[3:])
    assert cli.main([name, "-h"]) == 0
    assert f"\n  {what:<13} {topic.summary}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.JOBS)
def test_the_example_of_a_job_can_be_read(name):
    words = shlex.split(cli.JOBS[name].example)
    assert words[:2] == ["score-jax", name]
    cli.parse(name, cli.JOBS[name], words[2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trin"], "score-jax: unknown job 'trin'; did you mean 'train'?"),
        (["qqqq"], "score-jax: unknown job 'qqqq'; known: train, evaluate, export, autoattack"),
        (["train", "--wokdir=a"], "score-jax train: unknown flag --wokdir; did you mean '--workdi"),
        (["train", "--steps=3"], "score-jax train: unknown flag --steps; "),
        (["train"], "score-jax train: --workdir=DIR is needed: the folder of the run"),
        (["train", "--workdir=/nowhere/a"], "score-jax train: --config=PATH[:ARG] is needed"),
        (["train", "a"], "score-jax train: unexpected 'a'; flags are written --NAME=VALUE"),
        (["train", "--config.eps"], "score-jax train: --config.eps has no value; write --config.e"),
        (
            ["train", "--list_sweep"],
            "score-jax train: --config=PATH is needed: the recipe whose sw",
        ),
        (["export"], "score-jax export: --workdir=DIR is needed"),
        (["export", "--config.eps=1"], "this job reads the config that the run had"),
        (
            ["export", "--workdir=a", "--weights=emma"],
            "score-jax export: --weights=emma: value sho",
        ),
        (["evaluate", "--workdir=/nowhere"], "make it with: score-jax export --workdir=/nowhere"),
        (["evaluate", "--batch_size=0"], "score-jax evaluate: --batch_size=0: 0 is not a positive"),
        (["evaluate", "--steps=x"], "score-jax evaluate: --steps=x: invalid literal"),
        (["evaluate", "--artifact=/", "--eps=x"], "--eps=x is not a number such as 8/255"),
        (["autoattack", "--artifact=/", "--eps=8", "--norm=linf"], "is not a radius in pixel unit"),
        (["autoattack", "--artifact=/", "--eps=-1", "--norm=l2"], "--eps=-1 is not a radius"),
        (["autoattack", "--artifact=/", "--eps=nan", "--norm=l2"], "--eps=nan is not a radius"),
        (["trust", "--artifact=/", "--eps=inf"], "--eps=inf is not a radius"),
        (["data"], "data needs an action, not ''; known: prepare, list"),
        (["data", "prepar"], "did you mean 'prepare'?"),
        (["data", "prepare"], "write score-jax data prepare NAME"),
        (["data", "list", "a"], "write score-jax data list"),
        (["data", "info", "a", "--source=b"], "--source is for `data prepare`"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)


def test_the_door_from_a_shell():
    assert shell("-m", "score_jax").returncode == 2
    run = shell("-m", "score_jax", "train", "--wokdir=a")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "score-jax train: unknown flag --wokdir; did you mean '--workdir'?\n"
    overview = shell("-m", "score_jax", "--help")
    assert overview.returncode == 0 and all(name in overview.stdout for name in cli.JOBS)


@pytest.mark.parametrize(
    ("flags", "environ", "level"),
    [
        ([], {}, None),
        ([], {"SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (["--num_processes=2"], {}, "3"),
        (["--num_processes=2"], {"TF_CPP_MIN_LOG_LEVEL": "0"}, "0"),
        ([], {"JAX_NUM_PROCESSES": "4"}, "3"),
        ([], {"TPU_WORKER_HOSTNAMES": "a,b"}, "3"),
    ],
)
def test_the_runtime_of_several_processes_is_quiet(monkeypatch, flags, environ, level):
    monkeypatch.setattr(os, "environ", dict(environ))
    command_line_run.quiet_runtime(command_line.parse("train", cli.JOBS["train"], flags))
    assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == level
