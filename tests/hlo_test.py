"""Compiled programs as they are read: real ones of this machine, and lines of other machines."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from score_jax import hlo

TPU = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused (p.0: f32[8,16,16,32], p.1: f32[3,3,32,64]) -> f32[8,8,8,64] {
  %p.0 = f32[8,16,16,32]{3,0,2,1:T(8,128)} parameter(0)
  %p.1 = f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)} parameter(1)
  ROOT %conv = f32[8,8,8,64]{3,0,2,1:T(8,128)S(1)} convolution(%p.0, %p.1), \
window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_01io->b01f, \
operand_precision={highest,highest}, metadata={op_name="jit(step)/while/body/conv"}
}

%body (p: (s32[], f32[8,16,16,32], f32[3,3,32,64])) -> (s32[], f32[8,16,16,32], f32[3,3,32,64]) {
  %p = (s32[]{:T(128)}, f32[8,16,16,32]{3,0,2,1:T(8,128)}, /*index=2*/f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,16,16,32]{3,0,2,1:T(8,128)} get-tuple-element(%p), index=1
  %k = f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)} get-tuple-element(%p), index=2
  %y = f32[8,8,8,64]{3,0,2,1:T(8,128)S(1)} fusion(%x, %k), kind=kOutput, calls=%fused, \
backend_config={"window_config":{"estimated_cycles":"98816","iteration_bounds":["1"]}}
  %moment = f32[64]{0:T(128)} all-reduce(%y), channel_id=1, \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%add, \
metadata={op_name="jit(step)/while/body/mean"}
  ROOT %out = (s32[]{:T(128)}, f32[8,16,16,32]{3,0,2,1:T(8,128)}, f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)}) tuple(%i, %x, %k)
}

%cond (q: (s32[], f32[8,16,16,32], f32[3,3,32,64])) -> pred[] {
  %limit = s32[]{:T(128)} constant(10)
  %q = (s32[]{:T(128)}, f32[8,16,16,32]{3,0,2,1:T(8,128)}, f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (x: f32[8,16,16,32], k: f32[3,3,32,64]) -> f32[8,16,16,32] {
  %x.1 = f32[8,16,16,32]{3,0,2,1:T(8,128)} parameter(0)
  %k.1 = f32[3,3,32,64]{3,2,1,0:T(8,128)} parameter(1)
  %copy-start = (f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)}, f32[3,3,32,64]{3,2,1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%k.1)
  %copy-done = f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)} copy-done(%copy-start)
  %zero = s32[]{:T(128)} constant(0)
  %first = s32[]{:T(128)} copy(%zero)
  %init = (s32[]{:T(128)}, f32[8,16,16,32]{3,0,2,1:T(8,128)}, f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)}) tuple(%first, %x.1, %copy-done)
  %loop = (s32[]{:T(128)}, f32[8,16,16,32]{3,0,2,1:T(8,128)}, f32[3,3,32,64]{3,2,1,0:T(8,128)S(1)}) while(%init), \
condition=%cond, body=%body, metadata={op_name="jit(step)/while"}
  %gathered = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%small), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
  %small = f32[8,4]{1,0} constant({...})
  %gather-done = f32[32,4]{1,0} all-gather-done(%gathered)
  ROOT %result = f32[8,16,16,32]{3,0,2,1:T(8,128)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_a_tpu_program():
    program = hlo.read(TPU)
    (loop,) = program.loops
    assert loop == hlo.Loop(name="jit(step)/while", trips=10, is_known=True, has_products=True)
    inside, outside = program.collectives
    assert inside == hlo.Collective(
        # Of f32[8,8,8,64] the tile pads 64 to 128.
        kind="all-reduce", bytes=4 * 8 * 8 * 8 * 128, group=4, times=10, loops=(loop,),
        source="jit(step)/while/body/mean",
    )  # fmt: skip
    assert (outside.kind, outside.bytes, outside.group, outside.times, outside.loops) == (
        "all-gather", 4 * 32 * 4, 4, 1, (),
    )  # fmt: skip
    (product,) = program.products
    # Along a side of 16, 8 places meet 3 elements each, but the last of them the padding.
    assert product.flops == 2 * (8 * 3 - 1) ** 2 * 32 * 64 * 8
    assert (product.dtype, product.precision, product.times) == ("f32", "highest", 10)
    assert program.flops == 10 * product.flops and program.cycles == 988160
    # Each trip reads the images, 32 channels in tiles of 128, and writes the moments; one copy
    # reads the kernel, one reads and writes the counter; the gathering holds both its ends.
    trip = 4 * 8 * 16 * 16 * 128 + 4 * 128
    assert program.bytes == 10 * trip + 4 * 9 * 32 * 128 + 2 * 4 + 4 * (32 + 128)


@pytest.mark.parametrize(
    ("change", "trips"),
    [
        (("constant(10)", "constant(7)"), 7),
        (("constant(0)", "constant(4)"), 6),
        (("compare(%j, %limit), direction=LT", "compare(%limit, %j), direction=GT"), 10),
        (("direction=LT", "direction=LE"), 11),
        (("condition=%cond", 'backend_config={"known_trip_count":{"n":"3"}}, condition=%cond'), 3),
        (("constant(10)", "partition-id()"), None),
    ],
)
def test_trips_of_a_loop(change, trips):
    (loop,) = hlo.read(TPU.replace(*change)).loops
    assert (loop.trips, loop.is_known) == (1 if trips is None else trips, trips is not None)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1},{2,3}}", 2), ("replica_groups={}", 0),
        ("replica_groups=[1,8]<=[8]", 8), ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8),
    ],
)  # fmt: skip
def test_partners_of_a_collective(groups, size):
    written = TPU.replace("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", groups)
    assert hlo.collectives(written)[0].group == size


ASYNCHRONOUS = """\
HloModule jit_step

