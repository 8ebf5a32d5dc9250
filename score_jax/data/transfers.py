"""One file on its way over http: pieces from several addresses, checked, and never half-named."""

import http.client
import json
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from score_jax.data.content import file_sha256
from score_jax.data.download_urls import File
from score_jax.types import UserError

TIMEOUT = 30.0  # Seconds without a byte.
ATTEMPTS = 3  # One after the other that bring nothing, at one address.
PAUSE = 2.0  # Seconds before the second of them; doubled for the third.
SLOW_SECONDS = 20.0
SLOW_RATE = 200_000  # Bytes per second below which the next address is tried first.
CHUNK = 1 << 18

Report = Callable[[str], None]


class Failed(Exception):
    """An address does not give the file; in a few words."""


class Slow(Exception):
    """An address gives the file, but slowly."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https only, and keeps what the host says of the content."""

    def __init__(self, checked: bool):
        self.checked = checked
        self.sha256 = ""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new == "http" and not self.checked):
            raise Failed(f"redirects to {newurl[:100]}, which is not followed")
        # Hosts of Git LFS name a file by its sha256, here.
        tag = headers.get("X-Linked-Etag", "").strip('"')
        if len(tag) == 64:
            self.sha256 = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(redirects: _Redirects) -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else; `urlopen` would open files too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        redirects,
    ):
        opener.add_handler(handler)
    return opener


