#!/usr/bin/env bash
# A small policy from nothing: bash scripts/reproduce_nano.sh [OUT [policy|all [SHARE]]]
#
# The tower of the policy; trajectories of the simulated annotator with the segmenter that ships; the policy, in two stages.
# OUT: a folder (runs/nano). With `all` a click segmenter is trained first, and takes the place of the one that ships.
# SHARE (0.1): of all steps and samples. 0.1 takes under three hours on 2 cores, see docs/training.md; 1 takes ten times as
# long; 0.0003 tries every stage in a few minutes. Killed and started again, it goes on where it was.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
out="${1:-$ROOT/runs/nano}"
case "$out" in /*) ;; *) out="$PWD/$out" ;; esac
cd "$ROOT"
share="${3:-0.1}"
[[ "$share" =~ ^(0?\.[0-9]*[1-9][0-9]*|1|1\.0*)$ ]] || fail "$share: give the share of steps and samples, above 0 and at most 1"

# A number of steps or samples, at that share; NUMBER [LEAST].
some() {
  awk -v number="$1" -v share="$share" -v least="${2:-2}" 'BEGIN { n = int(number * share + 0.5); print (n < least ? least : n) }'
}

segmenter=(segmenter=simpleclick_nano)
case "${2:-policy}" in
  policy) ;;
  all)
    "$PYTHON" scripts/train_segmenter.py network=simpleclick_nano data=refshapes_mix train.precision=auto threads=2 \
      "train.steps=$(some 12000)" "optimizer.warmup=$(some 300)" "validation.limit=$(some 100)" \
      "out=\"$out/segmenter\"" resume=true
    segmenter+=("segmenter.path=\"$out/segmenter/best\"")
    ;;
  *) fail "$2: say policy or all" ;;
esac
"$PYTHON" scripts/pretrain_tower.py threads=1 "train.steps=$(some 16000)" "train.warmup=$(some 1000)" \
  "out=\"$out/tower\"" resume=true  # the other core draws the pictures
# The annotator's work from nothing, and from masks of every quality: those of random points in the targets' boxes.
states=(data=refshapes_mix data.datasets.short.split=train "data.limit=$(some 3000 4)" "${segmenter[@]}" batch_size=16
  resume=true)
"$PYTHON" scripts/simulate.py "${states[@]}" simulate.max_clicks=6 simulate.tau_stop=0.95 "out=\"$out/empty.jsonl\""
"$PYTHON" scripts/simulate.py "${states[@]}" simulate.max_clicks=2 simulate.tau_stop=null init=random_points \
  "out=\"$out/points.jsonl\""
examples=(train=nano train.optimizer=muon data=refshapes_mix generated.questions=6 train.mentions=1
  train.gaze=1 train.needs=0.7 tasks.iou=0 tasks.perturbed=0.2 "validation.limit=$(some 400)"
  "${segmenter[@]}" resume=true)
# First clicks behind a tower that stays as it is; the rate does not come down.
"$PYTHON" scripts/train.py "mllm=$out/tower/best" "train.steps=$(some 6000)" train.min_lr=0.9 train.lr=0.0015 \
  generated.share=0.95 generated.empty=0.9 "data.trajectories=\"$out/empty.jsonl\"" "${examples[@]}" "out=\"$out/clicks\""
# What that model's own clicks lead to, and what the annotator would do there.
"$PYTHON" scripts/improve.py "mllm=$out/clicks/best" method=dagger collect_only=true data=refshapes_mix \
  "data.trajectories=\"$out/empty.jsonl\"" "limit=$(some 1500)" "${segmenter[@]}" batch_size=16 seed=3 \
  resume=true "out=\"$out/visited\""
# All of the model, the tower too, and masks of every quality, down to a rate of nothing.
"$PYTHON" scripts/train.py "mllm=$out/clicks/best" "train.steps=$(some 20000)" train.frozen=[] train.vision_lr=0.5 \
  train.auxiliary=0.6 generated.share=0.85 generated.empty=0.65 generated.relations=0.5 seed=1 \
  "data.trajectories=[\"$out/empty.jsonl\",\"$out/points.jsonl\",\"$out/visited/round_1/selected.jsonl\"]" \
  "${examples[@]}" "out=\"$out/policy\""
echo "reproduce_nano: mllm=$out/policy/best ${segmenter[*]//\"/}"
