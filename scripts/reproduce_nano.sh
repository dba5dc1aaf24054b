#!/usr/bin/env bash
# From nothing to the weights that ship: bash scripts/reproduce_nano.sh [OUT]   (default: runs/nano)
#
# The click segmenter; the tower of the policy; trajectories of the simulated annotator with that segmenter; the policy.
# Killed and started again, it goes on where it was.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
out="${1:-runs/nano}"
"$PYTHON" scripts/train_segmenter.py network=simpleclick_nano data=refshapes_mix train.precision=bfloat16 threads=2 \
  "out=$out/segmenter" resume=true
segmenter=(segmenter=simpleclick_nano "segmenter.path=$out/segmenter/best")
"$PYTHON" scripts/pretrain_tower.py "out=$out/tower" resume=true
"$PYTHON" scripts/simulate.py data=refshapes_mix data.datasets.short.split=train data.limit=4300 "${segmenter[@]}" \
  simulate.max_clicks=6 simulate.tau_stop=0.95 batch_size=16 "out=$out/trajectories.jsonl" resume=true
examples=(data=refshapes_mix "data.trajectories=$out/trajectories.jsonl" generated.share=0.88 generated.empty=0.7
  generated.questions=2 tasks.iou=0 tasks.perturbed=0.2 validation.limit=40 "${segmenter[@]}")
# First all of it, then, once it sees what is asked for, what lies behind the tower: that is where pointing is learnt.
"$PYTHON" scripts/train.py "mllm=$out/tower/best" train=nano "${examples[@]}" "out=$out/whole" resume=true
"$PYTHON" scripts/train.py "mllm=$out/whole/best" train=nano train.steps=1800 "train.frozen=[vision]" train.needs=0.2 \
  train.auxiliary=0.1 seed=1 "${examples[@]}" "out=$out/policy" resume=true
echo "reproduce_nano: mllm=$out/policy/best segmenter=simpleclick_nano segmenter.path=$out/segmenter/best"
