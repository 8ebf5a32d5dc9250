"""The job `plan`: times from counts, what chips and slices can do, and what is advised."""

import dataclasses
import importlib.util
import itertools

import jax
import pytest

from score_jax import (
    control_groups,
    hlo,
    plan,
    plan_table,
    preflight,
    preflight_advice,
    preflight_estimate,
    recipes,
    topologies,
)
from score_jax.preflight_advice import Situation
from score_jax.types import UserError


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
    with pytest.raises(UserError, match=rf"'jax\[tpu\]=={jax.__version__}' takes the one"):
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
    found = preflight_estimate.estimate(program, place, 1, given=8.19e8)
    assert found.compute == pytest.approx((6 * 10 + 2 + 3) / 197)
    assert (found.memory, found.once) == (pytest.approx(0.01), pytest.approx(0.001))
    assert (found.roofline, found.scheduled, found.step) == (found.compute, 2.0, 2.0)
    assert found.limit == "compute"
    # Traffic that a cache may spare bounds nothing from below.
    busy = dataclasses.replace(program, products=(), cycles=0)
    found = preflight_estimate.estimate(busy, place, 1, given=8.19e8)
    assert (found.roofline, found.limit, found.step) == (found.once, "once", found.once)
    assert found.in_turn == found.memory


def test_where_the_program_does_not_tell_the_precision_the_recipe_does():
    parts = hlo.Loop(name="parts", trips=10, is_known=True, has_products=True)
    attack = hlo.Loop(name="attack", trips=10, is_known=True, has_products=True, outer=parts)
    products = tuple(
        hlo.Product(flops=1, dtype="f32", precision="", times=1, loops=loops)
        for loops in ((parts, attack), (parts,), ())
    )
    program = hlo.Program(
        loops=(parts, attack), collectives=(), products=products, bytes=0, cycles=0
    )
    asked = preflight_estimate.by_policy(program, "tf32", "float32", 10)
    assert [each.precision for each in asked.products] == ["default", "highest", "highest"]


@pytest.mark.parametrize(("name", "links"), [("v3", 166), ("v5e", 200), ("v6e", 400)])
def test_links_as_google_tells_them(name, links):
    """Half of both ways; a core of v3 has half of a chip's share of 340 TB/s over 1024 chips."""
    assert topologies.GENERATIONS[name].chip.link == links * 1e9


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (("v3", 4), "v3-8"), (("v4", 4), "v4-8"), (("v5p", 8), "v5p-16"),
        (("v5e", 4), "v5litepod-4"), (("v6e", 1), "v6e-1"),
    ],
)  # fmt: skip
def test_slices_have_the_names_that_libtpu_knows(form, name):
    assert topologies._type(*form) == name


def test_virtual_devices_share_the_machine(monkeypatch):
    # One precision is all that a CPU has, whatever a second measurement would say.
    clock = itertools.count(1)
    monkeypatch.setattr(preflight_estimate, "_best", lambda function: next(clock))
    chip = preflight_estimate.measure("cpu", 1, 1)
    assert chip.peak("f32", "highest") == chip.peak("f32", "default")
    monkeypatch.setattr(preflight_estimate, "_best", lambda function: 1.0)
    one, four = (preflight_estimate.measure("cpu", 1, count) for count in (1, 4))
    assert four.peak("f32", "highest") == one.peak("f32", "highest") / 4 == 2 * 1024**3 / 4
    assert four.bandwidth == one.bandwidth / 4 == 2**28 / 4
    monkeypatch.setattr(preflight_estimate, "measure", lambda kind, memory, count: memory)
    monkeypatch.setattr(topologies, "Slice", dict)
    monkeypatch.setattr(plan, "Slice", dict)
    monkeypatch.setattr(control_groups, "memory_room", lambda: (2**30, 5))
    assert plan.local()[0]["chip"] == 2**30 // jax.local_device_count()
    monkeypatch.setattr(control_groups, "memory_room", lambda: None)
    assert plan.local()[0]["chip"] > 2**30 // jax.local_device_count()


