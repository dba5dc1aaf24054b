#!/usr/bin/env bash
# From nothing to weights like those that ship: bash scripts/reproduce_nano.sh [OUT [policy]]   (default: runs/nano)
#
# The click segmenter; the tower of the policy; trajectories of the simulated annotator with that segmenter; the policy.
# With `policy` the segmenter is the one that ships. Killed and started again, it goes on where it was.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
out="${1:-runs/nano}"
segmenter=(segmenter=simpleclick_nano)
case "${2:-all}" in
  policy) ;;
  all)
    "$PYTHON" scripts/train_segmenter.py network=simpleclick_nano data=refshapes_mix train.precision=bfloat16 threads=2 \
      "out=$out/segmenter" resume=true
    segmenter+=("segmenter.path=$out/segmenter/best")
    ;;
  *) fail "$2: say policy, or nothing" ;;
esac
"$PYTHON" scripts/pretrain_tower.py "out=$out/tower" resume=true
"$PYTHON" scripts/simulate.py data=refshapes_mix data.datasets.short.split=train data.limit=4300 "${segmenter[@]}" \
  simulate.max_clicks=6 simulate.tau_stop=0.95 batch_size=16 "out=$out/trajectories.jsonl" resume=true
examples=(data=refshapes_mix "data.trajectories=$out/trajectories.jsonl" generated.questions=4 tasks.iou=0
  tasks.perturbed=0.2 validation.limit=40 train.validate_every=2000 "${segmenter[@]}")
# First clicks, then masks of every quality too, down to a rate of nothing.
"$PYTHON" scripts/train.py "mllm=$out/tower/best" train=nano train.min_lr=0.3 generated.share=0.95 generated.empty=0.9 \
  "${examples[@]}" "out=$out/clicks" resume=true
"$PYTHON" scripts/train.py "mllm=$out/clicks/best" train=nano train.steps=5200 train.lr=0.0009 train.needs=0.7 \
  train.auxiliary=0.2 train.digit_decay=0.6 generated.share=0.9 generated.empty=0.6 seed=1 "${examples[@]}" \
  "out=$out/policy" resume=true
echo "reproduce_nano: mllm=$out/policy/best ${segmenter[*]}"
