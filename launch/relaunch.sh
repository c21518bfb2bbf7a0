#!/usr/bin/env bash
# Recreates preempted spot slices: deletes the slice, requests it again, and starts the same
# command. `ipt pretrain` resumes from its newest intact checkpoint, so its workdir must be on
# gs://.
#
# launch/relaunch.sh --name NAME --zone ZONE --type TYPE [--spot] ...
#                    -- ipt pretrain --config=... --workdir=gs://...
#
# --times N     give up after this many starts (default 100)
# --faults N    give up after this many failures of the command itself in a row (default 3)
# --dry-run     print the commands of one start and run none
# --help        print this help
#
# All other flags are those of launch/tpu.sh. The exit code is 0 once the command has ended with 0.
# The slice is deleted in any case.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

TIMES=100 FAULTS=3 FLAGS=() COMMAND=() WHERE=()
while [ $# -gt 0 ]; do
  case $1 in
    --times | --faults)
      given=$(value "$@")
      [[ $given =~ ^[1-9][0-9]*$ ]] || die "$1 must be a number above 0, not '$given'"
      if [ "$1" = --times ]; then TIMES=$given; else FAULTS=$given; fi
      shift 2 ;;
    --name | --zone | --project) WHERE+=("$1" "$(value "$@")"); shift 2 ;;
    --help | -h) help; exit 0 ;;
    --dry-run) DRY_RUN=1; shift ;;
    --) shift; COMMAND=("$@"); break ;;
    *) FLAGS+=("$1"); shift ;;
  esac
done
need_command
case " ${COMMAND[*]} " in
  *" --workdir=gs://"* | *" --workdir gs://"*) ;;
  *) die "the command's --workdir must be on gs://: a preempted slice loses its disks" ;;
esac
tell_stops
tpu() { "$here/tpu.sh" "$@"; }
if [ -n "$DRY_RUN" ]; then
  exec "$here/tpu.sh" job "${WHERE[@]}" "${FLAGS[@]}" --dry-run -- "${COMMAND[@]}"
fi

# Without a project, every start would look like a preemption. The output is read to its end: under
# `pipefail`, a reader that stops early makes the writer fail, and the pipe with it.
answer=$(tpu state "${WHERE[@]}" 2>&1) || true
case $answer in
  *'[project]'*) die "$NO_PROJECT" ;;
esac

child=''
# shellcheck disable=SC2329  # the trap calls it
on_exit() {
  local code=$?
  trap '' INT TERM HUP PIPE
  [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; } || true
  [ "$(tpu state "${WHERE[@]}")" = NONE ] || tpu delete "${WHERE[@]}" ||
    echo "${0##*/}: the slice COULD NOT BE DELETED AND MAY COST MONEY: delete it by hand" >&2
  exit "$code"
}
trap on_exit EXIT
trap 'exit 130' INT TERM HUP PIPE

faults=0
for ((start = 1; start <= TIMES; start++)); do
  echo "start $start of at most $TIMES"
  tpu job "${WHERE[@]}" "${FLAGS[@]}" --keep -- "${COMMAND[@]}" &
  child=$!
  code=0; wait "$child" || code=$?
  child=''
  [ $code -ne 0 ] || exit 0
  # The state shows a preemption only after some time.
  sleep "${POLL:-20}"
  state=$(tpu state "${WHERE[@]}")
  if [ "$state" = ACTIVE ] && [ $code -ne $STOPPED ]; then
    faults=$((faults + 1))
    echo "the command ended with $code on a slice that is alive: fault $faults of $FAULTS" >&2
    # Wrong usage or input stays wrong.
    [ $code -ne 2 ] || exit 2
    [ $faults -lt "$FAULTS" ] || exit 1
  else
    faults=0
    echo "the slice is $state: preempted, or not available (the command ended with $code)" >&2
  fi
  [ "$state" = NONE ] || tpu delete "${WHERE[@]}"
done
echo "gave up after $TIMES starts" >&2
exit 1
