"""The doctor on compiled programs that are kept: where, how many, and is the place safe?"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from score_jax.doctor_finding import Finding, Machine, fine, remark, size, wrong
from score_jax.doctor_storage import PATIENCE, REMEDIES, existing, try_out, within
from score_jax.workdir import Workdir

OFF = ("0", "false", "False", "off")
DIR = "JAX_COMPILATION_CACHE_DIR"


def kept(machine: Machine) -> Iterator[Finding]:
    """Will a run that starts again find its compiled programs?"""
    if machine.environ.get("JAX_ENABLE_COMPILATION_CACHE", "1") in OFF:
        remedy = "unset JAX_ENABLE_COMPILATION_CACHE"
        yield remark("compile cache", "it is off: every start compiles anew", remedy)
        return
    given = machine.environ.get(DIR, "")
    if "://" in given:
        yield fine("compile cache", f"{DIR}={given}")
        return
    if not given and (not machine.workdir or "://" in machine.workdir):
        yield remark("compile cache", "inside of the run's folder; no --workdir was given")
        return
    own = Workdir(Path(machine.workdir).expanduser().absolute()).path / "compile_cache"
    folder = Path(given).expanduser().absolute() if given else own
    try:
        yield within(PATIENCE, lambda: _look(folder))
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror or error})"
        remedy = REMEDIES.get(error.errno or 0, "use another folder")
        yield wrong("compile cache", f"{text}: every start compiles anew", remedy)


def _look(folder: Path) -> Finding:
    try_out(existing(folder))
    if not folder.exists():
        return fine("compile cache", f"{folder} will be made")
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH or status.st_uid not in (os.getuid(), 0):
        return wrong(
            "compile cache",
            f"other users may write to {folder} (uid {status.st_uid}, mode "
            f"{stat.filemode(status.st_mode)}), and what is read there is executed",
            f"chmod go-w {folder}, or name another in {DIR}",
        )
    sizes = [file.stat().st_size for file in folder.rglob("*-cache") if file.is_file()]
    return fine("compile cache", f"{folder}: {len(sizes)} programs, {size(sum(sizes))}")


CHECKS = (kept,)
