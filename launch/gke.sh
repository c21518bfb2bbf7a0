#!/usr/bin/env bash
# Runs a command on TPUs of GKE, as a JobSet through XPK
# (https://github.com/AI-Hypercomputer/xpk, `pip install xpk`).
#
# launch/gke.sh cluster  --cluster C --zone ZONE --type v5litepod-256 [--slices N] [--spot]
#     creates the cluster and its TPU nodes
# launch/gke.sh run      --cluster C --zone ZONE --type TYPE --name NAME --image IMAGE
#                        [--slices N] -- COMMAND
#     starts the job
# launch/gke.sh log      --name NAME
#     follows the log of process 0 (kubectl)
# launch/gke.sh state    --name NAME
#     prints the state of the job
# launch/gke.sh delete   --cluster C --zone ZONE --name NAME
#     deletes the job; its pods get SIGTERM, and the run saves
# launch/gke.sh teardown --cluster C --zone ZONE
#     deletes the cluster
#
# --project P      the cloud project (default: that of gcloud)
# --image IMAGE    a container image with ipt_jax[tpu] (docs/launch.md builds one)
# --restarts N     for run: how often to restart when a pod is preempted or fails (default 10); the
#                  run resumes from its newest intact checkpoint
# --dry-run        print the commands and run none
# --help           print this help
#
# If `cluster` fails or is interrupted, it deletes what it created.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

action=${1:-}; [ $# -gt 0 ] && shift
CLUSTER='' ZONE='' TYPE='' NAME='' IMAGE='' PROJECT=''
SLICES=1 RESTARTS=10 SPOT='' COMMAND=()
while [ $# -gt 0 ]; do
  case $1 in
    --cluster | --zone | --type | --name | --image | --project | --slices | --restarts)
      given=$(value "$@"); flag=$1; shift 2
      case $flag in
        --cluster) CLUSTER=$given ;;
        --zone) ZONE=$given ;;
        --type) TYPE=$given ;;
        --name) NAME=$given ;;
        --image) IMAGE=$given ;;
        --project) PROJECT=$given ;;
        --slices)
          [[ $given =~ ^[1-9][0-9]*$ ]] || die "--slices must be a number above 0, not '$given'"
          SLICES=$given ;;
        --restarts)
          [[ $given =~ ^[0-9]+$ ]] || die "--restarts must be a number, not '$given'"
          RESTARTS=$given ;;
      esac ;;
    --spot) SPOT=1; shift ;;
    --dry-run) DRY_RUN=1; shift ;;
    --help | -h) help; exit 0 ;;
    --) shift; COMMAND=("$@"); break ;;
    *) die "unknown argument '$1'; see --help" ;;
  esac
done
case $action in
  cluster | teardown) need CLUSTER --cluster; need ZONE --zone ;;
  run | delete) need CLUSTER --cluster; need ZONE --zone; need NAME --name ;;
  log | state) need NAME --name ;;
  --help | -h) help; exit 0 ;;
  *) die "name an action: cluster, run, log, state, delete or teardown; see --help" ;;
esac
[ -z "$NAME" ] || name_is_good "$NAME"
case $action in
  log | state) tool kubectl https://kubernetes.io/docs/tasks/tools ;;
  *) tool xpk "pip install xpk" ;;
esac
where=(--cluster "$CLUSTER" --zone "$ZONE"); [ -z "$PROJECT" ] || where+=(--project "$PROJECT")

CREATED=''
# shellcheck disable=SC2329  # the trap calls it
on_exit() {
  local code=$?
  trap '' INT TERM HUP PIPE
  end_child
  if [ -n "$CREATED" ] && [ $code -ne 0 ]; then
    run xpk cluster delete "${where[@]}" --force ||
      echo "${0##*/}: $CLUSTER COULD NOT BE DELETED AND MAY COST MONEY: delete it by hand" >&2
  fi
  exit "$code"
}
trap on_exit EXIT
trap 'exit 130' INT TERM HUP PIPE

case $action in
  cluster)
    need TYPE --type
    kind=--on-demand; [ -z "$SPOT" ] || kind=--spot
    CREATED=1
    run xpk cluster create "${where[@]}" --tpu-type "$TYPE" --num-slices "$SLICES" "$kind"
    CREATED='' ;;
  run)
    need TYPE --type; need IMAGE --image
    need_command
    # Without its own exit code, a pod that was preempted would count as complete.
    tell_stops
    # Processes of other jobs in the cluster cannot join this run.
    COMMAND=(env "IPT_TOKEN=${IPT_TOKEN:-$(random_token)}" "${COMMAND[@]}")
    run xpk workload create "${where[@]}" --workload "$NAME" --tpu-type "$TYPE" \
      --num-slices "$SLICES" --docker-image "$IMAGE" --max-restarts "$RESTARTS" \
      --restart-on-exit-codes "1,$STOPPED" --termination-grace-period-seconds 120 \
      --command "$(quoted "${COMMAND[@]}")" ;;
  log)
    pod="jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0"
    pod+=",batch.kubernetes.io/job-completion-index=0"
    run kubectl logs --follow --selector "$pod" --tail=-1 ;;
  state)
    columns='custom-columns=NAME:.metadata.name,STATE:.status.terminalState'
    columns+=',RESTARTS:.status.restarts'
    run kubectl get jobset "$NAME" -o "$columns" ;;
  delete) run xpk workload delete "${where[@]}" --workload "$NAME" --force ;;
  teardown) run xpk cluster delete "${where[@]}" --force ;;
esac
