"""The job `plan`: counts against the formula, words of real messages, and the whole command."""

import errno
import gzip
import importlib.util
import json
import time
from pathlib import Path

import jax
import pytest

from score_jax import (
    cli,
    hlo,
    mesh,
    model_passes,
    plan,
    preflight,
    preflight_estimate,
    preflight_kept,
    recipes,
    topologies,
)

CONFIG = "configs/digits_score.py:smoke"


def convolution(side, before, after, stride=1, size=3):
    """FLOPs of one image; places on the padding do not count."""
    places = side // stride if size == 1 else 3 * side // stride - (2 if stride == 1 else 1)
    return 2 * places**2 * before * after


def wide_resnet(side, channels, width=1):
    """wrn-10-1: three blocks, each with a shortcut of 1x1 but the first, which keeps its width."""
    flops, before, stride = convolution(side, channels, 16), 16, 1
    for after in (16 * width, 32 * width, 64 * width):
        flops += convolution(side, before, after, stride)
        side //= stride
        flops += convolution(side, after, after)
        if before != after:
            flops += convolution(side * stride, before, after, stride, size=1)
        before, stride = after, 2
    return flops + 2 * before * 10


FORWARD = {
    "cnn-3": convolution(8, 1, 32) + convolution(8, 32, 64, 2) + convolution(4, 64, 64) + 2 * 640,
    "wrn-10-1-swish": wide_resnet(8, 1),
}


@pytest.mark.parametrize(
    ("overrides", "merged"),
    [
        pytest.param(["model.name=cnn-3", "attack.statistics=running"], 0, marks=pytest.mark.slow),
        # The attack's clean pass is the outer one.
        pytest.param(["model.name=wrn-10-1-swish"], 1, marks=pytest.mark.slow),
        pytest.param(["model.name=cnn-3", "objective.name=madry"], 0, marks=pytest.mark.slow),
    ],
)
def test_flops_are_those_of_the_formula(overrides, merged):
    config = recipes.load(CONFIG, ["attack.num_steps=5", *overrides])
    recipe = recipes.build(config).recipe
    lowered = preflight.lower(config, recipe, mesh.create(jax.devices()[:1]))
    text = lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()
    program = hlo.read(text)
    (loop,) = hlo.attack_loops(program, 5)
    passes = model_passes.count(recipe) - merged
    counted = program.flops / (config.data.batch_size * FORWARD[config.model.name])
    # No gradient by the images at the first layer of an outer pass.
    assert passes - 0.1 < counted < passes
    inside = sum(each.flops * each.times for each in program.products if loop in each.loops)
    forward = inside / (config.data.batch_size * FORWARD[config.model.name])
    assert forward == pytest.approx(10)


def test_a_program_that_is_too_large_tells_by_how_much():
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (16.58G) exceeds available HBM (15.75G)."
    )
    gibi = 2**30
    assert preflight.out_of_memory(said) == (0, int(16.58 * gibi), int(15.75 * gibi))
    said = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
    said += "hbm. Used 517.10M of 15.75G hbm. Exceeded hbm capacity by 1.35G."
    assert preflight.out_of_memory(said) == (int(517.1 * 2**20), 0, int(15.75 * gibi))
    assert preflight.out_of_memory("INTERNAL: something else") is None


