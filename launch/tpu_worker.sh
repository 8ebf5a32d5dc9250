#!/usr/bin/env bash
# What launch/tpu_vm.sh has each worker of a TPU VM do; it is copied there with the repository.
#
#   launch/tpu_worker.sh install [--bucket=BUCKET]              Python, score_jax with libtpu
#   launch/tpu_worker.sh start [--bucket=BUCKET] ARGUMENTS...   `score-jax ARGUMENTS` in background
#   launch/tpu_worker.sh status               `none`, `running`, or the exit code of the last start
#   launch/tpu_worker.sh stop                 SIGTERM: it saves and ends; --kill: SIGKILL
#   launch/tpu_worker.sh logs [LINES]         the last lines
#   launch/tpu_worker.sh ... --dry-run        print the commands of install or start, run nothing
#
# --bucket is mounted at ~/bucket, also where the machine was started anew since the installation;
# without it a job whose --workdir is below `bucket` is refused while nothing is mounted there.
# SCORE_JAX: the command to run, instead of the one of the repository's environment.
# SCORE_JAX_STATE: where the pid, the exit code and the log are [~/.score_jax].
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

opt_kill="" opt_bucket=""
parse "bucket" "kill" 1 "$@"
state="${SCORE_JAX_STATE:-$HOME/.score_jax}"
action="${own[0]:-}"

# Runs a command, or prints it.
run() { if [ -n "$opt_dry_run" ]; then quoted "$@"; else "$@"; fi; }

# life PID: the machine's start and the process's: after a reboot another one may have its number.
# (Field 22 of its line; the second, its name in brackets, may have spaces.)
life() {
  local line fields
  { line="$(< "/proc/$1/stat")"; } 2> /dev/null || return 0
  read -r -a fields <<< "${line##*) }"
  printf '%s %s\n' "${fields[19]}" "$(< /proc/sys/kernel/random/boot_id)"
}
# lives FILE: whether the process lives whose number and life are written there.
lives() {
  local pid told
  [ -s "$1" ] || return 1
  read -r pid told < "$1"
  [ -n "$told" ] && [ "$(life "$pid")" = "$told" ]
}
is_running() { lives "$state/pid"; }
send() {
  local pid
  read -r pid _ < "$state/pid"
  kill "-$1" "$pid"
}

install() {
  local python uv="$HOME/.local/bin/uv" list=/etc/apt/sources.list.d/gcsfuse.list
  # The images come with Python 3.10.
  [ -x "$uv" ] || run python3 -m pip install --user --quiet uv
  run "$uv" python install 3.12
  # The script finds it by itself where uv is not there yet, in a dry run.
  python="$(! [ -x "$uv" ] || "$uv" python find 3.12 || true)"
  run env SCORE_JAX_EXTRAS="tpu,gcs,logs" PYTHON="$python" \
    bash -c ". $(quoted "$root/launch/environment.sh")"
  if [ -n "$opt_bucket" ] && ! command -v gcsfuse > /dev/null; then
    run sudo bash -c "curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg \
> /usr/share/keyrings/cloud.google.asc && . /etc/os-release && echo \"deb \
[signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt \
gcsfuse-\$VERSION_CODENAME main\" > $list && apt-get -qq update && apt-get -qq install -y gcsfuse"
  fi
  mount_bucket
}

mount_bucket() {
  if [ -z "$opt_bucket" ] || mountpoint -q "$HOME/bucket" 2> /dev/null; then return; fi
  run mkdir -p "$HOME/bucket"
  run gcsfuse --implicit-dirs "$opt_bucket" "$HOME/bucket" ||
    refuse "$opt_bucket is not mounted at ~/bucket; see the line above"
}

start() {
  local program=("$root/.venv/bin/score-jax")
  [ -z "${SCORE_JAX:-}" ] || read -r -a program <<< "$SCORE_JAX"
  mount_bucket
  if [ -n "$opt_dry_run" ]; then
    quoted "${program[@]}" "$@"
    return
  fi
  ! is_running || refuse "a run is going on here already; stop it first"
  case " $* " in
    # A local folder in its place is empty: the run would begin anew there.
    *" --workdir=bucket/"* | *" --workdir=./bucket/"* | *" --workdir=$HOME/bucket/"*)
      mountpoint -q "$HOME/bucket" || refuse "nothing is mounted at ~/bucket; give --bucket=BUCKET" ;;
  esac
  mkdir -p "$state"
  rm -f "$state/pid" "$state/shell" "$state/code" "$state/asked"
  # A session of its own: it outlives the connection, and nobody else's signals reach it.
  export -f life
  # shellcheck disable=SC2016
  setsid bash -c 'state="$1"; shift
echo "$$ $(life "$$")" > "$state/shell"
"$@" & echo "$! $(life "$!")" > "$state/pid"; wait "$!"; echo "$?" > "$state/code.new"
mv "$state/code.new" "$state/code"' score-jax "$state" "${program[@]}" "$@" \
    < /dev/null >> "$state/log" 2>&1 &
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -s "$state/pid" ] || break
    sleep 0.2
  done
}

status() {
  local running=""
  ! is_running || running=yes
  # The shell that waits for the run writes the code a moment after its end.
  while [ -z "$running" ] && [ ! -s "$state/code" ] && lives "$state/shell"; do sleep 0.05; done
  if [ -s "$state/code" ]; then
    # A machine that is taken away sends SIGTERM too: then nobody asked for the stop.
    if [ "$(cat "$state/code")" = "$STOPPED" ] && [ ! -e "$state/asked" ]; then
      echo 143
    else
      cat "$state/code"
    fi
  elif [ -n "$running" ]; then
    echo running
  elif [ -s "$state/pid" ]; then
    echo 137 # The machine was started anew, or the shell that waits was killed too.
  else
    echo none
  fi
}

main() {
  case "$action" in
    install) install ;;
    start)
      needs_job "start train --config=..."
      start "${job[@]}" ;;
    status) status ;;
    stop)
      if ! is_running; then
        say "nothing is running here"
      elif [ -n "$opt_kill" ]; then
        send KILL
      else
        touch "$state/asked"
        send TERM
      fi ;;
    logs) tail -n "${job[0]:-40}" "$state/log" ;;
    *) refuse "unknown action '$action'; known: install start status stop logs" ;;
  esac
}

main; exit
