#!/usr/bin/env bash
# A run on a Cloud TPU VM slice (or several), by queued resources; started again after preemptions.
#
#   launch/tpu_vm.sh run NAME --zone=ZONE --type=TYPE [OPTIONS] JOB [ARGUMENTS of score-jax...]
#   launch/tpu_vm.sh run my-run --zone=us-west4-a --type=v5litepod-16 --spot --bucket=my-bucket \
#     train --config=configs/cifar10_score.py --workdir=bucket/runs/score
#   launch/tpu_vm.sh status|logs|stop|delete NAME --zone=ZONE
#
# run     creates the queued resource where there is none, waits until it is ACTIVE, installs the
#         last commit of this repository on all workers, starts the job on all, and looks at it
#         every --poll seconds: SUSPENDED or FAILED (preempted) -> deleted and created anew; 75 or a
#         death by a signal -> started again. At the end the last --lines of all workers are told;
#         finished, or stopped as asked -> deleted; refused or failed -> kept, with what deletes it.
#         The job goes on from its checkpoint: --workdir has to be below `bucket`, where BUCKET is
#         mounted, or what it writes would go with the machines; with --keep it may be elsewhere.
#         It may be interrupted and run again at any time: it finds out how things stand.
# status  state of the queued resource, and of the job on each worker
# logs    the last --lines=N [40] of all workers
# stop    SIGTERM to all workers: they save and end; a `run` that looks on deletes the resource
# delete  the last lines of the workers, then the queued resource and its nodes; a `run` that looks
#         on ends
#
# OPTIONS, before JOB:
#   --zone=ZONE, --project=PROJECT
#   --type=TYPE           such as v5litepod-16, v5p-32, v6e-64, v4-32
#   --runtime=VERSION     of the software [tpu-ubuntu2204-base, or v2-alpha-tpuv5-lite and the like]
#   --slices=N            [1]
#   --spot, --reserved    instead of on demand
#   --flex=DURATION       such as 12h: flex-start, by gcloud alpha
#   --bucket=BUCKET       mounted at ~/bucket of each worker by gcsfuse
#   --restarts=N          of the job by itself, preemptions apart [10]
#   --recreations=N       of the queued resource [100]
#   --poll=SECONDS        [60]
#   --keep                do not delete the queued resource at the end
#   --sweep=LIST          a queued resource NAME-I for each setting of sweep(), such as 0-2,5
#   --lines=N             of `logs`, and of the log at the end [40]
#   --dry-run             print the commands of one round, run nothing
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

opt_zone="" opt_project="" opt_type="" opt_runtime="" opt_slices=1 opt_spot="" opt_reserved=""
opt_flex="" opt_bucket="" opt_restarts=10 opt_recreations=100 opt_poll=60 opt_keep="" opt_sweep=""
opt_lines=40
parse "zone project type runtime slices flex bucket restarts recreations poll sweep lines" \
  "spot reserved keep" 2 "$@"
action="${own[0]:-}" name="${own[1]:-}"
case "$action" in
  run | status | logs | stop | delete) ;;
  *) refuse "unknown action '$action'; known: run status logs stop delete" ;;
esac
[ -n "$name" ] || refuse "which one? write $PROGRAM $action NAME --zone=ZONE"
[ -n "$opt_zone" ] || refuse "--zone=ZONE is needed, such as --zone=us-west4-a"
for pair in "slices $opt_slices 1" "restarts $opt_restarts 0" "recreations $opt_recreations 0" \
  "poll $opt_poll 0" "lines $opt_lines 1"; do
  read -r option value least <<< "$pair"
  is_count "--$option" "$value" "$least"
done
[ -n "$opt_dry_run" ] || command -v gcloud > /dev/null ||
  refuse "no gcloud on PATH; install the Google Cloud CLI, or add --dry-run"

where=("--zone=$opt_zone")
[ -z "$opt_project" ] || where+=("--project=$opt_project")
run() { if [ -n "$opt_dry_run" ]; then quoted "$@"; else "$@"; fi; }
resource() { run gcloud compute tpus queued-resources "$@" "${where[@]}"; }
on_all() { resource ssh "$name" --node=all --worker=all --batch-size=all "--command=$1"; }
bucket=()
[ -z "$opt_bucket" ] || bucket=("--bucket=$opt_bucket")
worker() { on_all "bash score_jax/launch/tpu_worker.sh $(quoted "$@")"; }

