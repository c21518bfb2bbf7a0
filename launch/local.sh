#!/usr/bin/env bash
# A run on several processes of this machine: to try what a pod does, or one process for each GPU.
#
# launch/local.sh --processes N [--devices D] [--port P] -- ipt pretrain --config=configs/demo.py --workdir=runs/demo
#
# --processes N    how many
# --devices D      simulated CPU devices of each (default 1; not for accelerators)
# --gpus           give process i the GPU i
# --port P         of process 0 (default 8476; the next port is used, too)
# --dry-run        print the commands
# --help           this
#
# Output of process 0 is shown, the others' follow their number. When one ends with an error all do; nothing is left.
# Ctrl-C or SIGTERM: the run saves and leaves; once more: it is killed.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

PROCESSES='' DEVICES='' PORT=8476 GPUS='' COMMAND=()
while [ $# -gt 0 ]; do
  case $1 in
    --processes | --devices | --port)
      given=$(value "$@"); [[ $given =~ ^[1-9][0-9]*$ ]] || die "$1 must be a number above 0, not '$given'"
      case $1 in --processes) PROCESSES=$given ;; --devices) DEVICES=$given ;; --port) PORT=$given ;; esac
      shift 2 ;;
    --gpus) GPUS=1; shift ;;
    --dry-run) DRY_RUN=1; shift ;;
    --help | -h) help; exit 0 ;;
    --) shift; COMMAND=("$@"); break ;;
    *) die "unknown argument '$1'; see --help" ;;
  esac
done
need PROCESSES --processes
[ ${#COMMAND[@]} -gt 0 ] || die "give the command after --, such as -- ipt pretrain --config=..."
[ -z "$GPUS" ] || [ -z "$DEVICES" ] || die "--devices is for CPUs, --gpus for GPUs: not both"

pids=()
signalled=0
# shellcheck disable=SC2329  # the traps call these
to_all() { [ ${#pids[@]} -eq 0 ] || kill "-$1" "${pids[@]}" 2>/dev/null || true; }
# shellcheck disable=SC2329
on_signal() { # the first asks them to save and leave, the second does not ask
  signalled=$((signalled + 1))
  if [ "$signalled" -eq 1 ]; then to_all TERM; else exit 130; fi
}
trap 'code=$?; to_all KILL; exit $code' EXIT
trap on_signal INT TERM HUP

for ((i = 0; i < PROCESSES; i++)); do
  settings=("IPT_COORDINATOR=127.0.0.1:$PORT" "IPT_NUM_PROCESSES=$PROCESSES" "IPT_PROCESS_ID=$i")
  [ -z "$GPUS" ] || settings+=("CUDA_VISIBLE_DEVICES=$i")
  [ -z "$DEVICES" ] || settings+=("JAX_PLATFORMS=cpu" "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES")
  if [ -n "$DRY_RUN" ]; then run env "${settings[@]}" "${COMMAND[@]}"; continue; fi
  if [ "$i" = 0 ]; then env "${settings[@]}" "${COMMAND[@]}" </dev/null &
  else env "${settings[@]}" "${COMMAND[@]}" </dev/null > >(sed "s/^/[$i] /") 2>&1 & fi
  pids+=($!)
done

worst=0
for pid in "${pids[@]}"; do
  while true; do
    code=0; wait "$pid" || code=$?
    kill -0 "$pid" 2>/dev/null || break # else a signal interrupted the wait
  done
  [ "$code" -le "$worst" ] || worst=$code
done
pids=()
exit "$worst"
