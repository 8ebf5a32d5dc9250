#!/usr/bin/env bash
# One run as N processes on this machine: what a pod does, on a laptop (CPU, Gloo).
#
#   launch/local_pod.sh N [OPTIONS] JOB [ARGUMENTS of score-jax...]
#   launch/local_pod.sh 2 train --config=configs/digits_score.py:smoke --workdir=runs/pod
#
# OPTIONS, before JOB:
#   --devices-per-process=K  virtual CPU devices of each process [1]
#   --restart=K              start the same command again, up to K times, where it ends with exit
#                            code 75 or a process is ended by a signal [0]
#   --sweep=LIST             settings of the recipe's sweep(), such as 0-2,5, one after the other
#   --logs=FOLDER            output of processes 1, 2, ... to FOLDER/process-I.log, not here
#   --port=PORT              of the coordinator; a free one unless given
#   --grace=SECONDS          from the first process that fails to the end of the others [300]
#   --dry-run                print the commands, run nothing
#
# Ctrl-C and SIGTERM are passed on to every process, once each. Says which process ended first, and
# how. Exit code: the worst of all (2, then any other failure, a signal, 75, 130).
# SCORE_JAX: the command to run, instead of score-jax of PATH or of the project's environment.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

opt_devices_per_process=1 opt_restart=0 opt_sweep="" opt_logs="" opt_port="" opt_grace=300
parse "devices_per_process restart sweep logs port grace" "" 1 "$@"
[ ${#own[@]} -eq 1 ] || refuse "how many processes? write $PROGRAM 2 train --config=..."
count="${own[0]}"
is_count "N" "$count" 1
is_count --devices-per-process "$opt_devices_per_process" 1
is_count --restart "$opt_restart" 0
is_count --grace "$opt_grace" 0
[ -z "$opt_port" ] || is_count --port "$opt_port" 1 65535
needs_job "$count train --config=..."
settings="none"
[ -z "$opt_sweep" ] || settings="$(numbers "$opt_sweep")"

program=(score-jax)
if [ -n "${SCORE_JAX:-}" ]; then
  read -r -a program <<< "$SCORE_JAX"
elif [ -z "$opt_dry_run" ] && ! command -v score-jax > /dev/null; then
  # shellcheck source=launch/environment.sh
  . "$root/launch/environment.sh"
fi
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" JAX_NUM_CPU_DEVICES="$opt_devices_per_process"

# Below the range that the kernel hands out by itself: nobody else gets it in the meantime.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break
  done
  echo "$port"
}

# command_of PORT ID SETTING: into `command`.
command_of() {
  command=("${program[@]}" "${job[@]}")
  [ "$3" = none ] || command+=("--sweep_index=$3")
  command+=("--coordinator=127.0.0.1:$1" "--num_processes=$count" "--process_id=$2")
}

if [ -n "$opt_dry_run" ]; then
  for setting in $settings; do
    for ((i = 0; i < count; i++)); do
      command_of "${opt_port:-PORT}" "$i" "$setting"
      quoted "JAX_PLATFORMS=$JAX_PLATFORMS" "JAX_NUM_CPU_DEVICES=$JAX_NUM_CPU_DEVICES" \
        "${command[@]}"
    done
  done
  exit 0
fi

# bash tells of its own accord that a signal ended a job; that is not for the reader.
exec 3>&2
say() { printf '%s: %s\n' "$PROGRAM" "$*" >&3; }

pids=() stopping=""
# shellcheck disable=SC2317  # Called by the traps.
pass_on() {
  stopping="$1"
  say "SIG$1: passed on to the processes; they save and end"
  signal_all "$1"
}
signal_all() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    [ -z "$pid" ] || kill "-$1" "$pid" 2> /dev/null || true
  done
}
trap 'pass_on TERM' TERM HUP
trap 'pass_on INT' INT

pipes="$(mktemp -d)"
trap 'signal_all KILL; rm -rf "$pipes"' EXIT
# Job control: each process has a group of its own, so a terminal's Ctrl-C reaches this script alone
# and each process hears of it once; and without it they would start with SIGINT ignored.
set -m

# once SETTING: runs all processes to their end; the worst exit code into `code`.
once() {
  local port="${opt_port:-$(free_port)}" readers=() left="$count" deadline="" i pid status first=""
  code=0 pids=()
  for ((i = 0; i < count; i++)); do
    command_of "$port" "$i" "$1"
    if [ "$i" -eq 0 ]; then
      "${command[@]}" < /dev/null 3>&- &
    elif [ -n "$opt_logs" ]; then
      mkdir -p "$opt_logs"
      "${command[@]}" < /dev/null >> "$opt_logs/process-$i.log" 2>&1 3>&- &
    else
      rm -f "$pipes/$i"
      mkfifo "$pipes/$i"
      awk -v name="[$i] " '{ print name $0; fflush() }' < "$pipes/$i" &
      readers+=("$!")
      "${command[@]}" < /dev/null > "$pipes/$i" 2>&1 3>&- &
    fi
    pids+=("$!")
  done
  while [ "$left" -gt 0 ]; do
    for ((i = 0; i < count; i++)); do
      pid="${pids[$i]}"
      if [ -z "$pid" ] || kill -0 "$pid" 2> /dev/null; then continue; fi
      status=0
      wait "$pid" 2> /dev/null || status=$?
      pids[i]="" left=$((left - 1))
      code="$(worse "$code" "$status")"
      if [ "$status" -ne 0 ]; then
        say "process $i of $count${first:-, the first to end,} $(meaning "$status")"
        first=":"
        [ -n "$deadline" ] || deadline=$((SECONDS + opt_grace))
      fi
    done
    if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ] && [ "$left" -gt 0 ]; then
      say "$left of $count processes still run $opt_grace seconds later; they are killed"
      signal_all KILL
      deadline=""
    fi
    [ "$left" -eq 0 ] || sleep 0.2
  done 2> /dev/null
  for pid in ${readers[@]+"${readers[@]}"}; do wait "$pid" 2> /dev/null || true; done
}

main() {
  local setting attempt worst=0
  for setting in $settings; do
    attempt=0
    [ "$setting" = none ] || say "setting $setting of the sweep"
    while :; do
      once "$setting"
      if [ -n "$stopping" ] || [ "$attempt" -ge "$opt_restart" ] || ! may_restart "$code"; then
        break
      fi
      attempt=$((attempt + 1))
      say "restart $attempt of at most $opt_restart"
    done
    worst="$(worse "$worst" "$code")"
    [ -z "$stopping" ] || break
  done
  return "$worst"
}

# One line, read as a whole: the script may be edited while it runs.
main; exit
