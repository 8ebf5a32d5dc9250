#!/usr/bin/env bash
# Submits launch/slurm.sbatch: a run, a chain of jobs, or a sweep as an array.
#
#   launch/slurm.sh [OPTIONS] [OPTIONS of sbatch] JOB [ARGUMENTS of score-jax...]
#   launch/slurm.sh --nodes=4 --gpus-per-node=8 --time=12:00:00 train --config=... --workdir=...
#
# OPTIONS, before JOB:
#   --chain=N      N jobs, each after the end of the one before, where requeueing is not allowed:
#                  each goes on from the last save, and one that finds the run finished ends at once
#   --sweep=LIST   an array over the recipe's sweep(), such as 0-8 or 0-8%2 (two at a time)
#   --requeues=K   how often a job may requeue itself [100; 0 in a chain]
#   --restarts=K   of these, in a row, after exit code 75 or a death by a signal [10]
#   --dry-run      print the commands, run nothing
# Every other option goes to sbatch as it is, written --NAME=VALUE.
#
# SCORE_JAX: the command to run on the nodes. See `bash launch/slurm.sbatch --help`.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

opt_chain=1 opt_sweep="" opt_requeues="" opt_restarts=10 pass_unknown=yes
parse "chain sweep requeues restarts" "" 0 "$@"
is_count --chain "$opt_chain" 1 9999
needs_job "--nodes=2 train --config=..."
if [ -z "$opt_requeues" ]; then
  if [ "$opt_chain" -gt 1 ]; then opt_requeues=0; else opt_requeues=100; fi
fi
is_count --requeues "$opt_requeues" 0
is_count --restarts "$opt_restarts" 0
limits="SCORE_JAX_MAX_REQUEUES=$opt_requeues,SCORE_JAX_MAX_RESTARTS=$opt_restarts"
options=(--parsable "--export=ALL,SCORE_JAX_ROOT=$root,$limits")
if [ -n "$opt_sweep" ]; then
  numbers "${opt_sweep%%\%*}" > /dev/null
  [ "$opt_sweep" = "${opt_sweep%%\%*}" ] ||
    is_count "after % of --sweep=$opt_sweep: number" "${opt_sweep#*\%}" 1 9999
  [ "$opt_chain" -eq 1 ] || refuse "--chain and --sweep do not go together; submit two chains"
  options+=("--array=$opt_sweep" "--output=%x-%A_%a.out")
fi
options+=(${passed[@]+"${passed[@]}"})
[ -n "$opt_dry_run" ] || command -v sbatch > /dev/null ||
  refuse "no sbatch on PATH; run this where SLURM's clients are, or add --dry-run"

main() {
  local i command before=""
  for ((i = 1; i <= opt_chain; i++)); do
    command=(sbatch "${options[@]}")
    [ -z "$before" ] || command+=("--dependency=afterany:$before")
    command+=("$root/launch/slurm.sbatch" "${job[@]}")
    if [ -n "$opt_dry_run" ]; then
      quoted "${command[@]}"
      before="JOBID$i"
    else
      before="$("${command[@]}")" || refuse "sbatch refused it; see the line above"
      before="${before%%;*}"
      echo "$before"
    fi
  done
}

main; exit
