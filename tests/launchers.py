"""What the tests of launch/ share: a stub in the place of score-jax, and a call."""

import os
import shlex
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
# Writes its words, then does what STUB_<process> says: an exit code, `once` 75 and then 0; or goes
# on: until it is told to stop with `wait` (130) and `late` (75), for ever with `hang`.
STUB = """#!/usr/bin/env bash
id="${@: -1}" id="${id#*=}"
echo "process $id: $*"
echo "$$" > "$STUB_FOLDER/pid$id"
what="STUB_$id" what="${!what:-0}"
stopped() {
  echo stop >> "$STUB_FOLDER/stops$id"
  case "$what" in wait) exit 130 ;; late) exit 75 ;; esac
}
trap stopped TERM INT
case "$what" in
  hang | wait | late) while :; do sleep 0.05; done ;;
  once) [ -e "$STUB_FOLDER/done$id" ] && exit 0; touch "$STUB_FOLDER/done$id"; exit 75 ;;
esac
exit "$what"
"""


def stub(tmp_path, monkeypatch):
    """A fixture: SCORE_JAX is STUB, whose files are in `tmp_path`; kills what is left of it."""
    path = tmp_path / "stub.sh"
    path.write_text(STUB)
    path.chmod(0o755)
    monkeypatch.setenv("SCORE_JAX", str(path))
    monkeypatch.setenv("STUB_FOLDER", str(tmp_path))
    yield tmp_path
    for pid in tmp_path.glob("pid*"):
        subprocess.run(["kill", "-KILL", pid.read_text().strip()], stderr=subprocess.DEVNULL)


def launch(words, cwd=None, **environment):
    """What a launcher makes of these words."""
    name, *rest = shlex.split(words)
    return subprocess.run(
        ["bash", str(LAUNCH / name), *rest],
        text=True, capture_output=True, timeout=60, cwd=cwd, env=os.environ | environment,
    )  # fmt: skip


def wait_for(*paths):
    """Until each of these files has a text."""
    deadline = time.monotonic() + 20
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < deadline, f"not all written: {paths}"
        time.sleep(0.02)
