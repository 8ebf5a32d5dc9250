"""The doctor on libraries: do they fit together, and are they those that were tested?"""

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from score_jax import overrides
from score_jax.doctor_finding import Finding, Machine, fine, remark, wrong

PYTHON = (3, 11)
PLUGIN = re.compile(r"jax-(cuda|rocm)\d+-plugin|libtpu(-nightly)?|jax-metal")
SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# Not used, and in the way: what each does when it is there.
STRANGERS = {
    "tensorflow": "not used here; on import it takes GPU memory",
    "tensorflow-cpu": "not used here",
    "jax-metal": "not tested here, and far behind JAX",
    "libtpu-nightly": "a nightly build",
}


def installed(machine: Machine) -> dict[str, importlib.metadata.Distribution]:
    """The libraries by canonical name; of two of one name the one that is imported."""
    found = importlib.metadata.distributions(path=list(machine.packages or sys.path))
    libraries: dict[str, importlib.metadata.Distribution] = {}
    for library in found:
        if library.metadata["Name"]:
            libraries.setdefault(canonicalize_name(library.metadata["Name"]), library)
    return libraries


def unmet(
    libraries: dict[str, importlib.metadata.Distribution], start: str, extras: tuple[str, ...] = ()
) -> Iterator[str]:
    """What is missing or of a wrong version among all that a library needs."""
    waiting, seen = [(start, extras)], set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen or name not in libraries:
            continue
        seen.add((name, wanted))
        for text in libraries[name].requires or ():
            need = Requirement(text)
            if need.marker and not any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
            ):
                continue
            other = canonicalize_name(need.name)
            if other not in libraries:
                yield f"{need.name} is missing ({name} needs it)"
            elif not need.specifier.contains(libraries[other].version, prereleases=True):
                version = libraries[other].version
                yield f"{need.name} is {version}, and {name} needs {need.specifier}"
            waiting.append((other, tuple(sorted(need.extras))))


def python(machine: Machine) -> Iterator[Finding]:
    """Is the interpreter new enough?"""
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < PYTHON:
        yield wrong("python", text, f"use Python {'.'.join(map(str, PYTHON))} or later")
    else:
        yield fine("python", text)


def libraries(machine: Machine) -> Iterator[Finding]:
    """Is everything there that the core needs, in versions that fit together?"""
    there = installed(machine)
    if "score-jax" not in there:
        yield wrong("libraries", "score_jax is not installed here", "pip install -e .")
        return
    bad = list(dict.fromkeys(unmet(there, "score-jax")))
    for text in bad:
        yield wrong("libraries", text, "pip install -e . -c constraints.txt")
    if not bad:
        shown = ", ".join(f"{name} {there[name].version}" for name in SHOWN if name in there)
        yield fine("libraries", f"{len(there)} fit together: {shown}")


def tested(machine: Machine) -> Iterator[Finding]:
    """Are they the versions that were tested together?"""
    file = overrides.ROOT / "constraints.txt"
    if not file.is_file():
        yield remark("tested versions", "constraints.txt is not here: not a source checkout")
        return
    there = installed(machine)
    pins = [Requirement(line) for line in file.read_text().splitlines() if line[:1] not in "#"]
    others = [
        f"{pin.name} {there[name].version} ({str(pin.specifier).removeprefix('==')})"
        for pin in pins
        if (name := canonicalize_name(pin.name)) in there
        and not pin.specifier.contains(there[name].version, prereleases=True)
    ]
    if others:
        more = f" and {len(others) - 6} more" if len(others) > 6 else ""
        yield remark(
            "tested versions",
            f"others were tested: {', '.join(others[:6])}{more}",
            "pip install -e . -c constraints.txt, where something fails",
        )
    else:
        yield fine("tested versions", "all as in constraints.txt")


def plugins(machine: Machine) -> Iterator[Finding]:
    """Do the parts of JAX that drive GPUs and TPUs fit it, and each other?"""
    there = installed(machine)
    if "jax" not in there:
        return
    wanted = {
        canonicalize_name(need.name): need
        for text in there["jax"].requires or ()
        if (need := Requirement(text)).marker and PLUGIN.fullmatch(canonicalize_name(need.name))
    }
    found = [name for name in there if PLUGIN.fullmatch(name)]
    for name in found:
        version, need = there[name].version, wanted.get(name)
        if need and not need.specifier.contains(version, prereleases=True):
            text = f"{name} is {version}, and jax {there['jax'].version} needs {need.specifier}"
            yield wrong("plugin", text, f"pip install '{name}{need.specifier}'")
        elif bad := list(unmet(there, name, tuple(need.extras) if need else ())):
            remedy = "make an environment for JAX alone: PyTorch pins CUDA libraries of its own"
            yield wrong("plugin", f"{name} {version}: {', '.join(bad[:3])}", remedy)
        else:
            yield fine("plugin", f"{name} {version} fits jax {there['jax'].version}")
    gpu = [name for name in found if name.startswith("jax-")]
    tpu = [name for name in found if name.startswith("libtpu")]
    for several in (gpu, tpu):
        if len(several) > 1:
            remedy = f"keep one: pip uninstall {several[0]}, or {several[1]}"
            yield wrong("plugin", f"{' and '.join(several)} both drive the device", remedy)
    if not found:
        yield fine("plugin", "none: JAX computes on the CPU")


def strangers(machine: Machine) -> Iterator[Finding]:
    """Is there something that should not be?"""
    for name, reason in STRANGERS.items():
        if name in (there := installed(machine)):
            text = f"{name} {there[name].version} is installed: {reason}"
            yield remark("libraries", text, f"pip uninstall {name}")


def extras(machine: Machine) -> Iterator[Finding]:
    """Which jobs have what they need?"""
    there = installed(machine)
    if "score-jax" not in there:
        return
    needs = [Requirement(text) for text in there["score-jax"].requires or ()]
    complete, partial = [], []
    for extra in there["score-jax"].metadata.get_all("Provides-Extra") or ():
        own = [n for n in needs if n.marker and n.marker.evaluate({"extra": extra})]
        own = [n for n in own if not n.marker.evaluate({"extra": ""})]
        missing = [n.name for n in own if canonicalize_name(n.name) not in there]
        for need in own:  # jax[tpu] is jax and what its extra brings.
            missing += [m.split()[0] for m in _missing_of(there, need)]
        (partial if missing else complete).append(extra)
    absent = f"; not there: {', '.join(partial)}" if partial else ""
    yield fine("extras", f"{', '.join(complete) or 'none'}{absent}")


def _missing_of(there: dict[str, importlib.metadata.Distribution], need: Requirement) -> list[str]:
    if not need.extras:
        return []
    found = unmet(there, canonicalize_name(need.name), tuple(sorted(need.extras)))
    return [text for text in found if " is missing " in text]


CHECKS = (python, libraries, tested, plugins, strangers, extras)
