"""The job `plan`: counts against the formula, words of real messages, and the whole command."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from score_jax import (
    cli,
    hlo,
    mesh,
    model_passes,
    plan,
    preflight,
    preflight_advice,
    preflight_estimate,
    recipes,
    topologies,
)
from score_jax.preflight_advice import Situation
from score_jax.types import UserError

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
        (["model.name=cnn-3", "attack.statistics=running"], 0),
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


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v9:4x4", "unknown chip 'v9'; .*known: v3:2x2 to v3:16x16; .*v5e:1x1 to v5e:16x16"),
        ("v5p-32", "unknown chip 'v5p-32'; did you mean v5p"),
        ("v5e:4x4x4", "v5e slices have the forms 1x1, 2x2, 2x4, .*; write v5e:4x4"),
        ("v4:4x4", "v4 slices have the forms 2x2x1, .*"),
        ("v5e", "v5e slices have the forms"),
    ],
)
def test_an_unknown_slice_is_one_line(topology, message):
    with pytest.raises(UserError, match=message):
        topologies.describe(topology)


def test_without_libtpu_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'score_jax\[plan\]'"):
        topologies.describe("v5e:2x2")


def test_times_of_communication():
    flat = topologies.Slice(
        name="v5e:4x4", chip=topologies.GENERATIONS["v5e"].chip, num_chips=16, sides=(4, 4),
        has_rings=(False, False),
    )  # fmt: skip
    ring = dataclasses.replace(
        flat, name="v5e:16x16", num_chips=256, sides=(16, 16), has_rings=(True, True)
    )
    size = 146e6
    # A sum goes round twice; half of the wires' 200 GB/s without rings; 1 us for each of 6 hops.
    assert flat.seconds("all-reduce", size, 16) == pytest.approx(
        2 * (size * 15 / 16 / 100e9 + 6e-6)
    )
    assert ring.seconds("all-gather", size, 256) == pytest.approx(size * 255 / 256 / 200e9 + 16e-6)
    # A group along one axis has its wires alone.
    assert ring.seconds("all-gather", size, 16) == pytest.approx(size * 15 / 16 / 100e9 + 8e-6)
    assert flat.seconds("all-reduce", size, 1) == 0


def test_a_step_takes_as_long_as_what_takes_longest():
    chip = topologies.GENERATIONS["v5e"].chip
    place = topologies.Slice(name="v5e:1x1", chip=chip, num_chips=1, sides=(1, 1))
    loop = hlo.Loop(name="while", trips=10, is_known=True, has_products=True)
    products = [
        hlo.Product(flops=1e12, dtype="f32", precision="highest", times=10, loops=(loop,)),
        hlo.Product(flops=2e12, dtype="f32", precision="default", times=1, loops=()),
        hlo.Product(flops=3e12, dtype="bf16", precision="default", times=1, loops=()),
    ]
    program = hlo.Program(
        loops=(loop,), collectives=(), products=tuple(products), bytes=int(8.19e9), cycles=int(3e9)
    )
    found = preflight_estimate.estimate(program, place, 1)
    assert found.compute == pytest.approx((6 * 10 + 2 + 3) / 197)
    assert (found.memory, found.limit) == (pytest.approx(0.01), "compute")
    assert (found.roofline, found.scheduled, found.step) == (found.compute, 2.0, 2.0)
    # Where the program does not tell the precision, the recipe does.
    asked = preflight_estimate.by_policy(program, "tf32", "float32", 10)
    assert [each.precision for each in asked.products] == ["default", "highest", "highest"]


def test_gpus_are_known_by_jax_name():
    chip = topologies.gpu("NVIDIA H100 80GB HBM3")
    assert chip.peak("f32", "highest") == 67e12 and chip.peak("bf16", "highest") == 989e12
    assert topologies.gpu("NVIDIA Imaginary 1") is None


def situation(*overrides, needed, state=2 * 2**30, devices=16, form="4x4", talks=0):
    """A plan on v5e that needs so many GiB a chip."""
    config = recipes.load("configs/cifar10_score.py", overrides)
    loop = hlo.Loop(name="while", trips=10, is_known=True, has_products=True)
    talk = hlo.Collective(
        kind="all-reduce", bytes=4096, group=0, times=10, loops=(loop,), source=""
    )
    program = hlo.Program(
        loops=(loop,), products=(), bytes=0, cycles=0, collectives=(talk,) * talks
    )
    chip = topologies.GENERATIONS["v5e"].chip
    place = topologies.Slice(name=f"v5e:{form}", chip=chip, num_chips=devices, sides=(4, 4),
                             has_rings=(False, False))  # fmt: skip
    memory = preflight.Memory(
        state=state, needed=int(needed * 2**30), available=int(chip.memory), inputs=state
    )
    compiled = preflight.Compiled(
        memory=memory, program=program if memory.fits else None, seconds_lowering=0,
        seconds_compiling=0, is_kept=False,
    )  # fmt: skip
    return Situation(
        config=config, recipe=recipes.build(config).recipe, place=place, num_devices=devices,
        batch_size=config.data.batch_size, compiled=compiled, attack_loops=(loop,),
        estimate=preflight_estimate.estimate(program, place, devices) if memory.fits else None,
    )  # fmt: skip


def test_what_to_change_where_memory_is_short():
    advice = preflight_advice.advise(situation(needed=26))
    # 24 GiB grow with the batch: in two parts 14 GiB are needed, below 90% of 15.75 GiB.
    assert advice[0].startswith(
        "--config.data.microbatches=2 --config.batchnorm.groups=2 (other statistics): about 14.0"
    )
    assert advice[1].startswith("--config.model.remat=true")
    assert advice[-1].startswith("--topology=v5e:4x8")
    advice = preflight_advice.advise(
        situation("batchnorm.groups=64", "model.remat=true", needed=60, state=6 * 2**30)
    )
    assert advice[0].startswith("--config.data.microbatches=8: about 12.8 GiB")
    assert advice[1].startswith("--config.mesh.fsdp=16: 0.38 GiB of state a chip instead of 6.00")


def test_what_to_change_where_chips_wait():
    few = preflight_advice.advise(situation(needed=5, devices=256, form="16x16"))
    assert few[0].startswith("2 images a chip and pass are few")
    assert few[1] == "--topology=v5e:8x8: 8 images a chip and pass"
    assert "--config.data.batch_size=2048 --config.large_batch.reference_batch_size=512" in few[2]
    talkative = preflight_advice.advise(situation(needed=8, talks=2))
    assert talkative[0].startswith("--config.batchnorm.groups=16: statistics of each chip's")
    assert talkative[1].startswith("--config.attack.statistics=running")
    tight = preflight_advice.advise(situation("attack.statistics=running", needed=15.5))
    assert tight[0].startswith("memory is 98% full")
    loose = situation("data.microbatches=2", "batchnorm.groups=32", "model.remat=true", needed=5)
    assert [line.split()[0] for line in preflight_advice.advise(loose)] == [
        "--config.data.microbatches=1", "--config.model.remat=false",
    ]  # fmt: skip


def test_the_command_on_the_devices_here(tmp_path, monkeypatch, capsys):
    """Once for real; again from what was kept; and with too little memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["plan", f"--config={CONFIG}", "--config.batchnorm.groups=4"]
    assert cli.main([*arguments, f"--out={tmp_path / 'out'}"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads((tmp_path / "out/plan.json").read_text())
    assert (tmp_path / "out/plan.txt").read_text() == out
    assert "lowered the step in" in err and "compiling it for 4 x cpu" in err
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
        "cnn-3, score; batch 64", "In the attack     no communication", "images/s", "chip-hours",
        "one product and one copy here",
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
    assert err.splitlines()[-1].startswith("score-jax plan: the step needs 0.00 GiB on each of")


def test_a_recipe_is_needed(capsys):
    assert cli.main(["plan"]) == 2
    assert "--config=PATH[:ARG] is needed" in capsys.readouterr().err


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
    compiled, (inside, outside) = compiled_for_a_tpu("batchnorm.groups=4")
    assert not inside
    assert [(each.kind, each.times) for each in outside] == [("all-reduce", 1)]
    assert compiled.program.cycles > 0 and compiled.memory.available == int(15.75 * 2**30)
    forward = 16 * FORWARD["cnn-3"]
    assert compiled.program.flops == pytest.approx(forward * (1 + 6 + 6 - 1), rel=0.02)
    assert {(each.dtype, each.precision) for each in compiled.program.products} == {
        ("f32", "highest")
    }


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
    _, parts = compiled_for_a_tpu(*overrides)
    assert [{each.kind for each in part} for part in parts] == [inside, outside]
