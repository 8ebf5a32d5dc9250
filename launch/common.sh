# Sourced by the launchers: options, one-line errors, dry runs, and what an exit code means.
#
# shellcheck shell=bash
# shellcheck disable=SC2034  # opt_dry_run is read by the launchers.
#
# A launcher sets its options' defaults as `opt_NAME=...` and calls
#   parse "names that take a value" "names that take none" NUMBER_OF_OWN_WORDS "$@"
# which leaves its own words in `own` and the words of score-jax, from the job's name on, in `job`.
# --dry-run and --help are options of each, wherever they stand. With `pass_unknown=yes` options
# that it does not know are left in `passed`; elsewhere they are refused. A value is written
# --NAME=VALUE: without the sign a forgotten value would take the job's name for one.

PROGRAM="launch/$(basename "$0")"
own=() job=() passed=()
opt_dry_run="" pass_unknown=""

# The jobs of score-jax (score_jax.cli.JOBS), known without starting Python.
JOBS="train evaluate export autoattack import compare trust submit analyze report sweep list plan"
JOBS+=" data doctor"

# score_jax.types.RESTART and what the shell makes of a stop that was asked for.
FINISHED=0 REFUSED=2 RESTART=75 STOPPED=130

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }
refuse() { say "$*"; exit "$REFUSED"; }

# The comment at the head of the script.
usage() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

# One line that a shell reads back as these words.
quoted() {
  local word line=""
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_./:=,@%+~-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

parse() {
  local valued=" ${1//$'\n'/ } " switches=" $2 dry_run help " count="$3" word name value
  shift 3
  while [ $# -gt 0 ]; do
    word="$1"
    shift
    case "$word" in
      --dry-run | --dry_run) opt_dry_run=yes; continue ;;
      --help | -h)
        [ ${#job[@]} -gt 0 ] || { usage; exit 0; } ;;
    esac
    if [ ${#job[@]} -gt 0 ]; then
      job+=("$word")
      continue
    fi
    case "$word" in
      --*) ;;
      -?*) refuse "unknown option $word; options are written --NAME=VALUE" ;;
      *)
        if [ ${#own[@]} -lt "$count" ]; then own+=("$word"); else job+=("$word"); fi
        continue ;;
    esac
    name="${word#--}" value="" name="${name%%=*}"
    name="${name//-/_}"
    case "$valued$switches" in
      *" $name "*) ;;
      *)
        [ -n "$pass_unknown" ] ||
          refuse "unknown option $word; known:$(known "$valued $switches")"
        passed+=("$word")
        continue ;;
    esac
    case "$switches" in
      *" $name "*)
        [ "$word" = "${word%%=*}" ] || refuse "${word%%=*} takes no value"
        value=yes ;;
      *)
        [ "$word" != "${word%%=*}" ] || refuse "$word has no value; write $word=VALUE"
        value="${word#*=}" ;;
    esac
    printf -v "opt_$name" '%s' "$value"
  done
}

known() {
  local name
  for name in $1; do printf ' --%s' "${name//_/-}"; done
}

# needs_job EXAMPLE: refuses where `job` does not begin with a job of score-jax.
needs_job() {
  [ ${#job[@]} -gt 0 ] || refuse "no job; write $PROGRAM $1"
  case " $JOBS " in
    *" ${job[0]} "*) ;;
    *) refuse "'${job[0]}' is no job of score-jax (options are --NAME=VALUE); known: $JOBS" ;;
  esac
}

# is_count NAME VALUE LEAST [MOST]: refuses what is no whole number from LEAST to MOST [999999999].
is_count() {
  case "$2" in
    # bash takes 08 for a number of base 8.
    '' | *[!0-9]* | 0?*) refuse "$1=$2 is no whole number" ;;
  esac
  if [ ${#2} -gt 9 ] || [ "$2" -gt "${4:-999999999}" ]; then
    refuse "$1=$2 is more than ${4:-999999999}"
  fi
  [ "$2" -ge "$3" ] || refuse "$1=$2 is less than $3"
}

# The whole numbers of a list such as 0-2,5, on one line: 0 1 2 5.
numbers() {
  local part low high all=()
  local IFS=,
  for part in $1; do
    low="${part%%-*}" high="${part##*-}"
    case "$low$high" in
      '' | *[!0-9]*) refuse "'$1' is no list of settings; write such as 0-2,5" ;;
    esac
    [ "$part" = "$low" ] || [ "$part" = "$low-$high" ] ||
      refuse "'$1' is no list of settings; write such as 0-2,5"
    is_count "a setting of '$1'" "$low" 0 9999
    is_count "a setting of '$1'" "$high" 0 9999
    [ "$low" -le "$high" ] || refuse "'$part' ends before it begins"
    while [ "$low" -le "$high" ]; do all+=("$low"); low=$((low + 1)); done
  done
  IFS=' '
  [ ${#all[@]} -gt 0 ] || refuse "an empty list of settings; write such as 0-2,5"
  printf '%s\n' "${all[*]}"
}

# Whether an exit code is 128 and a signal; SLURM's 253, out of memory, is not.
is_signal() { [ "$1" -gt 128 ] && [ "$1" -le 192 ]; }

# What an exit code of score-jax says, in words.
meaning() {
  case "$1" in
    "$FINISHED") echo "finished" ;;
    "$REFUSED") echo "refused (exit code 2: see its message)" ;;
    "$RESTART") echo "asks to be started again (exit code 75)" ;;
    "$STOPPED") echo "stopped as asked, after a save (exit code 130)" ;;
    *)
      if is_signal "$1"; then
        echo "ended by SIG$(kill -l "$1" 2>/dev/null || echo "NAL $(($1 - 128))") (exit code $1)"
      else
        echo "failed (exit code $1)"
      fi ;;
  esac
}

# How much an exit code matters beside others: what nobody can restart comes first.
severity() {
  case "$1" in
    "$FINISHED") echo 0 ;;
    "$STOPPED") echo 1 ;;
    "$RESTART") echo 2 ;;
    "$REFUSED") echo 5 ;;
    *) if is_signal "$1"; then echo 3; else echo 4; fi ;;
  esac
}

worse() {
  if [ "$(severity "$2")" -gt "$(severity "$1")" ]; then echo "$2"; else echo "$1"; fi
}

# Whether the same command may go on by itself: asked for, or a process was ended by a signal.
may_restart() {
  case "$(severity "$1")" in 2 | 3) return 0 ;; *) return 1 ;; esac
}
