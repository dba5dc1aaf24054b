#!/usr/bin/env bash
# The main job: bash run_eval.sh [CHECKPOINT] [overrides...]
#
# CHECKPOINT is the folder of a multimodal LLM (docs/models.md), which then clicks (`policy=agent`). No learnt policy ships
# yet: without it the simulated annotator (`policy=oracle`) clicks and stops at IoU 0.95, as a person would. The shipped
# segmenter `simpleclick_nano` answers, on the first 200 validation samples of refshapes. Overrides are those of
# scripts/evaluate.py.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
case "${1:-}" in
  "" | *=* | -*)
    echo "run_eval: no learnt policy ships yet; policy=oracle clicks with the target known, segmenter=simpleclick_nano answers"
    policy=(policy=oracle rollout.tau_stop=0.95)
    ;;
  *)
    policy=(policy=agent "mllm=$1")
    shift
    ;;
esac
out="$ROOT/results/run_eval.json"
exec "$PYTHON" "$ROOT/scripts/evaluate.py" data=refshapes data.split=val data.limit=200 segmenter=simpleclick_nano \
  rollout.max_clicks=7 "${policy[@]}" "out=$out" overwrite=true "$@"
