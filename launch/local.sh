#!/usr/bin/env bash
# Runs a command on several processes of this machine: to test what a pod does, or with one process
# per GPU.
#
# launch/local.sh --processes N [--devices D] [--port P] -- ipt pretrain --config=FILE --workdir=DIR
#
# --processes N    the number of processes
# --devices D      simulated CPU devices of each process (default 1; not for accelerators)
# --gpus           give GPU i to process i
# --port P         the port of process 0 (default 8476; the next port is used as well)
# --dry-run        print the commands and run none
# --help           print this help
#
# The output of process 0 is shown; that of the others has their number in front. If one process
# ends with an error, all end. After Ctrl-C or SIGTERM, the run saves and exits; a second signal
# kills it. If this script itself is killed, the processes get SIGTERM, and SIGKILL a minute later.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

PROCESSES='' DEVICES='' PORT=8476 GPUS='' COMMAND=()
while [ $# -gt 0 ]; do
  case $1 in
    --processes | --devices | --port)
      given=$(value "$@")
      [[ $given =~ ^[1-9][0-9]*$ ]] || die "$1 must be a number above 0, not '$given'"
      case $1 in
        --processes) PROCESSES=$given ;;
        --devices) DEVICES=$given ;;
        --port) PORT=$given ;;
      esac
      shift 2 ;;
    --gpus) GPUS=1; shift ;;
    --dry-run) DRY_RUN=1; shift ;;
    --help | -h) help; exit 0 ;;
    --) shift; COMMAND=("$@"); break ;;
    *) die "unknown argument '$1'; see --help" ;;
  esac
done
need PROCESSES --processes
need_command
[ -z "$GPUS" ] || [ -z "$DEVICES" ] || die "--devices is for CPUs, --gpus for GPUs: not both"

# Processes of other runs and of other users cannot join this run (see docs/launch.md).
IPT_TOKEN=${IPT_TOKEN:-$(random_token)}
export IPT_TOKEN

pids=()
watcher=''
signalled=0
# shellcheck disable=SC2329  # the traps call these
to_all() { [ ${#pids[@]} -eq 0 ] || kill "-$1" "${pids[@]}" 2>/dev/null || true; }
# shellcheck disable=SC2329
on_signal() {
  # The first signal asks the processes to save and exit, the second kills them.
  signalled=$((signalled + 1))
  if [ "$signalled" -eq 1 ]; then to_all TERM; else exit 130; fi
}
# shellcheck disable=SC2329
end_watcher() { [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true; }
trap 'code=$?; end_watcher; to_all KILL; exit $code' EXIT
trap on_signal INT TERM HUP

for ((i = 0; i < PROCESSES; i++)); do
  settings=("IPT_COORDINATOR=127.0.0.1:$PORT" "IPT_NUM_PROCESSES=$PROCESSES" "IPT_PROCESS_ID=$i")
  [ -z "$GPUS" ] || settings+=("CUDA_VISIBLE_DEVICES=$i")
  if [ -n "$DEVICES" ]; then
    flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES"
    settings+=("JAX_PLATFORMS=cpu" "XLA_FLAGS=$flags")
  fi
  if [ -n "$DRY_RUN" ]; then run env "${settings[@]}" "${COMMAND[@]}"; continue; fi
  if [ "$i" = 0 ]; then env "${settings[@]}" "${COMMAND[@]}" </dev/null &
  else env "${settings[@]}" "${COMMAND[@]}" </dev/null > >(sed "s/^/[$i] /") 2>&1 & fi
  pids+=($!)
done

# A killed script runs no trap, so another process watches it.
if [ ${#pids[@]} -gt 0 ]; then
  (
    trap - EXIT
    trap '' INT HUP
    trap 'exit 0' TERM
    while kill -0 $$ 2>/dev/null; do sleep 1; done
    to_all TERM
    for ((second = 0; second < 60; second++)); do
      kill -0 "${pids[@]}" 2>/dev/null || break
      sleep 1
    done
    to_all KILL
  ) </dev/null >/dev/null 2>&1 &
  watcher=$!
fi

worst=0
for pid in "${pids[@]}"; do
  while true; do
    code=0; wait "$pid" || code=$?
    # If the process is still alive, a signal has interrupted the wait.
    kill -0 "$pid" 2>/dev/null || break
  done
  [ "$code" -le "$worst" ] || worst=$code
done
pids=()
exit "$worst"