state() {
  local answer
  if answer="$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    '--format=value(state.state)' 2>&1)"; then
    printf '%s\n' "$answer" | tail -n 1
  elif [[ "$answer" == *NOT_FOUND* || "$answer" == *"not found"* ]]; then
    echo NONE
  else
    printf '%s\n' "$answer" >&2
    echo UNKNOWN
  fi
}

create() {
  local tool=(gcloud compute tpus queued-resources) runtime="$opt_runtime" options=()
  [ -n "$opt_type" ] || refuse "--type=TYPE is needed, such as --type=v5litepod-16"
  if [ -z "$runtime" ]; then
    case "$opt_type" in
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      *) runtime=tpu-ubuntu2204-base ;;
    esac
  fi
  case "${opt_spot:+s}${opt_reserved:+r}${opt_flex:+f}" in
    '') ;;
    s) options=(--spot) ;;
    r) options=(--reserved) ;;
    f)
      tool=(gcloud alpha compute tpus queued-resources)
      options=(--provisioning-model=flex-start "--max-run-duration=$opt_flex") ;;
    *) refuse "--spot, --reserved and --flex exclude each other" ;;
  esac
  if [ "$opt_slices" -eq 1 ]; then
    options+=("--node-id=$name")
  else
    options+=("--node-count=$opt_slices" "--node-prefix=$name")
  fi
  run "${tool[@]}" create "$name" "${where[@]}" "--accelerator-type=$opt_type" \
    "--runtime-version=$runtime" "${options[@]}" --quiet
}

delete() { resource delete "$name" --force --quiet; }

# By && : within a condition errexit is off. A shell of its own: its trap removes the archive.
install() (
  archive="score_jax.tar.gz"
  if [ -z "$opt_dry_run" ]; then
    folder="$(mktemp -d)" || exit 1
    trap 'rm -rf "$folder"' EXIT
    archive="$folder/$archive"
  fi
  run git -C "$root" archive --format=tar.gz --prefix=score_jax/ --output="$archive" HEAD &&
    resource scp "$archive" "$name:score_jax.tar.gz" --node=all --worker=all --batch-size=all &&
    on_all "tar -xzf score_jax.tar.gz &&\
 bash score_jax/launch/tpu_worker.sh $(quoted install ${bucket[@]+"${bucket[@]}"})"
)

begin() { worker start ${bucket[@]+"${bucket[@]}"} "${job[@]}" --cluster=tpu; }

# What the workers say, one a line: none, running, or an exit code; nothing if one is not reached.
statuses() {
  local answer command="bash score_jax/launch/tpu_worker.sh status"
  answer="$(on_all "[ ! -e score_jax ] && echo none || $command" 2> /dev/null)" || return 0
  printf '%s\n' "$answer" | grep -E '^(none|running|[0-9]+)$' || true
}

# The words of all workers as one: start, wait, or the worst exit code.
verdict() {
  local one code=0 seen="" none="" running=""
  for one in $1; do
    case "$one" in
      none) none=yes ;;
      running) running=yes ;;
      *) code="$(worse "$code" "$one")" seen=yes ;;
    esac
  done
  if [ "$code" -eq "$REFUSED" ]; then
    echo "$REFUSED" # Whatever the others wait for will not come.
  elif [ -n "$none" ]; then
    echo "start"
  elif [ -n "$running" ] || [ -z "$seen" ]; then
    echo "wait"
  else
    echo "$code"
  fi
}

# What a worker said last is gone with it.
last_lines() { worker logs "$opt_lines" >&2 || say "$name: its last lines were not reached"; }

finish() {
  last_lines
  say "$name: $(meaning "$1")"
  case "$1" in
    "$FINISHED" | "$STOPPED") if [ -z "$opt_keep" ]; then delete; exit "$1"; fi ;;
  esac
  say "$name is kept, and paid for, until '$PROGRAM delete $name ${where[*]}'"
  exit "$1"
}

