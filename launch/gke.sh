#!/usr/bin/env bash
# A run on TPUs of GKE, as a JobSet through XPK (https://github.com/AI-Hypercomputer/xpk, `pip install xpk`).
#
# launch/gke.sh cluster  --cluster C --zone ZONE --type v5litepod-256 [--slices N] [--spot]    makes cluster and TPU nodes
# launch/gke.sh run      --cluster C --zone ZONE --type TYPE --name NAME --image IMAGE [--slices N] -- COMMAND
# launch/gke.sh log      --name NAME          follows the log of process 0 (kubectl)
# launch/gke.sh state    --name NAME
# launch/gke.sh delete   --cluster C --zone ZONE --name NAME          the job; its pods get SIGTERM and save
# launch/gke.sh teardown --cluster C --zone ZONE                      the cluster
#
# --project P      the cloud project (else gcloud's default)
# --image IMAGE    a container image with ipt_jax[tpu] in it (docs/launch.md builds one)
# --restarts N     for run: start again so often when a pod is preempted or fails (default 10); the run goes on by itself
# --dry-run        print the commands and run none
# --help           this
#
# When `cluster` fails or is interrupted, what it created is deleted.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

action=${1:-}; [ $# -gt 0 ] && shift
CLUSTER='' ZONE='' TYPE='' NAME='' IMAGE='' PROJECT='' SLICES=1 RESTARTS=10 SPOT='' COMMAND=()
while [ $# -gt 0 ]; do
  case $1 in
    --cluster | --zone | --type | --name | --image | --project | --slices | --restarts)
      given=$(value "$@"); flag=$1; shift 2
      case $flag in
        --cluster) CLUSTER=$given ;; --zone) ZONE=$given ;; --type) TYPE=$given ;; --name) NAME=$given ;;
        --image) IMAGE=$given ;; --project) PROJECT=$given ;;
        --slices) [[ $given =~ ^[1-9][0-9]*$ ]] || die "--slices must be a number above 0, not '$given'"; SLICES=$given ;;
        --restarts) [[ $given =~ ^[0-9]+$ ]] || die "--restarts must be a number, not '$given'"; RESTARTS=$given ;;
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
case $action in log | state) tool kubectl https://kubernetes.io/docs/tasks/tools ;; *) tool xpk "pip install xpk" ;; esac
where=(--cluster "$CLUSTER" --zone "$ZONE"); [ -z "$PROJECT" ] || where+=(--project "$PROJECT")

CREATED=''
# shellcheck disable=SC2329  # the trap calls it
on_exit() {
  local code=$?
  trap '' INT TERM HUP PIPE
  end_child
  if [ -n "$CREATED" ] && [ $code -ne 0 ]; then
    run xpk cluster delete "${where[@]}" --force || echo "${0##*/}: $CLUSTER COULD NOT BE DELETED AND MAY COST MONEY: delete it by hand" >&2
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
    [ ${#COMMAND[@]} -gt 0 ] || die "give the command after --, such as -- ipt pretrain --config=..."
    tell_stops # else a pod that was told to go would count as done
    run xpk workload create "${where[@]}" --workload "$NAME" --tpu-type "$TYPE" --num-slices "$SLICES" --docker-image "$IMAGE" \
      --max-restarts "$RESTARTS" --restart-on-exit-codes "1,$STOPPED" --termination-grace-period-seconds 120 --command "$(quoted "${COMMAND[@]}")" ;;
  log) run kubectl logs --follow --selector "jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0" --tail=-1 ;;
  state) run kubectl get jobset "$NAME" -o 'custom-columns=NAME:.metadata.name,STATE:.status.terminalState,RESTARTS:.status.restarts' ;;
  delete) run xpk workload delete "${where[@]}" --workload "$NAME" --force ;;
  teardown) run xpk cluster delete "${where[@]}" --force ;;
esac
