"""The facts of a plan as a table to read."""

from typing import Any


def write(facts: dict[str, Any]) -> str:
    """The text of `score-jax plan`."""
    rows = [*_what(facts), *_memory(facts)]
    if "flops" in facts:
        rows += [*_work(facts), *_communication(facts), *_time(facts), *_run(facts)]
    rows += [("To change" if number == 0 else "", line) for number, line in _advice(facts)]
    return "\n".join(f"{name:<18}{text}".rstrip() for name, text in rows)


def _advice(facts):
    return enumerate(facts["advice"] or ["nothing that these numbers show"])


def _what(facts):
    precision = facts["precision"]
    options = [
        f"batch {facts['batch_size']}",
        f"train {precision['train']}, attack {precision['attack']}",
        f"BatchNorm groups {facts['batchnorm_groups']}",
    ]
    if facts["attack_statistics"]:
        options.append(f"attack by {facts['attack_statistics']} statistics")
    for name, usual in (("microbatches", 1), ("fsdp", 1), ("remat", False)):
        if facts[name] != usual:
            options.append(f"{name} {facts[name]}")
    yield "Run", f"{facts['model']}, {facts['objective']}; {', '.join(options)}"
    devices = facts["num_devices"]
    each = f"{facts['images_a_device']:g} images each"
    chips = f"{facts['place']}, "
    if ":" in facts["place"]:  # Of a slice the name does not tell how many.
        chips += f"{facts['num_chips']} chips, "
    if devices != facts["num_chips"]:
        chips += f"{devices} devices, "
    yield "Devices", f"{chips}{each}"
    kept = " by an earlier plan" if facts["compiled_before"] else ""
    yield (
        "Compiled" if "flops" in facts else "Refused by XLA",
        f"in {facts['seconds_compiling']:.0f} s{kept}, traced in {facts['seconds_lowering']:.0f} s",
    )


def _memory(facts):
    memory = facts["memory"]
    needed = _size(memory["needed"])
    if not memory["available"]:
        yield "Memory a device", f"{needed}; how much there is is not known"
    else:
        share = memory["needed"] / memory["available"]
        verdict = f"fits, {share:.0%}" if facts["fits"] else "DOES NOT FIT"
        yield "Memory a device", f"{needed} of {_size(memory['available'])}: {verdict}"
    parts = {"state": memory["state"], "batch": max(memory["inputs"] - memory["state"], 0)}
    parts |= {name: memory[name] for name in ("temporaries", "program")}
    parts = {name: value for name, value in parts.items() if value}
    yield "", ", ".join(f"{name} {_size(value)}" for name, value in parts.items())


def _work(facts):
    flops = facts["flops"]
    whole = flops * facts["num_devices"]
    yield (
        "FLOPs a step",
        f"{_si(whole)}FLOP, {_si(flops)}FLOP a device (products only, loops multiplied out)",
    )
    kinds = ", ".join(
        f"{kind} {part / flops:.0%}" for kind, part in facts["flops_by_precision"].items()
    )
    attack = facts["flops_in_attack"] / flops
    yield "", f"{kinds}; attack {attack:.0%}; {facts['passes']} forward passes by formula"
    yield "Bytes moved", f"{_si(facts['bytes_moved'])}B a device and step, an upper estimate"
    if facts["unknown_loops"]:
        yield "", f"{facts['unknown_loops']} loops do not tell how often they run: counted once"


def _communication(facts):
    inside, outside = facts["collectives_in_attack"], facts["collectives_outside"]
    if facts["attack_steps"]:
        if not facts["attack_loops"]:
            yield "In the attack", "its loop is not in the program: the compiler unrolled it"
        else:
            steps = f" over {facts['attack_steps']} steps"
            yield from _collectives("In the attack", inside, steps)
    yield from _collectives("Outside" if facts["attack_steps"] else "Communication", outside, "")


def _collectives(name, entries, suffix):
    if not entries:
        yield name, "no communication"
    for number, entry in enumerate(entries):
        text = (
            f"{entry['kind']}: {entry['count']} in the program, {entry['executions']} a step"
            f"{suffix}, {_si(entry['bytes'])}B a device"
        )
        yield (name if number == 0 else ""), text


def _time(facts):
    seconds = facts["seconds"]
    parts = ", ".join(f"{name} {_s(seconds[name])}" for name in ("compute", "memory", "links"))
    yield (
        "Step",
        f"at the least {_s(seconds['roofline'])}, by {facts['limit']} ({parts}; {facts['rates']})",
    )
    if seconds["scheduled"]:
        yield "", f"{_s(seconds['scheduled'])} by the compiler's estimate of each instruction"
    yield "", f"{facts['images_per_second']:,.0f} images/s"


def _run(facts):
    hours = f"{facts['hours']:.3g} hours"
    if facts["seconds"]["scheduled"]:
        hours += f" (at the least {facts['hours_at_the_least']:.3g})"
    yield "Whole run", f"{hours}, {facts['chip_hours']:,.3g} chip-hours"
    yield (
        "",
        f"{facts['steps']:,} steps, {facts['epochs']} epochs; {facts['validations']} validations "
        f"are {facts['validation_share']:.0%} of it; without input, saves and start",
    )


def _size(value: float) -> str:
    """Bytes as memory is told."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def _si(value: float) -> str:
    """Three digits and the prefix of a power of 1000: '1.23 T'."""
    power = 0
    while value >= 1000 and power < 5:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {'kMGTP'[power - 1] if power else ''}"


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
