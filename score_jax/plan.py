"""The job `plan`: what a training run would need and take, before there is a device for it."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from score_jax import config as config_lib
from score_jax import (
    control_groups,
    hlo,
    mesh,
    microbatches,
    model_passes,
    plan_table,
    preflight,
    preflight_advice,
    preflight_estimate,
    preflight_kept,
    recipes,
    topologies,
)
from score_jax.preflight_advice import Situation
from score_jax.recipes import Run
from score_jax.topologies import Slice
from score_jax.types import UserError

LOGGER = logging.getLogger("score_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer: facts by name, the same as text, and whether the run fits."""

    facts: dict[str, Any]
    text: str
    fits: bool


def plan(config: ConfigDict, *, topology: str = "", out: str = "", effort: str = "full") -> Plan:
    """Compiles the step of a run for devices that need not be there, and tells what it costs.

    Args:
      config: one that `config.validate` accepts.
      topology: a TPU slice, such as 'v5e:4x4'; '': the devices of this machine.
      out: folder for plan.json and plan.txt; '': none.
      effort: of the compiler, of `preflight.EFFORTS`.

    Raises:
      UserError: a topology or a config that cannot be.
    """
    run = recipes.build(config)
    if topology:
        # The few numbers that tracing makes are made here, whatever accelerator there is.
        jax.config.update("jax_platforms", "cpu")
        place, devices = topologies.describe(topology)
        rates = "the makers' peaks"
    else:
        place, rates = local()
        devices = jax.devices()
    layout = mesh.create(devices, fsdp=config.mesh.fsdp)
    per_version = "/config.data.cutmix" if config.data.cutmix else ""
    layout.check_divides(config_lib.loaded_images(config), f"config.data.batch_size{per_version}")
    microbatches.check(config, run.recipe, layout.num_devices)
    compiled = preflight.compile_plan(
        config, run.recipe, layout, place, kept_in=preflight_kept.folder(), effort=effort
    )
    facts = facts_of(config, run, place, len(devices), compiled) | {"rates": rates}
    text = plan_table.write(facts)
    if out:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "plan.txt").write_text(text + "\n")
    return Plan(facts=facts, text=text, fits=compiled.memory.fits)


