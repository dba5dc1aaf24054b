#!/usr/bin/env bash
# The main job: bash run_eval.sh [CHECKPOINT] [overrides...]
#
# No learnt policy ships yet: without arguments the simulated annotator (`policy=oracle`) clicks, the weight-free `graphcut`
# segmenter answers, on the first 120 validation samples of refshapes; it stops at IoU 0.95, as a person would. Overrides are those of scripts/evaluate.py.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
case "${1:-}" in
  "" | *=* | -*) ;;
  *) fail "checkpoint '$1': this version has no learnt policy to load it into; run without it, or give key=value settings" ;;
esac
echo "run_eval: no learnt policy ships yet; defaults are policy=oracle (clicks with the target known), segmenter=graphcut"
out="$ROOT/results/run_eval.json"
exec "$PYTHON" "$ROOT/scripts/evaluate.py" data=refshapes data.split=val data.limit=120 policy=oracle segmenter=graphcut \
  rollout.max_clicks=7 rollout.tau_stop=0.95 "out=$out" overwrite=true "$@"
