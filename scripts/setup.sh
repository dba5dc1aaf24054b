# Sourced by run_eval.sh and scripts/test.sh: makes or reuses a Python environment with env.txt in it.
#
# An active virtual environment (or conda environment) is used as it is; otherwise .venv in the repository. What is there is
# kept: a stamp holds the hash of env.txt, and only a changed env.txt installs again. Sets ROOT and PYTHON.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() { echo "error: $*" >&2; exit 2; }

active="${VIRTUAL_ENV:-}"
# conda's base is active in every shell of some machines without anybody having chosen it.
[ -z "$active" ] && [ "${CONDA_DEFAULT_ENV:-base}" != "base" ] && active="${CONDA_PREFIX:-}"
if [ -n "$active" ] && [ -x "$active/bin/python" ]; then
  PYTHON="$active/bin/python"
  where="active environment $active"
  [ "$active" = "$ROOT/.venv" ] && where=".venv"
else
  PYTHON="$ROOT/.venv/bin/python"
  where=".venv"
  if ! "$PYTHON" -c 'import pip' 2>/dev/null; then
    base=""
    for candidate in python3.13 python3.12 python3.11 python3 python3.14 python; do  # 3.14 lacks some wheels
      if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then base="$candidate"; break; fi
    done
    [ -n "$base" ] || fail "no Python 3.11 or newer found; install one and run this again"
    echo "setup: making .venv with $("$base" --version)"
    "$base" -m venv --clear "$ROOT/.venv" || fail "could not make $ROOT/.venv (on Debian: apt install python3-venv)"
  fi
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is older than Python 3.11"

"$PYTHON" -c 'import pip' 2>/dev/null || "$PYTHON" -m ensurepip >/dev/null 2>&1 ||
  fail "$where has no pip (environments of uv have none); install it there, or deactivate the environment"

prefix="$("$PYTHON" -c 'import sys; print(sys.prefix)')"
stamp="$prefix/.segagent-env"
wanted="$(cat "$ROOT/env.txt" "$ROOT/pyproject.toml" | "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())') $ROOT"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setup: installing env.txt into $where"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$ROOT/env.txt" || fail "pip could not install env.txt (see above)"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps -e "$ROOT" || fail "pip could not install the package"
  echo "$wanted" >"$stamp"
else
  echo "setup: $where is ready"
fi
