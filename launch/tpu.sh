#!/usr/bin/env bash
# A TPU slice as a queued resource: create it, copy this clone to all its hosts, run a command on all, follow, delete.
#
# launch/tpu.sh create --name NAME --zone ZONE --type v5litepod-256 [--spot] [--wait SECONDS]
# launch/tpu.sh copy   --name NAME --zone ZONE
# launch/tpu.sh run    --name NAME --zone ZONE -- ipt pretrain --config=... --workdir=gs://...
# launch/tpu.sh log    --name NAME --zone ZONE          follows the log of host 0
# launch/tpu.sh state  --name NAME --zone ZONE          ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED (preempted), NONE, UNKNOWN
# launch/tpu.sh stop   --name NAME --zone ZONE          SIGTERM to the command: it saves and leaves
# launch/tpu.sh delete --name NAME --zone ZONE
# launch/tpu.sh job    --name NAME --zone ZONE --type TYPE [--spot] -- COMMAND   all of these; deletes at the end
#
# --project P        the cloud project (else gcloud's default)
# --version V        the hosts' image; by default that of the type
# --network N --service-account A   of the hosts, where the project's defaults do not do
# --wait SECONDS     for create: give up, and delete the request, when the slice is not there by then (default 3600)
# --keep             for job: do not delete the slice at the end
# --dry-run          print the commands and run none
# --help             this
#
# `run` starts the command under nohup on every host and returns; the program finds the other hosts by itself. When `create`
# or `job` fails or is interrupted, what it created is deleted.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

action=${1:-}; [ $# -gt 0 ] && shift
NAME='' ZONE='' TYPE='' VERSION='' PROJECT='' NETWORK='' ACCOUNT='' SPOT='' KEEP='' WAIT=3600 COMMAND=()
while [ $# -gt 0 ]; do
  case $1 in
    --name | --zone | --type | --version | --project | --network | --service-account | --wait)
      given=$(value "$@"); flag=$1; shift 2
      case $flag in
        --name) NAME=$given ;; --zone) ZONE=$given ;; --type) TYPE=$given ;; --version) VERSION=$given ;;
        --project) PROJECT=$given ;; --network) NETWORK=$given ;; --service-account) ACCOUNT=$given ;;
        --wait) [[ $given =~ ^[0-9]+$ ]] || die "--wait must be a number of seconds, not '$given'"; WAIT=$given ;;
      esac ;;
    --spot) SPOT=1; shift ;;
    --keep) KEEP=1; shift ;;
    --dry-run) DRY_RUN=1; shift ;;
    --help | -h) help; exit 0 ;;
    --) shift; COMMAND=("$@"); break ;;
    *) die "unknown argument '$1'; see --help" ;;
  esac
done
case $action in
  create | copy | run | log | state | stop | delete | job) ;;
  --help | -h) help; exit 0 ;;
  *) die "name an action: create, copy, run, log, state, stop, delete or job; see --help" ;;
esac
need NAME --name; need ZONE --zone; name_is_good "$NAME"
tool gcloud https://cloud.google.com/sdk/docs/install
where=(--zone "$ZONE"); [ -z "$PROJECT" ] || where+=(--project "$PROJECT")

image() { # the software version that the documentation of each generation names
  case $TYPE in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "unknown --type '$TYPE': v4-N, v5litepod-N, v5p-N or v6e-N, or name its --version" ;;
  esac
}

state() { # what cannot be asked for is UNKNOWN, not NONE: it may be there, and cost
  local said
  { said=$(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format 'value(state.state)' 2>&1 >&3); } 3>&1 && return 0
  case $said in *NOT_FOUND* | *'not found'*) echo NONE ;; *) echo "$said" >&2; echo UNKNOWN ;; esac
}

delete() { run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet; }

create() {
  need TYPE --type
  [ -n "$VERSION" ] || VERSION=$(image)
  local options=(--node-id "$NAME" --accelerator-type "$TYPE" --runtime-version "$VERSION")
  [ -z "$SPOT" ] || options+=(--spot)
  [ -z "$NETWORK" ] || options+=(--network "$NETWORK")
  [ -z "$ACCOUNT" ] || options+=(--service-account "$ACCOUNT")
  CREATED=1
  run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${options[@]}"
  [ -z "$DRY_RUN" ] || return 0
  local end=$((SECONDS + WAIT)) now=''
  until [ "$now" = ACTIVE ]; do
    now=$(state)
    case $now in
      FAILED | SUSPENDED | SUSPENDING | NONE) echo "${0##*/}: $NAME is $now" >&2; return 1 ;;
      ACTIVE) ;;
      *)
        [ $SECONDS -lt $end ] || { echo "${0##*/}: $NAME is still $now after $WAIT s" >&2; return 1; }
        echo "$NAME: $now"; sleep "${POLL:-20}" ;;
    esac
  done
}

on_hosts() { # on_hosts WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker "$1" --command "$2"
}

copy() {
  local archive
  archive=$(mktemp -t ipt-XXXXXX.tar.gz)
  ARCHIVE=$archive
  run git -C "$here/.." archive --format tar.gz --prefix ipt_jax/ -o "$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:ipt.tar.gz" "${where[@]}" --worker all
  on_hosts all 'tar xzf ipt.tar.gz && cd ipt_jax && (command -v python3.11 >/dev/null || (sudo apt-get -qq update && sudo apt-get -qq install -y python3.11 python3.11-venv)) && python3.11 -m venv .venv && .venv/bin/pip install -qq -e ".[tpu]"'
}

start() {
  [ ${#COMMAND[@]} -gt 0 ] || die "give the command after --, such as -- ipt pretrain --config=..."
  local script
  script="cd ipt_jax; PATH=\$PWD/.venv/bin:\$PATH; $(quoted "${COMMAND[@]}")& echo \$! >../ipt.pid; wait \$!; echo \$? >../ipt.code"
  on_hosts all "rm -f ipt.code; nohup bash -c $(quoted "$script")>ipt.log 2>&1 </dev/null &"
}

# Until the command has ended on host 0; then its exit code.
log() {
  # shellcheck disable=SC2016  # for the shell there
  on_hosts 0 'tail -n +1 -F ipt.log & t=$!; while ! [ -s ipt.code ]; do sleep 5; done; sleep 1; kill $t; exit "$(cat ipt.code)"'
}

CREATED='' ARCHIVE=''
# shellcheck disable=SC2329  # the trap calls it
on_exit() {
  local code=$?
  trap '' INT TERM HUP PIPE
  end_child
  [ -z "$ARCHIVE" ] || rm -f "$ARCHIVE"
  if [ -n "$CREATED" ] && [ -z "$KEEP" ] && { [ $code -ne 0 ] || [ "$action" = job ]; }; then
    delete || echo "${0##*/}: $NAME COULD NOT BE DELETED AND MAY COST MONEY: delete it by hand" >&2
  fi
  exit "$code"
}
trap on_exit EXIT
trap 'exit 130' INT TERM HUP PIPE

case $action in
  create) create ;;
  copy) copy ;;
  run) start ;;
  log) log ;;
  state) if [ -n "$DRY_RUN" ]; then run gcloud compute tpus queued-resources describe "$NAME" "${where[@]}"; else state; fi ;;
  stop) on_hosts all "kill -TERM \$(cat ipt.pid)" ;;
  delete) delete ;;
  job) [ ${#COMMAND[@]} -gt 0 ] || die "give the command after --"; create; copy; start; log ;;
esac