%start (p: f32[8,4]) -> f32[8,16] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %gather.0 = f32[8,16]{1,0} all-gather(%p), channel_id=1, replica_groups=[1,4]<=[4], \
frontend_attributes={chain_id="0"}
}

%done (q: f32[8,4]) -> f32[8,16] {
  %q = f32[8,4]{1,0} parameter(0)
  ROOT %gather.1 = f32[8,16]{1,0} all-gather(%q), channel_id=1, replica_groups=[1,4]<=[4], \
frontend_attributes={chain_id="0"}
}

%all-reduce-scatter (g: f32[8,16]) -> f32[8,4] {
  %g = f32[8,16]{1,0} parameter(0)
  %sum = f32[8,16]{1,0} all-reduce(%g), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %part = s32[] constant(0)
  ROOT %mine = f32[8,4]{1,0} dynamic-slice(%sum, %part, %part), dynamic_slice_sizes={8,4}
}

ENTRY %main (w: f32[8,4]) -> f32[8,4] {
  %w = f32[8,4]{1,0} parameter(0)
  %begun = f32[8,16]{1,0} fusion(%w), kind=kCustom, calls=%start
  %whole = f32[8,16]{1,0} fusion(%w), kind=kCustom, calls=%done
  ROOT %new = f32[8,4]{1,0} fusion(%whole), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_a_tpu_spreads_collectives_over_fusions():
    seen = [(each.kind, each.bytes, each.group) for each in hlo.collectives(ASYNCHRONOUS)]
    assert seen == [("all-gather", 4 * 128, 4), ("reduce-scatter", 4 * 128, 4)]


LIBRARY = """\
HloModule jit_step

ENTRY %main (x: f32[8,16,16,32], g: f32[8,16,16,64], k: f32[3,3,32,64], a: f32[8,20]) -> f32[8,5] {
  %x = f32[8,16,16,32]{3,2,1,0} parameter(0)
  %g = f32[8,16,16,64]{3,2,1,0} parameter(1)
  %k = f32[3,3,32,64]{3,2,1,0} parameter(2)
  %a = f32[8,20]{1,0} parameter(3)
  %b = f32[20,5]{1,0} constant({...})
  %forward = (f32[8,16,16,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), WINDOW, custom_call_target="__cudnn$convForward"
  %by_input = (f32[8,16,16,32]{3,2,1,0}, u8[0]{0}) custom-call(%g, %k), WINDOW, custom_call_target="__cudnn$convBackwardInput"
  %by_kernel = (f32[3,3,32,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), WINDOW, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %c = (f32[8,5]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
}
""".replace("WINDOW", "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f")  # noqa: E501


def test_the_library_calls_of_a_gpu():
    products = hlo.read(LIBRARY).products
    convolution = 2 * (16 * 3 - 2) ** 2 * 32 * 64 * 8
    assert [each.flops for each in products] == [convolution] * 3 + [2 * 8 * 20 * 5]


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        (dict(window_strides=(1, 1), padding="SAME"), (3, 3, 4, 8)),
        (dict(window_strides=(2, 2), padding="SAME"), (3, 3, 4, 8)),
        (dict(window_strides=(1, 1), padding=((1, 2), (0, 1)), rhs_dilation=(2, 2)), (3, 3, 4, 8)),
        (dict(window_strides=(1, 1), padding=((0, 0), (1, 2)), lhs_dilation=(2, 2)), (3, 3, 4, 8)),
        (dict(window_strides=(1, 1), padding="SAME", feature_group_count=2), (3, 3, 2, 8)),
    ],
)
def test_products_and_their_gradients_as_xla_counts_them(options, kernel):
    def convolve(images, weights):
        return lax.conv_general_dilated(
            images, weights, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    def loss(images, weights, matrix):
        return jnp.square(convolve(images, weights).mean((1, 2)) @ matrix).sum()

    shapes = [jax.ShapeDtypeStruct(each, jnp.float32) for each in ((2, 9, 9, 4), kernel, (8, 5))]
    lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes)
    counted = hlo.read(lowered.compile().as_text()).products
    # Its count has elementwise work in it too: so of the convolution alone.
    forward = jax.jit(convolve).lower(*shapes[:2]).compile().cost_analysis()["flops"]
    # Each forward, by its left factor, by its right one.
    assert sum(each.flops for each in counted) == 3 * (forward + 2 * 2 * 8 * 5)


