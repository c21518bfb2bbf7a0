# Shared by the scripts here: --help and --dry-run, and running (or only printing) a command. To be sourced.
# shellcheck shell=bash
set -euo pipefail

DRY_RUN=${DRY_RUN:-}

die() { echo "${0##*/}: $*" >&2; exit 2; }

# The comment at the top of a script is its help.
help() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"; }

# Prints the command as it could be typed; runs it unless this is a dry run. A signal to the script ends it, too.
# Where nobody is left to read (a closed terminal, a dead `| tee`), what deletes must still run.
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

need() { # need VARIABLE --flag
  [ -n "${!1:-}" ] || die "$2 is missing; see --help"
}

tool() { # tool NAME WHERE-FROM
  [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

value() { # value FLAG "$@": the argument of a flag
  [ $# -ge 2 ] && [ -n "$2" ] || die "$1 needs a value"
  printf '%s' "$2"
}

name_is_good() { # of cloud resources
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || die "--name must be lower-case letters, digits and dashes, not '$1'"
}

# A training command that was told to stop and saved ends with this code, so that it is not taken for one that is done.
STOPPED=75
tell_stops() {
  case " ${COMMAND[*]} " in *" pretrain "* | *" finetune "*) COMMAND+=("--stopped-code=$STOPPED") ;; esac
}

quoted() { printf '%q ' "$@"; }
