#!/usr/bin/env bash
# Sets up if needed, then runs every test, as many at once as there are cores, at most four (each loads torch, some a model
# of a gigabyte). Arguments go to pytest: bash scripts/test.sh -k dialogue; -n 0 for one after the other, as a debugger needs.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT" || exit 2
# An extra that commands do without; its tests would all be skipped.
"$PYTHON" -c 'import ray' 2>/dev/null || {
  echo "setup: installing Ray, for the tests of engine=ray"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -e "$ROOT[ray]" ||
    echo "setup: no Ray (see above); the tests that need it are skipped" >&2
}
"$PYTHON" -m ruff check . || exit 1
"$PYTHON" -m ruff format --check . || exit 1
cores="$("$PYTHON" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
workers=$((cores < 4 ? cores : 4))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores / workers))}"
exec "$PYTHON" -m pytest --numprocesses="$workers" --dist=worksteal "$@"