def test_a_program_of_several_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def step(images, weights):
        def attack(_, x):
            x = x + jnp.tanh(x @ weights @ weights.T)
            return x - x.mean(0, keepdims=True)  # Over all devices.

        images = lax.fori_loop(0, 6, attack, images)
        return jax.grad(lambda w: jnp.square(images @ w).sum())(weights)

    shapes = [jax.ShapeDtypeStruct(each, jnp.float32) for each in ((16, 8), (8, 8))]
    compiled = jax.jit(step, in_shardings=(split, whole), out_shardings=whole).lower(*shapes)
    program = hlo.read(compiled.compile().as_text())
    (loop,) = hlo.attack_loops(program, 6)
    assert not hlo.attack_loops(program, 5)
    inside = [each for each in program.collectives if loop in each.loops]
    assert [(each.kind, each.bytes, each.group, each.times) for each in inside] == [
        ("all-reduce", 8 * 4, 4, 6)
    ]
    (outside,) = (each for each in program.collectives if not each.loops)
    assert (outside.kind, outside.bytes) == ("all-reduce", 8 * 8 * 4)
    in_loop = sum(each.flops * each.times for each in program.products if loop in each.loops)
    assert in_loop == 6 * 2 * (2 * 4 * 8 * 8)
    assert dataclasses.asdict(loop)["outer"] is None


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("module @jit_step {\n}\n")
