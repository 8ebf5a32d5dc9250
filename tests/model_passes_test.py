"""What a step costs: counted in the compiled program, and as the formula says."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from score_jax import config, mesh, model_passes, objectives, recipes, train_state
from score_jax import overrides as overrides_module
from score_jax.train_step import compile_step

STEPS = 5


def multiplicities(text: str) -> dict[str, tuple[int, list[str]]]:
    """How often each computation of an optimized HLO module runs, loops multiplied out."""
    bodies, name = {}, None
    for line in text.splitlines():
        if match := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = match.group(1)
            bodies[name] = []
            if line.startswith("ENTRY"):
                entry = name
        elif name:
            bodies[name].append(line)
    runs = dict.fromkeys(bodies, 0)

    def visit(computation: str, times: int) -> None:
        runs[computation] += times
        for line in bodies[computation]:
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            for callee in re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", line):
                visit(callee, times * (int(trips.group(1)) if trips else 1))
            for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
                for callee in re.findall(r"%?([\w.\-]+)", group):
                    visit(callee, times)

    visit(entry, 1)
    return {name: (runs[name], lines) for name, lines in bodies.items()}


def products(text: str, pattern: str) -> int:
    """How many products that match the pattern a run of the program computes."""
    return sum(
        times * sum(bool(re.search(pattern, line)) for line in lines)
        for times, lines in multiplicities(text).values()
    )


# The passes of the method as written, how many of them the compiler merges (the attack's clean pass
# with the outer one, a recorded pass over what the attack found with the outer one), overrides.
METHODS = {
    "standard": (3, 0, []),
    "madry": (2 * STEPS + 3, 0, []),
    "rst": (2 * STEPS + 6, 0, []),
    "trades": (1 + 2 * STEPS + 6, 1, []),
    "score": (1 + 2 * STEPS + 6, 1, []),
    "score, attacked by running statistics": (
        1 + 2 * STEPS + 6, 0, ["attack.statistics=running"],
    ),
    "distance_madry": (2 * STEPS + 3, 0, []),
    "distance_trades": (1 + 2 * STEPS + 6, 1, []),
    "mart": (2 * STEPS + 6, 0, []),
    "gairat": (2 * STEPS + 3, 0, []),
    "gair_trades": (1 + 4 * STEPS + 9, 1, []),
    "gr": (2 + 6, 1, []),
    "llr": (4 + 6, 0, []),
    "llr, qin2019": (2 + 2 * STEPS + 9, 1, ["objective.variant=qin2019"]),
    "trades, twice clean": (1 + 2 * STEPS + 6, 1, ["objective.clean_again=true"]),
    "score, perturbed weights": (1 + 2 * STEPS + 12, 1, ["awp.gamma=0.01"]),
    "madry, every pass recorded": (
        2 * STEPS + 3 + 2, 1,
        ["batchnorm.update_order=('attack','attacked','adversarial','updated_clean')"],
    ),
    "madry, joint": (2 * STEPS + 6, 0, ["objective.keep_clean=true"]),
}  # fmt: skip


def recipe_of(method):
    name, overrides = method.split(",")[0], METHODS[method][2]
    settings = config.load("configs/digits_score.py:smoke", [f"attack.num_steps={STEPS}"])
    fields = {field: default for field, default in FIELDS.items() if field in known_fields(name)}
    with settings.unlocked():
        settings.objective = dict(name=name, **fields)
    return recipes.build(overrides_module.apply(settings, overrides)).recipe


FIELDS = dict(variant="released", clean_again=False, keep_clean=False)


def known_fields(name):
    return [field.name for field in dataclasses.fields(objectives.OBJECTIVES[name])]


def test_every_objective_is_counted():
    assert {method.split(",")[0] for method in METHODS} == set(objectives.OBJECTIVES)


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] * (m == "llr, qin2019")) for m in METHODS],
)
def test_compiled_step_has_the_passes_of_its_method(method):
    passes, merged, _ = METHODS[method]
    recipe = recipe_of(method)
    assert model_passes.count(recipe) == passes
    layout = mesh.create(jax.devices()[:1])
    batch = {
        "images": jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = compile_step(recipe, layout)
    lowered = step.lower(train_state.abstract(recipe, layout), batch, key)
    # The machine code is not run: only the program that the compiler decided on is read.
    text = lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()
    # The last convolution's products: forward and by its input have one shape, by its kernel
    # another. Clean and attacked images in one pass count twice.
    through = r"f32\[%d,4,4,64\]\S* convolution\([^)]*\), window=\{size=3x3 pad=1_1x1_1\}"
    by_kernel = products(text, r"f32\[64,3,3,64\]\S* convolution\(")
    joint = 2 if "joint" in recipe.objective.forwards else 1
    counted = products(text, through % 8) + joint * by_kernel
    if joint == 2:
        counted += 2 * products(text, through % 16)
    assert counted == passes - merged
