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
    images = facts["images_a_device"]
    each = f"{images:g} image{'' if images == 1 else 's'} each"
    chips = f"{facts['place']}, "
    if ":" in facts["place"]:  # Of a slice the name does not tell how many.
        chips += f"{count(facts['num_chips'], 'chip')}, "
    if devices != facts["num_chips"]:
        chips += f"{count(devices, 'device')}, "
    yield "Devices", f"{chips}{each}"
    kept = " by an earlier plan" if facts["compiled_before"] else ""
    if is_quick := facts["effort"] == "quick":
        kept += ", --effort=quick"
    yield (
        "Compiled" if "flops" in facts else "Refused by XLA",
        f"in {facts['seconds_compiling']:.0f} s{kept}, traced in {facts['seconds_lowering']:.0f} s",
    )
    if is_quick:
        yield "", "memory, bytes and times of it are upper bounds; --effort=full tells them closer"


def _memory(facts):
    memory = facts["memory"]
    needed = size(memory["needed"])
    if not memory["available"]:
        yield "Memory a device", f"{needed}; how much there is is not known"
    else:
        share = memory["needed"] / memory["available"]
        verdict = f"fits, {share:.0%}" if facts["fits"] else "DOES NOT FIT"
        if facts["effort"] == "quick" and not facts["fits"]:
            verdict += ", so compiled"
        yield "Memory a device", f"{needed} of {size(memory['available'])}: {verdict}"
    parts = {"state": memory["state"], "batch": max(memory["inputs"] - memory["state"], 0)}
    parts |= {name: memory[name] for name in ("temporaries", "program")}
    parts = {name: value for name, value in parts.items() if value}
    yield "", ", ".join(f"{name} {size(value)}" for name, value in parts.items())


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
    seconds, limits = facts["seconds"], dict(once="main memory", links="links", compute="compute")
    limit = limits[facts["limit"]]
    parts = f"compute {_s(seconds['compute'])}, links {_s(seconds['links'])}, what it is given "
    parts += f"moved once {_s(seconds['once'])}; {facts['rates']}"
    yield "Step", f"at the least {_s(seconds['roofline'])}, by {limit} ({parts})"
    text = f"main memory at the most {_s(seconds['memory'])}, were nothing kept in a cache"
    images, batch = f"{facts['images_per_second']:,.0f} images/s", facts["batch_size"]
    if seconds["scheduled"]:
        yield "", text
        bound = ", upper bounds by --effort=quick," if facts["effort"] == "quick" else ""
        yield (
            "",
            f"{_s(seconds['scheduled'])} by the compiler's cycles of each instruction{bound} and "
            f"links: {images}",
        )
    else:
        yield "", f"{text}; one after the other {_s(seconds['in_turn'])}"
        others = f"{batch / seconds['in_turn']:,.0f}"
        yield "", f"{images} at the most, one after the other {others}; small products take longer"


def _run(facts):
    if facts["seconds"]["scheduled"]:
        time = f"{hours(facts['hours'])} (at the least {hours(facts['hours_at_the_least'])})"
    else:
        time = f"at the least {hours(facts['hours'])}, one after the other "
        time += hours(facts["hours_in_turn"])
    if facts["num_chips"] > 1 and facts["device_kind"] != "cpu":
        time += f"; {chip_hours(facts['chip_hours'])}"
    yield "Whole run", time
    validations = facts["validations"]
    yield (
        "",
        f"{count(facts['steps'], 'step')}, {count(facts['epochs'], 'epoch')}; "
        f"{count(validations, 'validation')} {'is' if validations == 1 else 'are'} "
        f"{facts['validation_share']:.0%} of it; without input, saves and start",
    )


def count(number: int, name: str) -> str:
    """'1 chip', '16 chips'."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def hours(value: float) -> str:
    """'3.21 hours'; minutes or seconds where it is less than 0.1."""
    for unit, scale in (("hours", 1), ("minutes", 60)):
        if value * scale >= (0.1 if scale == 1 else 1):
            return f"{_digits(value * scale)} {unit}"
    return f"{_digits(value * 3600)} seconds"


def chip_hours(value: float) -> str:
    """The same of chips: '51.4 chip-hours'."""
    return hours(value).replace(" ", " chip-")


def _digits(value: float) -> str:
    """Three digits, never as a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(value: float) -> str:
    """Bytes as memory is told."""
    if value >= 2**30:
        return f"{value / 2**30:.2f} GiB"
    return f"{value / 2**20:.1f} MiB" if value >= 2**20 else f"{value / 2**10:.1f} KiB"


def _si(value: float) -> str:
    """Three digits and the prefix of a power of 1000: '1.23 T'."""
    power = 0
    while value >= 1000 and power < 5:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {'kMGTP'[power - 1] if power else ''}"


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