def test_gpus_are_known_by_jax_name():
    chip = topologies.gpu("NVIDIA H100 80GB HBM3")
    assert chip.peak("f32", "highest") == 67e12 and chip.peak("bf16", "highest") == 989e12
    assert topologies.gpu("NVIDIA Imaginary 1") is None


def situation(
    *overrides,
    needed,
    state=2 * 2**30,
    devices=16,
    form="4x4",
    talks=0,
    flops=0,
    cycles=0,
    effort="full",
):
    """A plan on v5e that needs so many GiB a chip."""
    config = recipes.load("configs/cifar10_score.py", overrides)
    loop = hlo.Loop(name="while", trips=10, is_known=True, has_products=True)
    talk = hlo.Collective(
        kind="all-reduce", bytes=4096, group=0, times=10, loops=(loop,), source=""
    )
    program = hlo.Program(
        loops=(loop,), bytes=0, cycles=cycles, collectives=(talk,) * talks,
        products=(hlo.Product(
            flops=flops, dtype="f32", precision="highest", times=1, loops=(loop,)
        ),),
    )  # fmt: skip
    chip = topologies.GENERATIONS["v5e"].chip
    place = topologies.Slice(name=f"v5e:{form}", chip=chip, num_chips=devices, sides=(4, 4),
                             has_rings=(False, False))  # fmt: skip
    memory = preflight.Memory(
        state=state, needed=int(needed * 2**30), available=int(chip.memory), inputs=state
    )
    compiled = preflight.Compiled(
        memory=memory, program=program if memory.fits else None, seconds_lowering=0,
        seconds_compiling=0, is_kept=False, effort=effort,
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


def test_another_precision_is_advised_where_it_shortens_the_step():
    def advice(seconds):
        """Of a step of so many seconds, of which products take 0.06."""
        cycles = int(seconds * topologies.GENERATIONS["v5e"].chip.clock)
        return preflight_advice.advise(
            situation("attack.statistics=running", needed=8, flops=1.97e12, cycles=cycles)
        )

    assert advice(0.1)[0].startswith("--config.precision.attack=tf32: products of 10 ms a step, n")
    assert advice(1.0) == []


def told(at):
    run = recipes.build(at.config)
    return plan.facts_of(at.config, run, at.place, at.num_devices, at.compiled) | {"rates": "x"}


def test_a_validation_is_due_at_the_last_step_too():
    def validations(epochs):
        overrides = (f"num_epochs={epochs}", "validation.every_epochs=2")
        return told(situation(*overrides, needed=8, flops=1, cycles=1))["validations"]

    assert [validations(epochs) for epochs in (4, 5)] == [2, 3]


def test_upper_bounds_are_said_to_be_such():
    facts = told(situation(needed=8, flops=1e12, cycles=10**8, effort="quick"))
    text = plan_table.write(facts)
    for words in ("--effort=quick", "are upper bounds; --effort=full tells", "v5e:4x4, 16 chips, "):
        assert words in text
    assert "quick" not in plan_table.write(facts | {"effort": "full"})
    facts = told(situation(needed=26, effort="quick"))
    assert "DOES NOT FIT, so compiled" in plan_table.write(facts)
    refusal = plan.refusal(plan.Plan(facts=facts, text="", fits=False))
    assert "26.00 GiB at the most (--effort=full may find that it fits) on each" in str(refusal)


def test_numbers_are_told_in_units_that_suit_them():
    spoken = [plan_table.hours(value) for value in (1234.4, 3.214, 0.1, 0.05, 0.01, 4.66e-6)]
    assert spoken == [
        "1,234 hours", "3.21 hours", "0.1 hours", "3 minutes", "36 seconds", "0.0168 seconds",
    ]  # fmt: skip
    assert plan_table.chip_hours(2) == "2 chip-hours"
    assert [plan_table.count(number, "chip") for number in (1, 1024)] == ["1 chip", "1,024 chips"]
    assert [plan_table.size(value) for value in (4096, 2.6e6, 2**31)] == [
        "4.0 KiB", "2.5 MiB", "2.00 GiB",
    ]  # fmt: skip