follow() {
  local now last="" restarts=0 recreations=0 said may_create=yes
  while :; do
    now="$(state)"
    [ "$now" = "$last" ] || say "$name is $now"
    # Once it was there, only what is deleted here is created anew.
    case "$now" in
      UNKNOWN | NONE | DELETING) ;;
      SUSPENDED | FAILED) may_create=yes ;;
      *) may_create="" ;;
    esac
    case "$now" in
      UNKNOWN) [ -n "$last" ] || refuse "gcloud does not answer for $name; see the line above" ;;
      NONE)
        if [ -z "$may_create" ]; then
          say "$name was deleted by someone else: this is the end"
          exit "$STOPPED"
        elif create; then
          may_create=""
        else
          [ -n "$last" ] || refuse "$name was not created; see the line above"
          say "$name was not created; tried again"
        fi ;;
      SUSPENDED | FAILED)
        recreations=$((recreations + 1))
        [ "$recreations" -le "$opt_recreations" ] ||
          refuse "$name was $now $recreations times; see 'gcloud compute tpus queued-resources" \
            "describe $name ${where[*]}', or give more --recreations"
        delete || say "$name was not deleted; tried again" ;;
      ACTIVE)
        said="$(verdict "$(statuses)")"
        case "$said" in
          wait) ;;
          start)
            # Some may have begun: they wait for the others, who would come too late.
            worker stop --kill 2> /dev/null || true
            if install && begin; then
              say "$name: started on all workers"
            else
              say "$name: not all workers were reached; tried again"
            fi ;;
          "$FINISHED" | "$REFUSED" | "$STOPPED") finish "$said" ;;
          *)
            restarts=$((restarts + 1))
            if ! may_restart "$said" || [ "$restarts" -gt "$opt_restarts" ]; then finish "$said"; fi
            say "$name: $(meaning "$said"); restart $restarts of at most $opt_restarts"
            begin || say "$name: not all workers were reached" ;;
        esac ;;
    esac
    last="$now"
    sleep "$opt_poll"
  done
}

# go_on SETTING: a run, or what would be done for it.
go_on() {
  if [ "$1" != none ]; then name="$name-$1" job+=("--sweep_index=$1"); fi
  if [ -z "$opt_dry_run" ]; then follow; fi
  create
  resource describe "$name" '--format=value(state.state)'
  install
  begin
  worker status
  worker logs "$opt_lines"
  [ -n "$opt_keep" ] || delete
}

# Refuses what would leave its results on machines that are deleted at the end.
check_workdir() {
  local word workdir=""
  for word in "${job[@]}"; do
    case "$word" in --workdir=*) workdir="${word#*=}" ;; esac
  done
  if [ -n "$opt_keep" ] || { [ "${job[0]}" != train ] && [ -z "$workdir" ]; }; then return; fi
  case "${opt_bucket:+/$workdir/}" in
    */../*) ;;
    /bucket/?* | /./bucket/?* | //home/*/bucket/?*) return ;;
  esac
  refuse "--workdir=$workdir would be deleted with the machines; give --bucket=BUCKET and" \
    "--workdir=bucket/..., or --keep"
}

main() {
  local setting settings pid status code=0 pids=()
  case "$action" in
    status)
      resource describe "$name" '--format=value(state.state)'
      worker status ;;
    logs) worker logs "$opt_lines" ;;
    stop) worker stop ;;
    delete)
      if [ -n "$opt_dry_run" ]; then
        worker logs "$opt_lines"
      elif [ "$(state)" = ACTIVE ]; then
        last_lines
      fi
      delete ;;
    run)
      needs_job "run $name ... train --config=..."
      check_workdir
      if [ -z "$opt_sweep" ]; then
        go_on none
        return
      fi
      settings="$(numbers "$opt_sweep")"
      for setting in $settings; do
        if [ -n "$opt_dry_run" ]; then
          (go_on "$setting")
        else
          go_on "$setting" &
          pids+=("$!")
        fi
      done
      trap 'kill "${pids[@]}" 2> /dev/null; exit 130' INT TERM
      for pid in ${pids[@]+"${pids[@]}"}; do
        status=0
        wait "$pid" || status=$?
        code="$(worse "$code" "$status")"
      done
      exit "$code" ;;
  esac
}

# One line, read as a whole: the script may be edited while it runs, which takes days.
main; exit
