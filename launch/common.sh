# Functions that the scripts in this folder share: --help, --dry-run, running a command. Source it.
# shellcheck shell=bash
set -euo pipefail

DRY_RUN=${DRY_RUN:-}

die() { echo "${0##*/}: $*" >&2; exit 2; }

# Prints the comment at the top of the script, which is its help.
help() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"; }

# Prints a command so that it can be pasted into a shell; runs it unless this is a dry run.
# A signal to the script also ends the command. Printing may fail (a closed terminal, a dead
# `| tee`); a command that deletes resources must run nevertheless.
CHILD=''
run() {
  { printf '+'; printf ' %q' "$@"; echo; } || true
  [ -z "$DRY_RUN" ] || return 0
  local code=0
  "$@" </dev/null &
  CHILD=$!
  wait "$CHILD" || code=$?
  CHILD=''
  return $code
}

end_child() {
  [ -z "$CHILD" ] || { kill -TERM "$CHILD" 2>/dev/null && wait "$CHILD"; } || true
  CHILD=''
}

# need VARIABLE --flag: fails if the flag was not given.
need() {
  [ -n "${!1:-}" ] || die "$2 is missing; see --help"
}

# Fails if no command was given after --.
need_command() {
  [ ${#COMMAND[@]} -gt 0 ] ||
    die "give the command after --, such as -- ipt pretrain --config=..."
}

# tool NAME HOW-TO-INSTALL-IT: fails if a program is not installed.
tool() {
  [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

# value FLAG "$@": prints the argument of a flag, which becomes part of a line of a job script.
value() {
  [ $# -ge 2 ] && [ -n "$2" ] || die "$1 needs a value"
  [[ $2 != *[[:cntrl:]]* ]] || die "the value of $1 contains a line break or a control character"
  printf '%s' "$2"
}

# Checks the name of a cloud resource.
name_is_good() {
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "--name must be lower-case letters, digits and dashes, not '$1'"
}

# Makes a training command end with this exit code after a signal has stopped it and it has saved.
# Otherwise it would end with 0, as after its last step.
STOPPED=75
tell_stops() {
  case " ${COMMAND[*]} " in
    *" pretrain "* | *" finetune "*) COMMAND+=("--stopped-code=$STOPPED") ;;
  esac
}

# Prints 32 random hexadecimal digits.
random_token() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

quoted() { printf '%q ' "$@"; }

# What the launchers of TPUs say when gcloud's error names the property [project].
# shellcheck disable=SC2034  # the scripts that read this file use it
NO_PROJECT="no project is set, so nothing was created: give --project, or run gcloud config set \
project PROJECT"
