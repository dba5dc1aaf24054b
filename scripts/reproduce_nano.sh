#!/usr/bin/env bash
# From nothing to weights like those that ship: bash scripts/reproduce_nano.sh [OUT [policy]]   (default: runs/nano)
#
# The click segmenter; the tower of the policy; trajectories of the simulated annotator with that segmenter; the policy, in
# three stages.
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
"$PYTHON" scripts/pretrain_tower.py threads=1 "out=$out/tower" resume=true  # the other core draws the pictures
# The annotator's work from nothing, and from masks of every quality: those of random points in the targets' boxes.
states=(data=refshapes_mix data.datasets.short.split=train data.limit=4300 "${segmenter[@]}" batch_size=16 resume=true)
"$PYTHON" scripts/simulate.py "${states[@]}" simulate.max_clicks=6 simulate.tau_stop=0.95 "out=$out/empty.jsonl"
"$PYTHON" scripts/simulate.py "${states[@]}" simulate.max_clicks=2 simulate.tau_stop=null init=random_points \
  "out=$out/points.jsonl"
examples=(train=nano data=refshapes_mix generated.questions=4 tasks.iou=0 tasks.perturbed=0.2 validation.limit=40
  "${segmenter[@]}" resume=true)
# First clicks, then masks of every quality too, down to a rate of nothing.
"$PYTHON" scripts/train.py "mllm=$out/tower/best" train.steps=2000 train.min_lr=0.75 generated.share=0.95 \
  generated.empty=0.9 "data.trajectories=$out/empty.jsonl" "${examples[@]}" "out=$out/clicks"
"$PYTHON" scripts/train.py "mllm=$out/clicks/best" train.gaze=1 train.needs=0.7 generated.share=0.85 \
  generated.empty=0.6 seed=1 "data.trajectories=[$out/empty.jsonl,$out/points.jsonl]" "${examples[@]}" \
  "out=$out/masks"
# What that model's own clicks lead to, and what the annotator would do there (its one step of training is not used).
"$PYTHON" scripts/improve.py "mllm=$out/masks/best" method=dagger train=nano train.steps=1 data=refshapes_mix \
  "data.trajectories=$out/empty.jsonl" limit=1500 "${segmenter[@]}" batch_size=16 seed=3 resume=true "out=$out/visited"
# All of the model, the tower too, on all of it.
"$PYTHON" scripts/train.py "mllm=$out/masks/best" train.steps=7800 train.optimizer=muon train.frozen=[] \
  train.vision_lr=0.5 train.auxiliary=0.6 train.gaze=1 train.needs=0.7 generated.share=0.75 generated.empty=0.6 seed=7 \
  "data.trajectories=[$out/empty.jsonl,$out/points.jsonl,$out/visited/round_1/selected.jsonl]" "${examples[@]}" \
  "out=$out/policy"
echo "reproduce_nano: mllm=$out/policy/best ${segmenter[*]}"