@pytest.mark.slow
def test_the_command_on_the_devices_here(tmp_path, monkeypatch, capsys):
    """Once for real; again from what was kept; and with too little memory."""
    monkeypatch.setattr(preflight_estimate, "REPEATS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["plan", f"--config={CONFIG}", "--config.batchnorm.groups=4"]
    assert cli.main([*arguments, f"--out={tmp_path / 'out'}"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads((tmp_path / "out/plan.json").read_text())
    assert (tmp_path / "out/plan.txt").read_text() == out
    assert "lowered the step in" in err and "compiling it for 4 x cpu; seconds for a" in err
    assert (facts["num_devices"], facts["images_a_device"], facts["fits"]) == (4, 16, True)
    assert facts["collectives_in_attack"] == [] and facts["attack_loops"] == 1
    assert [entry["kind"] for entry in facts["collectives_outside"]] == ["all-reduce"]
    forward = 64 * FORWARD["cnn-3"] * (facts["passes"] - 1)
    assert facts["flops"] * 4 == pytest.approx(forward, rel=0.02)
    memory = facts["memory"]
    assert 0 < memory["state"] < memory["inputs"] < memory["needed"] < memory["available"]
    assert facts["hours"] == pytest.approx(
        facts["steps"] * facts["seconds"]["step"] / 3600 / (1 - facts["validation_share"])
    )
    for words in (
        "cnn-3, score; batch 64", "In the attack     no communication", "images/s",
        "Whole run         at the least",
        "measured here, just now", "main memory at the most",
    ):  # fmt: skip
        assert words in out

    small = topologies.Chip(
        kind="cpu", memory=2**20, bandwidth=1e9, peaks={("f32", "highest"): 1e9}
    )
    slice_ = topologies.Slice(name="4 x cpu", chip=small, num_chips=4)
    monkeypatch.setattr(plan, "local", lambda: (slice_, "a test's"))
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert "DOES NOT FIT" in out and "compiled before" in err and "compiling it" not in err
    assert err.splitlines()[-1].startswith("score-jax plan: the step needs ")
    assert "0.00 GiB" not in err and "MiB on each of the 4 devices, which have 1.0 MiB; try" in err


def test_a_recipe_is_needed(capsys):
    assert cli.main(["plan"]) == 2
    assert "--config=PATH[:ARG] is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:30] + bytes([data[30] ^ 255]) + data[31:],
        lambda data: data[:-20],
        lambda data: gzip.compress(b"[1]"),
        lambda data: gzip.compress(b'{"text": "", "seconds": 1}'),
        lambda data: gzip.compress(b'{"text": "", "seconds": 1, "memory": {"needed": null}}'),
    ],
)
def test_a_kept_plan_that_is_damaged_is_made_anew(caplog, tmp_path, spoil):
    file = tmp_path / "plan.json.gz"
    kept = {"text": "HloModule " * 99, "seconds": 1.5, "memory": {"needed": 5, "temporaries": 1}}
    preflight_kept.write(file, kept)
    assert preflight_kept.read(file) == kept
    file.write_bytes(spoil(file.read_bytes()))
    assert preflight_kept.read(file) is None and "is damaged" in caplog.text


def test_a_full_disk_keeps_nothing(caplog, monkeypatch, tmp_path):
    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    preflight_kept.write(tmp_path / "plan.json.gz", {"text": ""})
    assert "No space left" in caplog.text and list(tmp_path.iterdir()) == []


class Traced:
    """A traced step that remembers how it was compiled."""

    def as_text(self):
        return "module @jit_step"

    def compile(self, compiler_options):
        self.options = compiler_options
        raise jax.errors.JaxRuntimeError("Used 3.0G of 2.0G hbm.")


def test_the_effort_of_the_compiler(caplog):
    caplog.set_level("INFO")
    traced = Traced()
    assert preflight._compile(traced, "quick")["memory"]["needed"] == 3 * 2**30
    assert traced.options == {"exec_time_optimization_effort": -1.0}
    preflight._compile(traced, "full")
    assert traced.options == {"exec_time_optimization_effort": 0.0}
    chip = topologies.GENERATIONS["v5e"].chip
    place = topologies.Slice(name="v5e:4x4", chip=chip, num_chips=16)
    full, quick = (preflight_kept.fingerprint(traced, place, each) for each in ("full", "quick"))
    assert full == preflight_kept.fingerprint(traced, place) != quick
    config = recipes.load("configs/cifar10_score.py", ())
    assert "with --config.precision.train=bfloat16" in preflight._cost(config, place, "full")
    assert "a fifth with --effort=quick" in preflight._cost(config, place, "full")
    with preflight._telling(every=0.01):
        time.sleep(0.2)
    assert "compiling for 0 s: 0 s of CPU, " in caplog.text


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install libtpu"
)


def compiled_for_a_tpu(*overrides):
    config = recipes.load(CONFIG, ["attack.num_steps=3", *overrides])
    recipe = recipes.build(config).recipe
    place, devices = topologies.describe("v5e:2x2")
    layout = mesh.create(devices, fsdp=config.mesh.fsdp)
    compiled = preflight.compile_plan(config, recipe, layout, place)
    program = compiled.program
    loops = hlo.attack_loops(program, 3)
    assert len(loops) == 1 and compiled.memory.fits
    return compiled, preflight_estimate.inside(program.collectives, set(loops))


@needs_libtpu
def test_a_tpu_program_has_no_communication_in_its_attack():
    """With statistics of groups that each chip has whole."""
    compiled, (inside, outside) = compiled_for_a_tpu(
        "batchnorm.groups=4", "precision.train=bfloat16", "precision.attack=bfloat16"
    )
    assert not inside
    assert {(each.kind, each.times) for each in outside} == {("all-reduce", 1)}
    assert compiled.program.cycles > 0 and compiled.memory.available == int(15.75 * 2**30)
    forward = 16 * FORWARD["cnn-3"]
    assert compiled.program.flops == pytest.approx(forward * (1 + 6 + 6 - 1), rel=0.02)
    assert {each.precision for each in compiled.program.products} == {"default"}


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "inside", "outside"),
    [
        (["attack.statistics=running"], set(), {"all-reduce"}),
        (["batchnorm.groups=1"], {"all-reduce"}, {"all-reduce"}),
        (
            ["batchnorm.groups=4", "mesh.fsdp=4"], set(),
            {"all-gather", "reduce-scatter", "all-reduce"},
        ),
    ],
)  # fmt: skip
def test_communication_of_a_tpu_program(overrides, inside, outside):
    compiled, parts = compiled_for_a_tpu(*overrides)
    products = compiled.program.products
    assert {(each.dtype, each.precision) for each in products} == {("f32", "highest")}
    assert [{each.kind for each in part} for part in parts] == [inside, outside]
