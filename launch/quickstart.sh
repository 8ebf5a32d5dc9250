#!/usr/bin/env bash
# From nothing to an AutoAttack number: trains a natural and a SCORE model on scikit-learn's digits,
# exports both, has the official AutoAttack judge both, and draws a report.
#
#   launch/quickstart.sh [WORKDIR]      WORKDIR: where both runs go; runs/quickstart unless given
#
# The same command again goes on where it stopped. QUICKSTART_SHORT=1: a few steps and images only,
# to see that everything works; its numbers mean nothing.
set -euo pipefail
from="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
out="${1:-$PWD/runs/quickstart}"
case "$out" in /*) ;; *) out="$from/$out" ;; esac
. launch/environment.sh

variant="" examples=0
if [ -n "${QUICKSTART_SHORT:-}" ]; then
  variant=":smoke" examples=32
fi
data="$out/data"
# The machine is the CPU here: a busy or absent accelerator does not matter.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

step() { printf '\n== %s\n' "$*"; }

main() {
  local method run
  step "data: scikit-learn's digits, as an ArrayRecord dataset"
  score-jax data prepare digits --data_dir="$data"

  for method in natural score; do
    run="$out/$method"
    step "train: $method"
    score-jax train --config="configs/digits_$method.py$variant" --workdir="$run" --data_dir="$data"
    step "export: $method"
    score-jax export --workdir="$run"
    step "evaluate: $method, PGD and the curve over radii"
    score-jax evaluate --workdir="$run" --data_dir="$data" --num_examples="$examples"
    step "autoattack: $method, the official one"
    score-jax autoattack --workdir="$run" --data_dir="$data" --num_examples="$examples"
  done

  step "report"
  score-jax report --workdir="$out/score" --beside="$out/natural" --data_dir="$data"
}

main; exit
