# What the scripts of this folder share; sourced by them, from any working directory.
#
# BUILD_DIR  where everything is built (default: build/ in the source tree)
# JOBS       how many compilers run at once (default: one a core, fewer if memory is short)

set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD_DIR=${BUILD_DIR:-$ROOT/build}

say() { printf '%s\n' "$*" >&2; }
# die CODE TEXT...: exit codes as the programs' (2 usage, 4 environment).
die() {
  local code=$1
  shift
  say "$(basename "$0"): $*"
  exit "$code"
}

# A file that includes libtorch takes 1.2 GB to compile.
default_jobs() {
  local cores memory_kb by_memory
  cores=$(nproc)
  memory_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  by_memory=$((memory_kb / 1300000))
  [ "$by_memory" -ge 1 ] || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}
JOBS=${JOBS:-$(default_jobs)}

# quietly LOG COMMAND...: runs a command with its output in LOG; shows the end of it on failure.
quietly() {
  local log=$1 code=0
  shift
  mkdir -p "$(dirname "$log")" 2>/dev/null && : >"$log" 2>/dev/null ||
    die 4 "cannot write $log; own the source tree or set BUILD_DIR to a directory of yours"
  "$@" >"$log" 2>&1 </dev/null || code=$?
  if [ "$code" -ne 0 ]; then
    tail -n 40 "$log" >&2
    say "$(basename "$0"): '$*' failed with exit code $code; all of its output is in $log"
  fi
  return "$code"
}
