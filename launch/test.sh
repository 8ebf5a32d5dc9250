#!/usr/bin/env bash
# Style and tests, in the project's own environment. Arguments go to pytest:
#
#   launch/test.sh
#   launch/test.sh tests/config_test.py -k eps
#   TEST_SECONDS=2400 launch/test.sh -m slow      the tests that take long, and those alone
#
# CI=...: no colours and the slowest tests told. Ends after TEST_SECONDS at the latest [850].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/environment.sh

main() {
  echo "test: ruff"
  ruff check .

  # A file's tests stay in one process: what they train and compile is made once.
  options=(-q -n "${TEST_WORKERS:-2}" --dist=loadfile)
  if [ -n "${CI:-}" ]; then
    options+=(--color=no --durations=10)
  fi
  echo "test: pytest ${options[*]} $*"
  JAX_PLATFORMS=cpu timeout --signal=INT --kill-after=20 "${TEST_SECONDS:-850}" \
    python -m pytest "${options[@]}" "$@"
}

main "$@"; exit
