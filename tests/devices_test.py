"""What devices share and tell each other: the same training on any number of them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from score_jax import hlo, mesh, recipes, train_state, train_step
from score_jax.data import pipeline
from score_jax.types import UserError
from tests.helpers import digits_config

REPOSITORY = Path(__file__).parent.parent
NUM_STEPS = 7  # Of the attack; no other loop has so many.


def twenty_steps(config, layout, dtype):
    run = recipes.build(config)
    keys = jax.device_put(tuple(jax.random.split(jax.random.key(0))), layout.replicated)
    state = train_state.create(run.recipe, keys[0], layout)
    # Whatever the arithmetic of a step happens in; the sums for the log stay as they are.
    parts = ("params", "batch_stats", "ema_params", "opt_state")
    state = dataclasses.replace(
        state,
        **jax.tree.map(
            lambda leaf: leaf.astype(dtype) if leaf.dtype == np.float32 else leaf,
            {name: getattr(state, name) for name in parts},
        ),
    )
    step = train_step.compile_step(run.recipe, layout)
    losses = []
    for batch in pipeline.train_batches(config, 0, 20):
        images = (batch["images"] / 255).astype(dtype)
        local = layout.put_batch({"images": images, "labels": batch["labels"]})
        state, sums = step(state, local, keys[1])
        losses.append(sums["train/loss"].compute())
    return jax.device_get(state), losses


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "objective, statistics, dtype, fsdp, parts",
    [
        ("score", "running", np.float32, 4, 1),
        # Its weights are divided by their mean over the batch.
        slow("gairat", "batch", np.float64, 2, 2),
        slow("gairat", "running", np.float32, 1, 1),
        slow("score", "batch", np.float64, 1, 1),
        slow("perturbed score", "batch", np.float64, 4, 1),
        slow("score", "batch", np.float64, 2, 4),
        slow("madry", "running", np.float32, 1, 1),
        slow("madry", "batch", np.float64, 2, 2),
    ],
)
def test_one_and_four_devices_agree(objective, statistics, dtype, fsdp, parts, data_dir):
    """Four devices may share the state, and take the batch in parts.

    With batch statistics in the attack, or parts, float64 shows it: in float32 a sum taken in
    another order now and then turns the sign of a gradient that is nearly zero.
    """
    config = digits_config(
        "num_epochs=4", "steps_per_epoch=6", "data.batch_size=32", "log.every_steps=4",
        f"data.dir={data_dir}", "attack.num_steps=5", f"attack.statistics={statistics}",
        f"batchnorm.groups={4 if parts > 1 else 1}",
        f"awp.gamma={0.01 if objective == 'perturbed score' else 0}",
    )  # fmt: skip
    with config.unlocked():
        if objective == "madry":
            config.objective = dict(
                name="madry", keep_clean=True, label_smoothing=0.1, smoothing="uniform"
            )
        elif objective == "gairat":
            config.objective = dict(name="gairat", burn_in_epochs=0)
    # Optax keeps its rates in float32.
    with jax.enable_x64(dtype is np.float64), jax.numpy_dtype_promotion("standard"):
        one, one_losses = twenty_steps(config, mesh.create(jax.devices()[:1]), dtype)
        with config.unlocked():
            config.data.microbatches = parts
        four, four_losses = twenty_steps(config, mesh.create(fsdp=fsdp), dtype)
    assert one_losses[0] != one_losses[-1]
    np.testing.assert_allclose(one_losses, four_losses, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (one, four)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def compiled(overrides, layout, batch_size=64):
    config = digits_config(
        f"data.batch_size={batch_size}", f"attack.num_steps={NUM_STEPS}", *overrides
    )
    recipe = recipes.build(config).recipe
    batch = {
        "images": jax.ShapeDtypeStruct((batch_size, 8, 8, 1), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = train_step.compile_step(recipe, layout)
    lowered = step.lower(train_state.abstract(recipe, layout), batch, key)
    # The machine code is not run: only the program that the compiler decided on is read.
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def check_communication(statistics, fsdp, parts, devices):
    """Nothing in the attack; one sum of all gradients for each part; the weights gathered once."""
    # Attacks by running averages need no groups; the outer passes then speak of their moments.
    groups = parts * (1 if statistics == "running" else devices)
    overrides = [
        f"attack.statistics={statistics}", f"data.microbatches={parts}",
        f"batchnorm.groups={groups}",
    ]  # fmt: skip
    layout = mesh.create(jax.devices()[:devices], fsdp)
    program = hlo.read(compiled(overrides, layout).as_text())
    attacks = hlo.attack_loops(program, NUM_STEPS)
    assert len(attacks) == 1
    found = program.collectives
    assert not [each for each in found if set(attacks) & set(each.loops)]
    init = recipes.build(digits_config()).recipe.classifier.init
    params, _ = jax.eval_shape(init, jax.random.key(0))
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    sums = [each for each in found if each.kind == "all-reduce"]
    (gradients,) = (each for each in sums if each.bytes > size / 100)
    assert gradients.times == parts and gradients.bytes > 0.9 * size
    if statistics == "batch":
        assert gradients.bytes > size
        # What is left are metrics: of sharded gradients, and of all parts.
        assert len(sums) - 1 <= (fsdp > 1) + (parts > 1)
    gathered = [each for each in found if each.kind == "all-gather"]
    assert all(each.times == 1 for each in gathered) and bool(gathered) == (fsdp > 1)
    others = [each for each in found if each not in sums and each not in gathered]
    # A batch is spread anew over the devices once, in parts.
    assert all(each.times == 1 for each in others) and bool(others) <= (parts > 1)


@pytest.mark.parametrize(
    "statistics, fsdp, parts",
    [("batch", 2, 2), slow("batch", 1, 1), slow("running", 1, 1)],
)
def test_the_attack_says_nothing_to_other_devices(statistics, fsdp, parts):
    check_communication(statistics, fsdp, parts, devices=4)


@pytest.mark.slow
def test_nor_on_eight_devices():
    program = (
        "import jax; jax.config.update('jax_num_cpu_devices', 8)\n"
        "from tests.devices_test import check_communication\n"
        "for each in (('running', 1, 1), ('running', 4, 2), ('batch', 1, 1), ('batch', 8, 1),"
        " ('batch', 1, 4)):\n"
        "    check_communication(*each, devices=8)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2])
def test_statistics_of_fewer_groups_than_devices_are_summed_in_the_attack(groups):
    program = hlo.read(compiled([f"batchnorm.groups={groups}"], mesh.create()).as_text())
    (attack,) = hlo.attack_loops(program, NUM_STEPS)
    assert [each for each in program.collectives if attack in each.loops]


@pytest.mark.slow
def test_parts_need_less_memory():
    overrides = ["batchnorm.groups=4", "attack.statistics=running"]
    layout = mesh.create(jax.devices()[:1])
    whole, parts = (
        compiled([*overrides, f"data.microbatches={k}"], layout, 1024).memory_analysis()
        for k in (1, 4)
    )
    assert parts.temp_size_in_bytes < 0.4 * whole.temp_size_in_bytes


def test_states_are_split_along_the_longest_axis_that_divides():
    shapes = dict(
        kernel=(3, 3, 32, 64), square=(64, 64), odd=(3, 5, 999), rows=(1024, 5), small=(64, 3),
        scalar=(),
    )  # fmt: skip
    state = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    split = {name: place.spec for name, place in mesh.create(fsdp=2).state(state).items()}
    assert split == dict(
        kernel=PartitionSpec(None, None, None, "fsdp"), square=PartitionSpec(None, "fsdp"),
        odd=PartitionSpec(), rows=PartitionSpec("fsdp"), small=PartitionSpec(),
        scalar=PartitionSpec(),
    )  # fmt: skip
    layout = mesh.create()
    assert set(layout.state(state).values()) == {layout.replicated}


def test_weights_averages_and_optimizer_are_sharded_alike():
    recipe, layout = recipes.build(digits_config()).recipe, mesh.create(fsdp=4)
    state = train_state.abstract(recipe, layout)
    kernel = state.ema_params["conv_2"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 3, 64, 16)
    momenta = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert momenta and all(leaf.sharding == kernel.sharding for leaf in momenta)
    rest = jax.tree.leaves((state.batch_stats, state.sums, state.step))
    assert all(leaf.sharding == layout.replicated for leaf in rest)


def test_sharded_weights_are_gathered_for_who_takes_them_whole():
    layout, whole = mesh.create(fsdp=4), {"kernel": np.arange(8192.0).reshape(64, 128)}
    sharded = jax.device_put(whole, layout.state(whole))
    assert sharded["kernel"].addressable_shards[0].data.shape == (64, 32)
    gathered = layout.gather(sharded)["kernel"]
    assert gathered.sharding == layout.replicated
    np.testing.assert_array_equal(gathered, whole["kernel"])
    assert mesh.create().gather(whole) is whole


def test_devices_that_cannot_share_a_state_equally_are_refused():
    with pytest.raises(
        UserError, match="config.mesh.fsdp=3 must divide the 4 devices; use one of 1, 2, 4"
    ):
        mesh.create(fsdp=3)


def test_devices_of_one_process_stand_together():
    @dataclasses.dataclass(frozen=True)
    class Device:
        id: int
        process_index: int

    given = [Device(0, 1), Device(1, 0), Device(2, 1), Device(3, 0)]
    devices = mesh.create(given, fsdp=2).mesh.devices
    assert [[device.id for device in row] for row in devices] == [[1, 3], [0, 2]]
