#!/usr/bin/env bash
# Creates a TPU slice as a queued resource, copies this clone to its hosts, runs a command on all of
# them, follows its log, and deletes the slice.
#
# launch/tpu.sh create --name NAME --zone ZONE --type v5litepod-256 [--spot] [--wait SECONDS]
# launch/tpu.sh copy   --name NAME --zone ZONE
# launch/tpu.sh run    --name NAME --zone ZONE -- ipt pretrain --config=... --workdir=gs://...
# launch/tpu.sh log    --name NAME --zone ZONE
#     follows the log of host 0; the exit code is that of the command
# launch/tpu.sh state  --name NAME --zone ZONE
#     prints ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED (preempted), NONE or UNKNOWN
# launch/tpu.sh stop   --name NAME --zone ZONE
#     sends SIGTERM to the command, which saves and exits
# launch/tpu.sh delete --name NAME --zone ZONE
# launch/tpu.sh job    --name NAME --zone ZONE --type TYPE [--spot] -- COMMAND
#     create, copy, run and log; then delete
#
# --project P            the cloud project (default: that of gcloud)
# --version V            the image of the hosts (default: that of the type)
# --network N            the network of the hosts (default: that of the project)
# --service-account A    the service account of the hosts (default: that of the project)
# --wait SECONDS         for create: how long to wait for the slice before the request is deleted
#                        (default 3600)
# --keep                 for job: do not delete the slice at the end
# --dry-run              print the commands and run none
# --help                 print this help
#
# `run` starts the command under nohup on every host and returns; the processes find each other
# without flags. If `create` or `job` fails or is interrupted, it deletes what it created.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

action=${1:-}; [ $# -gt 0 ] && shift
NAME='' ZONE='' TYPE='' VERSION='' PROJECT='' NETWORK='' ACCOUNT='' SPOT='' KEEP='' WAIT=3600
COMMAND=()
while [ $# -gt 0 ]; do
  case $1 in
    --name | --zone | --type | --version | --project | --network | --service-account | --wait)
      given=$(value "$@"); flag=$1; shift 2
      case $flag in
        --name) NAME=$given ;;
        --zone) ZONE=$given ;;
        --type) TYPE=$given ;;
        --version) VERSION=$given ;;
        --project) PROJECT=$given ;;
        --network) NETWORK=$given ;;
        --service-account) ACCOUNT=$given ;;
        --wait)
          [[ $given =~ ^[0-9]+$ ]] || die "--wait must be a number of seconds, not '$given'"
          WAIT=$given ;;
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

# Prints the software version that Google's documentation names for each generation of TPUs.
image() {
  case $TYPE in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "unknown --type '$TYPE': use v4-N, v5litepod-N, v5p-N or v6e-N, or give --version" ;;
  esac
}

# Prints the state of the slice. If gcloud fails, it is UNKNOWN rather than NONE: the slice may
# exist and cost money.
state() {
  local errors describe=(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}")
  { errors=$("${describe[@]}" --format 'value(state.state)' 2>&1 >&3); } 3>&1 && return 0
  case $errors in
    *NOT_FOUND* | *'not found'*) echo NONE ;;
    *) echo "$errors" >&2; echo UNKNOWN ;;
  esac
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
  local code=0
  ERRORS=$(mktemp)
  run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${options[@]}" \
    2>"$ERRORS" || code=$?
  cat "$ERRORS" >&2
  if [ "$code" -ne 0 ]; then
    grep -qF '[project]' "$ERRORS" || return 1
    CREATED=''
    die "$NO_PROJECT"
  fi
  [ -z "$DRY_RUN" ] || return 0
  local end=$((SECONDS + WAIT)) now=''
  until [ "$now" = ACTIVE ]; do
    now=$(state)
    case $now in
      FAILED | SUSPENDED | SUSPENDING | NONE) echo "${0##*/}: $NAME is $now" >&2; return 1 ;;
      ACTIVE) ;;
      *)
        if [ $SECONDS -ge $end ]; then
          echo "${0##*/}: $NAME is still $now after $WAIT s" >&2
          return 1
        fi
        echo "$NAME: $now"
        sleep "${POLL:-20}" ;;
    esac
  done
}

# on_hosts WORKER COMMAND: runs a command on one host, or on all.
on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker "$1" --command "$2"
}

copy() {
  local archive
  archive=$(mktemp -t ipt-XXXXXX.tar.gz)
  ARCHIVE=$archive
  run git -C "$here/.." archive --format tar.gz --prefix ipt_jax/ -o "$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:ipt.tar.gz" "${where[@]}" --worker all
  local get='sudo apt-get -qq update && sudo apt-get -qq install -y python3.11 python3.11-venv'
  local python="(command -v python3.11 >/dev/null || ($get))"
  local install='python3.11 -m venv .venv && .venv/bin/pip install -qq -e ".[tpu]"'
  on_hosts all "tar xzf ipt.tar.gz && cd ipt_jax && $python && $install"
}

start() {
  need_command
  local script
  # Processes of other jobs on the network cannot join this run.
  script="export IPT_TOKEN=${IPT_TOKEN:-$(random_token)}; cd ipt_jax; PATH=\$PWD/.venv/bin:\$PATH; $(quoted "${COMMAND[@]}")& "
  script+="echo \$! >../ipt.pid; wait \$!; echo \$? >../ipt.code"
  on_hosts all "rm -f ipt.code; nohup bash -c $(quoted "$script")>ipt.log 2>&1 </dev/null &"
}

# Follows the log until the command has ended on host 0; the exit code is that of the command.
log() {
  # shellcheck disable=SC2016  # the shell of the host expands the variables
  local wait_for_end='while ! [ -s ipt.code ]; do sleep 5; done; sleep 1; kill $t'
  on_hosts 0 "tail -n +1 -F ipt.log & t=\$!; $wait_for_end; exit \"\$(cat ipt.code)\""
}

CREATED='' ARCHIVE='' ERRORS=''
# shellcheck disable=SC2329  # the trap calls it
on_exit() {
  local code=$?
  trap '' INT TERM HUP PIPE
  end_child
  [ -z "$ARCHIVE" ] || rm -f "$ARCHIVE"
  [ -z "$ERRORS" ] || rm -f "$ERRORS"
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
  state)
    if [ -z "$DRY_RUN" ]; then state
    else run gcloud compute tpus queued-resources describe "$NAME" "${where[@]}"; fi ;;
  stop) on_hosts all "kill -TERM \$(cat ipt.pid)" ;;
  delete) delete ;;
  job)
    need_command
    create; copy; start; log ;;
esac
