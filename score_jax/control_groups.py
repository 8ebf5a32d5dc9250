"""What a container or a job of a cluster leaves of this machine's memory and cores."""

import os
from collections.abc import Callable
from pathlib import Path

NO_LIMIT = 2**60  # Cgroups write such a number where there is no limit.


def read_file(path: str) -> str:
    """The text of a file of this machine; '' where there is none to read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def memory_room(read: Callable[[str], str] = read_file) -> tuple[int, int] | None:
    """(limit, what is left of it) in bytes, of the control group of this process.

    Args:
      read: the text of a file by its path; '' where there is none.

    Returns:
      That of the group with the least left, of both versions of cgroups; None without a limit.
      Files that the system keeps in memory, and would drop first, count as left.
    """
    rooms = []
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = "/sys/fs/cgroup", ("memory.max", "memory.current")
            dropped = "inactive_file"
        elif "memory" in controllers.split(","):
            base = "/sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            dropped = "total_inactive_file"
        else:
            continue
        # Inside a container the path is that of the host: its own group is mounted at the base.
        for folder in (base + path.rstrip("/"), base):
            limit, used = (read(f"{folder}/{name}").strip() for name in names)
            if limit.isdigit() and int(limit) < NO_LIMIT:
                lines = read(f"{folder}/memory.stat").splitlines()
                facts = dict(line.partition(" ")[::2] for line in lines)
                taken = max(int(used or 0) - int(facts.get(dropped, 0)), 0)
                rooms.append((int(limit), int(limit) - taken))
    return min(rooms, key=lambda room: room[1], default=None)


def free_memory(read: Callable[[str], str] = read_file) -> int | None:
    """Bytes that this process may still take: of the machine, and of its control group.

    None where neither tells.
    """
    lines = dict(line.split(":", 1) for line in read("/proc/meminfo").splitlines() if ":" in line)
    number = lines.get("MemAvailable", "").removesuffix("kB").strip()
    machine = [int(number) * 1024] if number.isdigit() else []
    room = memory_room(read)
    return min([*machine, *([room[1]] if room else [])], default=None)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Not on macOS.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