class Transfer:
    """One file on its way, which may come in pieces from several addresses."""

    def __init__(self, name: str, file: File, part: Path, report: Report):
        self.name, self.file, self.part, self.report = name, file, part, report
        self.state = part.with_name(part.name + ".json")
        self.redirects = _Redirects(bool(file.sha256))
        self.opener = _opener(self.redirects)

    def take(self, url: str, hurry: bool) -> Path:
        """The path of the whole file, from `url` and going on after what is there.

        Raises:
          Slow: with `hurry`, when it would take long.
          Failed: the address does not give it, or gives other content.
          UserError: the disk is full.
        """
        again = True
        while True:
            before = self._arrived()
            if not (self.file.size and before == self.file.size):
                self._receive(url, hurry)
            found = file_sha256(self.part)
            known = self.file.sha256 or self.redirects.sha256
            if known in ("", found):
                self._check_start()
                return self._finish(found)
            self._start_anew()
            if before and again:  # What was there before may have been the wrong part.
                again = False
                continue
            raise Failed(f"sends content of sha256 {found[:12]} where {known[:12]} is known")

    def _check_start(self) -> None:
        """Refuses what is plainly another file, where no checksum would."""
        with self.part.open("rb") as part:
            start = part.read(2)
        if self.file.name.endswith((".npz", ".zip")) and start != b"PK" and not self.file.sha256:
            self._start_anew()
            raise Failed("sends something else than an npz file")

    def _finish(self, found: str) -> Path:
        path = self.part.with_name(self.file.name)
        os.replace(self.part, path)
        self.state.unlink(missing_ok=True)
        if self.file.sha256:
            known = "has the known sha256"
        elif self.redirects.sha256:
            known = f"has the sha256 that its host names, {found}; no other is published"
        else:
            known = f"no known checksum, the content's is sha256 {found}"
        self.report(f"{self.name}: downloaded {path}; {known}")
        return path

    def _arrived(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _start_anew(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _receive(self, url: str, hurry: bool) -> None:
        """Everything that is missing, over as many connections as it takes."""
        fruitless = 0
        while True:
            before = self._arrived()
            try:
                return self._connect(url, hurry)
            except (OSError, http.client.HTTPException) as error:
                reason, attempts = _reason(error)
                fruitless = 0 if self._arrived() > before else fruitless + 1
                if fruitless >= attempts:
                    raise Failed(reason) from None
            time.sleep(PAUSE * max(1, fruitless))

    def _connect(self, url: str, hurry: bool) -> None:
        offset, validator = self._arrived(), self._validator(url)
        if offset and not validator:
            self._start_anew()
            offset = 0
        headers = {"User-Agent": "score-jax", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if not self.file.sha256:
                headers["If-Range"] = validator
        request = urllib.request.Request(url, headers=headers)
        try:
            response = self.opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not offset:
                raise
            self._start_anew()  # What is there is longer than the file.
            return self._connect(url, hurry)
        with response:
            self._write(response, url, offset, hurry)
        return None

    def _validator(self, url: str) -> str:
        """By what the rest is known to belong to what is there; '' where by nothing."""
        if self.file.sha256:
            return "sha256"
        try:
            state = json.loads(self.state.read_text())
            return str(state["etag"]) if state["url"] == url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _write(self, response: Any, url: str, offset: int, hurry: bool) -> None:
        if response.headers.get_content_type() == "text/html":
            raise Failed("gives a web page instead of the file")
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                raise Failed("gives another part of the file than was asked for")
        else:
            self._start_anew()
            offset = 0
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdigit() else None
        if self.file.size and total not in (None, self.file.size):
            raise Failed(f"offers {total} bytes where the file has {self.file.size}")
        if total is None and not (self.file.sha256 or self.redirects.sha256):
            raise Failed("does not say how long the file is, so that its end could be missed")
        self._check_space((total or 0) - offset)
        etag = response.headers.get("ETag", "")
        if etag.startswith('"'):
            self.state.write_text(json.dumps({"url": url, "etag": etag}))
        progress = _Progress(self, total, offset, hurry)
        with self.part.open("ab") as part:
            while chunk := response.read1(CHUNK):
                _append(part, chunk)
                progress.add(len(chunk))
                if self.file.size and progress.arrived > self.file.size:
                    raise Failed(f"sends more than the file's {self.file.size} bytes")
        if total is not None and progress.arrived != total:
            raise ConnectionError(f"the connection ended after {progress.arrived} of {total} bytes")

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise UserError(
                f"{self.part.parent} has {free >> 20} MiB free where {self.file.name} needs "
                f"{needed >> 20} more; give another folder with --data_dir=DIR"
            )


def _append(part: Any, chunk: bytes) -> None:
    try:
        part.write(chunk)
    except OSError as error:
        raise UserError(
            f"{part.name} cannot be written ({error.strerror}); make room, or give another folder "
            "with --data_dir=DIR"
        ) from None


class _Progress:
    """Tells how far a transfer is, every ten seconds, and leaves one that is too slow."""

    def __init__(self, transfer: Transfer, total: int | None, offset: int, hurry: bool):
        self.transfer, self.total, self.hurry = transfer, total, hurry
        self.arrived = self.offset = offset
        self.start = self.told = time.monotonic()
        going_on = f", going on after {offset >> 20} MiB" if offset else ""
        size = f" ({total >> 20} MiB)" if total else ""
        transfer.report(f"{transfer.name}: downloading {transfer.file.name}{size}{going_on}")

    def add(self, count: int) -> None:
        self.arrived += count
        now = time.monotonic()
        rate = (self.arrived - self.offset) / max(1e-9, now - self.start)
        if self.hurry and now - self.start > SLOW_SECONDS and rate < SLOW_RATE:
            raise Slow(f"gives {rate / 1000:.0f} kB/s")
        if now - self.told > 10:
            self.told = now
            of = f" of {self.total >> 20} ({self.arrived / self.total:.0%})" if self.total else ""
            self.transfer.report(
                f"{self.transfer.name}: {self.arrived >> 20}{of} MiB, {rate / 1e6:.1f} MB/s"
            )


def _reason(error: Exception) -> tuple[str, int]:
    """What went wrong, in a few words, and how many fruitless attempts at an address are enough."""
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        if 300 <= error.code < 400:
            return f"redirects to {error.headers.get('Location', '?')[:100]}, not followed", 0
        busy = error.code in (408, 429) or error.code >= 500
        return f"answers HTTP {error.code}", ATTEMPTS if busy else 0
    if isinstance(inner, socket.gaierror):
        return "name not known here, is there a network?", 0
    if isinstance(inner, TimeoutError):
        return f"nothing came for {TIMEOUT:g} s", 1
    if isinstance(inner, ssl.SSLError):
        return f"is not who it says ({inner.reason or inner})", 0
    if isinstance(inner, ConnectionRefusedError):
        return "refuses the connection", 0
    words = " ".join(str(inner).split())[:150] or type(inner).__name__
    return words, 1 if isinstance(error, urllib.error.URLError) else ATTEMPTS
