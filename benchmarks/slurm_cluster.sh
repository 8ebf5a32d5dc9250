#!/usr/bin/env bash
# A SLURM cluster of two nodes on this machine, and a run on it that is preempted twice.
#
#   benchmarks/slurm_cluster.sh [--keep] [--dry-run]
#
# Starts munge, slurmctld and two slurmd from Debian's packages (apt-get install slurmctld slurmd
# slurm-client munge), all in a temporary folder; submits the digits recipe with two tasks through
# launch/slurm.sh; sends it the signal that SLURM sends before the time limit; lets a job of higher
# priority preempt it; and sees each time that it saved, was requeued and went on, and that it
# finished. Then stops everything and removes the folder; --keep leaves the folder, not the daemons.
# SCORE_JAX: the command of score-jax [the one on PATH, or of .venv]. Exit code 0: all was seen.

# shellcheck disable=SC2317  # Much is called by the trap, or by until_true.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
say() { printf 'slurm_cluster: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

keep="" dry_run=""
for word in "$@"; do
  case "$word" in
    --keep) keep=yes ;;
    --dry-run) dry_run=yes ;;
    --help | -h) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit 0 ;;
    *) say "unknown option $word; known: --keep --dry-run" >&2; exit 2 ;;
  esac
done
export PATH="$PATH:/usr/sbin:/sbin"
for name in munged slurmctld slurmd sbatch; do
  if [ -z "$dry_run" ] && ! command -v "$name" > /dev/null; then
    say "no $name here; apt-get install slurmctld slurmd slurm-client munge" >&2
    exit 2
  fi
done

folder="$(mktemp -d "${TMPDIR:-/tmp}/slurm_cluster.XXXXXX")"
host="$(hostname)" user="$(id -un)" port=$((25000 + RANDOM % 5000))
export SLURM_CONF="$folder/slurm.conf"

configure() {
  cat << END
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldPort=$port
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
SlurmdSpoolDir=$folder/%n
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
JobRequeue=1
KillWait=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=pod0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2
NodeName=pod1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 MaxTime=60 GraceTime=120
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF MaxTime=60
END
}

work="$folder/run" output="$folder/job.out"
submit=("$root/launch/slurm.sh" --nodes=2 --time=30 "--output=$output" "--chdir=$root" train
  --config=configs/digits_score.py:smoke --config.num_epochs=6 --config.log.every_steps=3
  "--workdir=$work" "--data_dir=$folder/data")
preemptor=(sbatch --parsable --partition=high --nodes=2 --ntasks-per-node=1 --cpus-per-task=2
  --output=/dev/null "--wrap=sleep 3")
if [ -n "$dry_run" ]; then
  configure
  printf '%q ' "${submit[@]}"; echo
  printf '%q ' "${preemptor[@]}"; echo
  rmdir "$folder"
  exit 0
fi

stop() {
  local file tries=0
  squeue --noheader --format=%i 2> /dev/null | xargs -r scancel --signal=KILL --full 2> /dev/null
  squeue --noheader --format=%i 2> /dev/null | xargs -r scancel 2> /dev/null
  while [ $((tries += 1)) -lt 100 ] && squeue --noheader --states=all --format=%T 2> /dev/null |
    grep -q -E 'RUNNING|COMPLETING'; do sleep 0.2; done
  for file in pod0 pod1 slurmctld munged; do
    [ ! -s "$folder/$file.pid" ] || end "$(cat "$folder/$file.pid")"
  done
  [ -n "$keep" ] || rm -rf "$folder"
}
end() {
  local tries=0
  kill "$1" 2> /dev/null || return 0
  while kill -0 "$1" 2> /dev/null; do
    [ $((tries += 1)) -lt 100 ] || kill -KILL "$1" 2> /dev/null
    sleep 0.1
  done
}
trap 'set +e; stop' EXIT
trap 'exit 130' INT TERM

# until_true SECONDS WHAT COMMAND...: waits for it, and tells the job's last lines where it fails.
until_true() {
  local deadline=$((SECONDS + $1)) what="$2"
  shift 2
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 40 "$output" "$folder"/*.log >&2 || true
      fail "not seen in time: $what"
    fi
    sleep 0.5
  done
}
nodes_idle() { [ "$(sinfo --noheader --partition=low --states=idle --format=%D)" = 2 ]; }
state_of() { scontrol --oneliner show job "$1" | sed -n 's/.* JobState=\([A-Z]*\) .*/\1/p'; }
restarts_of() { scontrol --oneliner show job "$1" | sed -n 's/.* Restarts=\([0-9]*\) .*/\1/p'; }
has_state() { [ "$(state_of "$1")" = "$2" ]; }
is_requeued() { [ "$(restarts_of "$job")" = "$1" ]; }
# Steps of the whole file, as the first process tells them.
steps_told() {
  local lines
  lines="$(grep -c -E '^epoch .* step ' "$output" 2> /dev/null)" || true
  echo "${lines:-0}"
}
told_more_than() { [ "$(steps_told)" -gt "$1" ]; }

main() {
  say "the cluster, in $folder"
  mkdir -p "$folder/state" "$folder/data"
  chmod 700 "$folder"
  configure > "$SLURM_CONF"
  (umask 077; head -c 1024 /dev/urandom > "$folder/munge.key")
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  slurmctld -c
  slurmd -N pod0
  slurmd -N pod1
  until_true 60 "two idle nodes" nodes_idle
  sinfo

  program=(score-jax)
  if [ -n "${SCORE_JAX:-}" ]; then
    read -r -a program <<< "$SCORE_JAX"
  elif ! command -v score-jax > /dev/null; then
    program=("$root/.venv/bin/score-jax")
  fi
  export SCORE_JAX="${program[*]}" JAX_PLATFORMS=cpu
  (cd "$root" && "${program[@]}" data prepare digits "--data_dir=$folder/data" > /dev/null)

  job="$("${submit[@]}")"
  say "job $job: two tasks"
  until_true 300 "a first step" told_more_than 1

  say "the signal that SLURM sends before the time limit"
  scancel --signal=TERM "$job"
  until_true 200 "the requeue after the signal" is_requeued 1
  # SLURM holds a requeued job back for two minutes; here it need not.
  until_true 60 "the job waiting" has_state "$job" PENDING
  before="$(steps_told)"
  scontrol update "JobId=$job" StartTime=now
  until_true 300 "steps after the requeue" told_more_than "$((before + 1))"

  say "a job of higher priority"
  other="$("${preemptor[@]}")"
  until_true 200 "the requeue by preemption" is_requeued 2
  until_true 100 "the other job done" has_state "$other" COMPLETED
  until_true 60 "the job waiting" has_state "$job" PENDING
  scontrol update "JobId=$job" StartTime=now
  until_true 300 "the job finished" has_state "$job" COMPLETED

  grep -E 'slurm.sbatch:|resum|saved|stop' "$output" || true
  outcomes="$(python3 -c 'import json, sys
print(*[entry["outcome"] for entry in json.load(open(sys.argv[1]))["history"]])' "$work/run.json")"
  say "outcomes of the run: $outcomes; restarts: $(restarts_of "$job")"
  [ "$outcomes" = "stopped stopped finished" ] || fail "expected: stopped stopped finished"
  say "saved, requeued and finished"
}

main; exit
