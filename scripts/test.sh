#!/usr/bin/env bash
# Sets up if needed, then runs every test. Arguments go to pytest: bash scripts/test.sh -k dialogue
set -u
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT" || exit 2
"$PYTHON" -m ruff check . || exit 1
"$PYTHON" -m ruff format --check . || exit 1
exec "$PYTHON" -m pytest "$@"
