"""Fetches the official files of a dataset: mirrors, checksums, and going on after a break.

A file appears under its name only when it is whole and, where its checksum is published, the
right one. What arrived of an unfinished one is kept beside it as FILE.part.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from score_jax.data import locks
from score_jax.data.content import file_sha256
from score_jax.data.download_urls import PAGES, URLS, File
from score_jax.data.sources import prepare_command
from score_jax.data.transfers import Failed, Report, Slow, Transfer
from score_jax.types import UserError

__all__ = ["URLS", "File", "fetch"]

OFFLINE = "SCORE_JAX_OFFLINE"  # Set: nothing is fetched.


def fetch(name: str, root: Path | str, report: Report, mirror: str = "") -> list[str]:
    """The official files of a dataset below `root`/downloads, downloaded where they are missing.

    Args:
      name: of the dataset; its files are those of `URLS`.
      root: the folder of prepared datasets; report: called with a line now and then.
      mirror: '' for the official addresses and known mirrors; else the only address below which
        the files are looked for, by their names.

    Returns:
      The paths, in the order in which the reader takes them.

    Raises:
      UserError: there is no address, none answers, the content is not the official one, or the
        disk is full; says what to do by hand.
    """
    if name not in URLS:
        raise UserError(_by_hand(name))
    if mirror and urlsplit(mirror).scheme not in ("http", "https"):
        raise UserError(f"--mirror={mirror} is not an address that begins with http:// or https://")
    folder = Path(root) / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with locks.held(folder / ".lock"):
        _announce(name, folder, report)
        for file in URLS[name]:
            path = _there_already(name, file, folder, report)
            paths.append(str(path or _fetch_one(name, file, folder, report, mirror)))
    return paths


def _announce(name: str, folder: Path, report: Report) -> None:
    """Tells what is to come: of the largest sets, days and a disk."""
    missing = [file for file in URLS[name] if not (folder / file.name).is_file()]
    if len(missing) > 1 or any(file.size > 1 << 30 for file in missing):
        known = sum(file.size for file in missing) / (1 << 30)
        size = f", {known:.1f} GiB" if known >= 0.1 else ""
        more = " and more" if size and not all(file.size for file in missing) else ""
        report(
            f"{name}: {len(missing)} of {len(URLS[name])} files to come{size}{more}; in {folder}"
        )


def _by_hand(name: str) -> str:
    page = f" (from {PAGES[name]})" if name in PAGES else ""
    return f"{name} is prepared from your own copy{page}; run: {prepare_command(name)}"


def _there_already(name: str, file: File, folder: Path, report: Report) -> Path | None:
    places = [folder / file.name] + [folder.parent / file.name] * bool(file.sha256)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    if not file.sha256:
        report(f"{name}: using {path}, which is there already; remove it to download it again")
        return path
    found = file_sha256(path)
    if found != file.sha256:
        raise UserError(
            f"{path} has sha256 {found[:12]} where the official file has {file.sha256[:12]}; move "
            f"it away, or use it as it is: score-jax data prepare {name} --source={path}"
        )
    report(f"{name}: using {path}, which is there already and has the known sha256")
    return path


def _fetch_one(name: str, file: File, folder: Path, report: Report, mirror: str) -> Path:
    urls: Sequence[str] = file.urls
    if mirror:
        urls = [mirror if mirror.endswith(f"/{file.name}") else f"{mirror.rstrip('/')}/{file.name}"]
    if os.environ.get(OFFLINE, "") not in ("", "0"):
        raise UserError(_help(name, file, folder, {f"{OFFLINE} is set": []}))
    transfer = Transfer(name, file, folder / f"{file.name}.part", report)
    problems: dict[str, list[str]] = {}  # What went wrong, at which hosts.
    slow: list[str] = []
    for url in urls:
        try:
            return transfer.take(url, hurry=url != urls[-1])
        except Slow as error:
            slow.append(url)
            report(f"{name}: {_host(url)} {error}; trying {_host(urls[urls.index(url) + 1])}")
        except Failed as error:
            problems.setdefault(str(error), []).append(_host(url))
            report(f"{name}: {_host(url)}: {error}")
    for url in slow:
        try:
            return transfer.take(url, hurry=False)
        except Failed as error:
            problems.setdefault(str(error), []).append(_host(url))
    raise UserError(_help(name, file, folder, problems))


def _help(name: str, file: File, folder: Path, problems: Mapping[str, list[str]]) -> str:
    """What happened, which file to fetch elsewhere and the command that takes it."""
    part = folder / f"{file.name}.part"
    arrived = part.stat().st_size if part.is_file() else 0
    kept = f"; the {arrived >> 20} MiB that arrived are kept and continued" if arrived else ""
    told = "; ".join(
        ", ".join(hosts) + ": " * bool(hosts) + text for text, hosts in problems.items()
    )
    data_dir = folder.parent.parent
    if len(URLS[name]) == 1:
        command = f"--source=/path/to/{file.name} --data_dir={data_dir}"
        remedy = f"run: score-jax data prepare {name} {command}"
    else:
        command = f"score-jax data prepare {name} --data_dir={data_dir}"
        remedy = f"put it into {folder} and run: {command}"
    return (
        f"{name}: {file.name} was not downloaded ({told}){kept}; fetch it from "
        f"{file.urls[0]} where there is a network and {remedy}; or give a --mirror=URL"
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc
