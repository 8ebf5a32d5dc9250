# shellcheck shell=bash
# Sourced by the other launch scripts: makes .venv in the repository and activates it.
#
#   . launch/environment.sh
#
# Does nothing but activate where setup.py and constraints.txt are those of the last installation.
# SCORE_JAX_VENV: another folder for it. PYTHON: the interpreter to make it with (3.11 or later);
# where it was made with another one, it is made anew.
# SCORE_JAX_EXTRAS: what to install beside the core.

score_jax_environment() {
  local root venv extras stamp python candidate identity asked other
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  venv="${SCORE_JAX_VENV:-$root/.venv}"
  extras="${SCORE_JAX_EXTRAS:-quickstart,torch,plots,logs,test}"
  stamp="$(cat "$root/setup.py" "$root/constraints.txt" | sha256sum | cut -d' ' -f1) $extras $root"
  # Of the interpreter behind an environment, the same inside and outside of it; nothing if too old.
  identity='import os, sys, venv
sys.exit(1) if sys.version_info < (3, 11) else print(sys.version, os.path.realpath(sys.base_prefix))'
  asked="$("${PYTHON:-false}" -c "$identity" 2>/dev/null)" || asked=""
  other=""
  if [ -f "$venv/.stamp" ] && [ -n "$asked" ] &&
    [ "$asked" != "$("$venv/bin/python" -c "$identity" 2>/dev/null)" ]; then
    other=yes
  fi

  if [ -n "$other" ] || [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$stamp" ]; then
    python=""
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3.14 python3 python; do
      # Run, not looked up: version managers put names on PATH that do not start.
      if [ -n "$candidate" ] &&
        "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$candidate"
        break
      fi
    done
    if [ -z "$python" ]; then
      echo "environment: no Python 3.11 or later found; install one, or set PYTHON=/path/to/python" >&2
      return 1
    fi
    echo "environment: making $venv with $("$python" --version) (a few minutes the first time)"
    "$python" -m venv ${other:+--clear} "$venv" || return 1
    echo "environment: installing score_jax[$extras] at the versions of constraints.txt"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
      -e "${root}[$extras]" -c "$root/constraints.txt" || return 1
    printf '%s\n' "$stamp" > "$venv/.stamp"
    echo "environment: ready"
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
}

score_jax_environment
