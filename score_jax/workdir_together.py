"""The first meeting of the processes of a run: all are here, and all were started alike."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from score_jax import config as config_module
from score_jax import distributed
from score_jax.types import UserError
from score_jax.workdir_data import DIGITS
from score_jax.workdir_versions import git_state, library_versions, source_digest

OPEN = "open the run's folder"
# Where a host has its datasets changes no number.
OWN = "config.data.dir"
# What training never loads: the host that also judges may have it alone.
JUDGES = ("torch", "pyautoattack")
_SHOWN = 4


def meet(config: ConfigDict, data: Mapping[str, str]) -> list[str]:
    """Waits for all processes, before any collective of theirs, and compares how they started.

    Args:
      data: fingerprints of what is trained on, by set.

    Returns:
      The hosts of the processes, in their order.

    Raises:
      PeerFailure: one does not come.
      UserError: one has another config, other data, other libraries or another source tree than
        process 0; in every process.
    """
    hosts = distributed.from_all(platform.node(), what=OPEN)
    here = facts(config, data)
    found = differences(distributed.from_primary(here, what=OPEN), here)
    for process, lines in enumerate(distributed.from_all(found, what=OPEN)):
        if lines:
            raise UserError(refusal(process, hosts, lines))
    return hosts


def facts(config: ConfigDict, data: Mapping[str, str]) -> dict[str, Any]:
    """What has to be the same in all processes, in a form that JSON can say."""
    versions = {k: v for k, v in library_versions().items() if k not in JUDGES}
    git = git_state() or {}
    return dict(
        config=config_module.to_dict(config),
        fingerprint={name: value[:DIGITS] for name, value in data.items()},
        version=versions,
        source=dict(commit=git.get("commit"), digest=source_digest()),
    )


def differences(primary: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs from process 0: 'config.seed: 1 here, 0 in process 0'.

    Args:
      primary, here: `facts` of process 0 and of this one.
    """
    there, here = ({**each, "source": _name_source(each, other)} for each, other in (
        (primary, here), (here, primary),
    ))  # fmt: skip
    lines = []
    for line in config_module.differences(there, here):
        name, _, values = line.partition(": ")
        if name != OWN:
            before, _, after = values.removesuffix(" here").rpartition(" there, ")
            lines.append(f"{name}: {after}, and {before} in process 0")
    return lines


def _name_source(facts: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The source tree in a word that differs where its files do."""
    mine, others = facts["source"], other["source"]
    if mine["digest"] == others["digest"]:
        return ""
    if mine["commit"] and others["commit"] and mine["commit"] != others["commit"]:
        return mine["commit"][:12]
    return f"files {mine['digest'][:12]}"


def refusal(process: int, hosts: Sequence[str], lines: Sequence[str]) -> str:
    """One line about the first process that differs."""
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return (
        f"process {process} on {hosts[process]} was started otherwise than process 0 on "
        f"{hosts[0]} ({'; '.join(lines[:_SHOWN])}{more}); start all {len(hosts)} processes with "
        "the same command, the same installation and the same data"
    )
