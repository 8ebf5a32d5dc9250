"""The doctor on the network of this machine: its name, its interfaces, its proxies."""

import socket
from collections.abc import Iterator

from score_jax import doctor_coordinator
from score_jax.doctor_coordinator import addresses, is_loopback, split
from score_jax.doctor_finding import Finding, Machine, fine, remark, wrong

INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
# As gRPC reads them, in lower case; of each the first that is set counts.
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
EXEMPT = ("no_grpc_proxy", "no_proxy")


def own_name(machine: Machine) -> Iterator[Finding]:
    """Does this machine's name lead to an address that others can reach? Gloo tells it to them."""
    name = socket.gethostname()
    remedy = f"give {name} its address in /etc/hosts"
    try:
        found = addresses(name)
    except socket.gaierror as error:
        make = wrong if machine.num_processes > 1 else remark
        yield make("host name", f"{name} has no address ({error.strerror})", remedy)
        return
    text = f"{name} is {', '.join(found)}"
    place = split(machine.coordinator)
    is_here = place and place[0] in ("localhost", "127.0.0.1", "::1")  # All processes are.
    if machine.num_processes > 1 and not is_here and all(map(is_loopback, found)):
        text += ": on CPUs, processes of other machines cannot reach this one"
        yield remark("host name", text, remedy)
    else:
        yield fine("host name", text)


def proxies(machine: Machine) -> Iterator[Finding]:
    """Is there a proxy that gRPC would take for the way to process 0?"""
    names = [name for name in PROXIES if name in machine.environ]
    is_used = bool(names and machine.environ[names[0]])
    used = [name for name in names if is_used and machine.environ[name]]
    text = f"{', '.join(used)} in the environment" if used else "none in the environment"
    place = split(machine.coordinator)
    exempt = next((machine.environ[name] for name in EXEMPT if name in machine.environ), "")
    exempt = exempt.split(",")
    is_exempt = place and any(e and place[0].endswith(e.strip().lstrip("*")) for e in exempt)
    if used and (machine.num_processes > 1 or place) and not is_exempt:
        remedy = f"unset {' '.join(used)}, or export no_grpc_proxy={place[0] if place else 'HOST'}"
        yield wrong("proxies", f"{text}: jax.distributed may wait for ever", remedy)
    else:
        yield fine("proxies", text + (f"; not for {place[0]}" if used and place else ""))


def interfaces(machine: Machine) -> Iterator[Finding]:
    """Are the network interfaces there that variables name?"""
    folder = machine.at("/sys/class/net")
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    for name in INTERFACES:
        value = machine.environ.get(name, "")
        if not value or value.startswith("^") or not there:
            continue
        exact, wanted = value.startswith("="), value.lstrip("=").split(",")
        is_there = any(
            (each == want if exact else each.startswith(want)) for each in there for want in wanted
        )
        if is_there:
            yield fine("interface", f"{name}={value} is there")
        else:
            text = f"{name}={value} is none of this machine ({', '.join(there)})"
            yield wrong("interface", text, f"unset {name}, or name one of these")


CHECKS = (own_name, proxies, interfaces, doctor_coordinator.coordinator)