def local() -> tuple[Slice, str]:
    """The devices of this machine as a slice, and where their rates come from."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    name = f"{len(devices)} x {kind}"
    chip = next(
        (entry.chip for entry in topologies.GENERATIONS.values() if entry.chip.kind == kind), None
    )
    if chip := chip or topologies.gpu(kind):
        chip = dataclasses.replace(chip, memory=memory or chip.memory)
        return Slice(name=name, chip=chip, num_chips=len(devices)), "the makers' peaks"
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if room := control_groups.memory_room():
            memory = min(memory, room[0])
        memory //= len(devices)
    chip = preflight_estimate.measure(kind, memory, len(devices))
    return Slice(name=name, chip=chip, num_chips=len(devices)), "measured here, just now"


def facts_of(
    config: ConfigDict, run: Run, place: Slice, num_devices: int, compiled: preflight.Compiled
) -> dict[str, Any]:
    """Everything that the table tells, as plain JSON data; bytes, FLOPs and seconds."""
    recipe, batch_size = run.recipe, config.data.batch_size * config.data.augmented_views
    num_steps = recipe.attack.num_steps if recipe.attack else 0
    program, loops, estimate = compiled.program, (), None
    if program and place.chip.kind in topologies.GPUS:
        policy = config.precision
        program = preflight_estimate.by_policy(program, policy.attack, policy.train, num_steps)
        compiled = dataclasses.replace(compiled, program=program)
    if program:
        loops = hlo.attack_loops(program, num_steps)
        # The new state is written, whatever else the step gives back is small.
        given = compiled.memory.inputs + compiled.memory.state
        estimate = preflight_estimate.estimate(program, place, num_devices, given)
    situation = Situation(
        config=config, recipe=recipe, place=place, num_devices=num_devices, batch_size=batch_size,
        compiled=compiled, estimate=estimate, attack_loops=loops,
    )  # fmt: skip
    memory = dataclasses.asdict(compiled.memory)
    passes = model_passes.count(recipe)
    facts = {
        "model": config.model.name, "objective": config.objective.name,
        "batch_size": config.data.batch_size, "precision": dict(config.precision),
        "batchnorm_groups": config.batchnorm.groups,
        "attack_statistics": config.attack.statistics if recipe.attack else "",
        "microbatches": config.data.microbatches, "remat": config.model.remat,
        "fsdp": config.mesh.fsdp, "place": place.name, "device_kind": place.chip.kind,
        "num_devices": num_devices, "num_chips": place.num_chips,
        "images_a_device": batch_size / num_devices, "passes": passes,
        "memory": memory, "fits": compiled.memory.fits,
        "seconds_lowering": compiled.seconds_lowering,
        "seconds_compiling": compiled.seconds_compiling, "compiled_before": compiled.is_kept,
        "effort": compiled.effort,
    }  # fmt: skip
    if program:
        facts |= _what_it_does(program, loops, num_steps)
        facts |= _what_it_takes(config, run, place, estimate, passes)
    return facts | {"advice": preflight_advice.advise(situation)}


def _what_it_does(program: hlo.Program, loops, num_steps: int) -> dict[str, Any]:
    inside, outside = preflight_estimate.inside(program.collectives, set(loops))
    by_precision: dict[str, int] = {}
    for each in program.products:
        kind = f"{each.dtype} {each.precision}"
        by_precision[kind] = by_precision.get(kind, 0) + each.flops * each.times
    return {
        "flops": program.flops,
        "flops_by_precision": by_precision,
        "flops_in_attack": sum(
            each.flops * each.times
            for each in program.products
            if any(loop in loops for loop in each.loops)
        ),
        "bytes_moved": program.bytes,
        "attack_loops": len(loops),
        "attack_steps": num_steps,
        "unknown_loops": sum(not loop.is_known for loop in program.loops),
        "collectives_in_attack": summary(inside),
        "collectives_outside": summary(outside),
    }


def summary(collectives: list[hlo.Collective]) -> list[dict[str, Any]]:
    """One entry a kind: how many stand there, how many run in a step, bytes of all these."""
    kinds: dict[str, dict[str, Any]] = {}
    for each in collectives:
        entry = kinds.setdefault(
            each.kind, {"kind": each.kind, "count": 0, "executions": 0, "bytes": 0}
        )
        entry["count"] += 1
        entry["executions"] += each.times
        entry["bytes"] += each.bytes * each.times
    return sorted(kinds.values(), key=lambda entry: -entry["bytes"])


def _what_it_takes(
    config: ConfigDict, run: Run, place: Slice, estimate: preflight_estimate.Estimate, passes: int
) -> dict[str, Any]:
    steps, batch_size = run.num_train_steps, config.data.batch_size
    validations = -(-config.num_epochs // config.validation.every_epochs)  # Also at the last step.
    # As if an image's forward pass took as long as in a step.
    a_pass = estimate.step / (passes * batch_size * config.data.augmented_views)
    validating = (
        validations
        * a_pass
        * preflight_estimate.validation_passes(run.judge, config.data.validation_size)
    )
    hours = (steps * estimate.step + validating) / 3600
    return {
        "seconds": {
            "compute": estimate.compute, "links": estimate.links, "once": estimate.once,
            "memory": estimate.memory, "roofline": estimate.roofline, "in_turn": estimate.in_turn,
            "scheduled": estimate.scheduled, "step": estimate.step,
        },
        "limit": estimate.limit,
        "images_per_second": batch_size / estimate.step,
        "steps": steps,
        "epochs": config.num_epochs,
        "validations": validations,
        "validation_share": validating / (hours * 3600),
        "hours": hours,
        "hours_at_the_least": hours * estimate.roofline / estimate.step,
        "hours_in_turn": hours * estimate.in_turn / estimate.step,
        "chip_hours": hours * place.num_chips,
    }  # fmt: skip


def refusal(answer: Plan) -> UserError:
    """What the command ends with where the run does not fit."""
    memory = answer.facts["memory"]
    first = next(iter(answer.facts["advice"]), "a larger slice")
    bound = ""
    if answer.facts["effort"] == "quick":
        bound = " at the most (--effort=full may find that it fits)"
    return UserError(
        f"the step needs {plan_table.size(memory['needed'])}{bound} on each of the "
        f"{plan_table.count(answer.facts['num_devices'], 'device')}, which have "
        f"{plan_table.size(memory['available'])}; try {first}"
    )
