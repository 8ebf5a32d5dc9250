"""The doctor on time: is this machine's clock right, and does the storage have the same?"""

import time
from collections.abc import Iterator
from pathlib import Path

from score_jax.doctor_finding import Finding, Machine, fine, remark, wrong
from score_jax.doctor_storage import PATIENCE, existing, try_out, within

SKEW = 2.0
DAY = 86400.0
REMEDY = "let chrony or ntpd set it (timedatectl set-ntp true)"


def today(machine: Machine) -> Iterator[Finding]:
    """Is it later than the moment that this program was installed, and does time go on?"""
    installed = Path(__file__).stat().st_mtime
    now, ticks = time.time(), time.monotonic()
    time.sleep(0.05)
    gone, ticked = time.time() - now, time.monotonic() - ticks
    date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < installed - DAY:
        yield wrong("clock", f"{date} is before this program was installed", REMEDY)
    elif abs(gone - ticked) > 1:
        yield wrong("clock", f"{date}, and it was set while looking at it", REMEDY)
    else:
        yield fine("clock", date)


def storage(machine: Machine) -> Iterator[Finding]:
    """Do files written now have the time of now? Servers of files have clocks of their own."""
    for name, folder in (("workdir", machine.workdir), ("data", machine.data_dir)):
        if not folder or "://" in folder:
            continue
        path = Path(folder).expanduser().absolute()
        try:
            skew = within(PATIENCE, lambda path=path: try_out(existing(path))).skew
        except OSError:
            yield remark(f"clock of {name}", "not known: no file can be written there")
            continue
        text = f"{abs(skew):.1f} s {'before' if skew > 0 else 'behind'} this machine"
        if abs(skew) > SKEW:
            yield wrong(f"clock of {name}", text, f"on the server of the files or here: {REMEDY}")
        else:
            yield fine(f"clock of {name}", text)


CHECKS = (today, storage)
