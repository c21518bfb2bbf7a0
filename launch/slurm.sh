#!/usr/bin/env bash
# Runs a command on the GPUs of a Slurm cluster, with one task per GPU. The tasks find each other by
# Slurm's variables.
#
# launch/slurm.sh --nodes N --gpus G [--time D-HH:MM:SS] [--partition P] [--account A] [--name NAME]
#                 -- ipt pretrain ...
#
# --nodes N              the number of nodes
# --gpus G               the number of GPUs of each node
# --cpus C               the number of cores of each task (default 8)
# --time T               the time limit (default 1-00:00:00); two minutes before it, the tasks get
#                        SIGTERM, and the run saves and exits
# --again                requeue the job when the limit or a preemption has ended it; the run
#                        resumes from its newest intact checkpoint
# --environment DIR      a virtual environment with ipt_jax[cuda] (default: .venv of this clone)
# --follow               follow the log; an interrupt then cancels the job
# --dry-run              print the job script and the command and run none
# --help                 print this help
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

NODES='' GPUS='' CPUS=8 TIME=1-00:00:00 PARTITION='' ACCOUNT='' NAME=ipt AGAIN='' FOLLOW=''
ENVIRONMENT="$here/../.venv" COMMAND=()
while [ $# -gt 0 ]; do
  case $1 in
    --nodes | --gpus | --cpus)
      given=$(value "$@")
      [[ $given =~ ^[1-9][0-9]*$ ]] || die "$1 must be a number above 0, not '$given'"
      case $1 in --nodes) NODES=$given ;; --gpus) GPUS=$given ;; --cpus) CPUS=$given ;; esac
      shift 2 ;;
    --time) TIME=$(value "$@"); shift 2 ;;
    --partition) PARTITION=$(value "$@"); shift 2 ;;
    --account) ACCOUNT=$(value "$@"); shift 2 ;;
    --name) NAME=$(value "$@"); shift 2 ;;
    --environment) ENVIRONMENT=$(value "$@"); shift 2 ;;
    --again) AGAIN=1; shift ;;
    --follow) FOLLOW=1; shift ;;
    --dry-run) DRY_RUN=1; shift ;;
    --help | -h) help; exit 0 ;;
    --) shift; COMMAND=("$@"); break ;;
    *) die "unknown argument '$1'; see --help" ;;
  esac
done
need NODES --nodes; need GPUS --gpus; name_is_good "$NAME"
need_command
[ -z "$AGAIN" ] || tell_stops
tool sbatch "run this script on a login node of the cluster"

job() {
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --cpus-per-task=$CPUS
#SBATCH --time=$TIME
#SBATCH --output=$NAME-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
${PARTITION:+#SBATCH --partition=$PARTITION
}${ACCOUNT:+#SBATCH --account=$ACCOUNT
}${AGAIN:+#SBATCH --requeue
}set -uo pipefail
PATH=$(printf %q "$ENVIRONMENT")/bin:\$PATH
# Tasks of other jobs cannot join this run. srun passes the variable to the tasks.
IPT_TOKEN=\$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export IPT_TOKEN
# At a preemption, Slurm signals this script only; at the time limit, it signals the tasks of srun.
trap 'kill -TERM "\$child" 2>/dev/null' TERM
srun --kill-on-bad-exit=1 $(quoted "${COMMAND[@]}")&
child=\$!
wait "\$child"; code=\$?
while kill -0 "\$child" 2>/dev/null; do wait "\$child"; code=\$?; done
END
  [ -z "$AGAIN" ] || echo "[ \$code -ne $STOPPED ] || scontrol requeue \"\$SLURM_JOB_ID\""
  echo "exit \$code"
}

SCRIPT='' ID=''
# shellcheck disable=SC2329  # the trap calls it
on_exit() {
  local code=$?
  trap '' INT TERM HUP PIPE
  end_child
  [ -z "$SCRIPT" ] || rm -f "$SCRIPT"
  [ -z "$ID" ] || [ "$code" -eq 0 ] || run scancel "$ID"
  exit "$code"
}
trap on_exit EXIT
trap 'exit 130' INT TERM HUP PIPE

if [ -n "$DRY_RUN" ]; then
  job
  run sbatch --parsable "$NAME.sbatch"
  [ -z "$FOLLOW" ] || run tail -n +1 -F "$NAME-JOB.log"
  exit 0
fi
SCRIPT=$(mktemp)
job >"$SCRIPT"
ID=$(sbatch --parsable "$SCRIPT"); ID=${ID%%;*}
echo "job $ID; its log is $NAME-$ID.log; to save and stop it: scancel --signal=TERM $ID"
if [ -z "$FOLLOW" ]; then ID=''; exit 0; fi
tail -n +1 -F "$NAME-$ID.log" 2>/dev/null &
CHILD=$!
while state=$(squeue --noheader --format %T --job "$ID" 2>/dev/null) && [ -n "$state" ]; do
  sleep "${POLL:-10}" &
  wait $!
done
codes=$(sacct --noheader --parsable2 --allocations --format ExitCode --job "$ID")
ID=''
# The first line's number before the colon.
exit "${codes%%:*}"
