#!/usr/bin/env bash
# From nothing to the weights that ship: bash scripts/reproduce_nano.sh [OUT]   (default: runs/nano)
#
# So far the click segmenter; the policy follows. Killed and started again, it goes on where it was.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
out="${1:-runs/nano}"
train() { "$PYTHON" scripts/train_segmenter.py network=simpleclick_nano data=refshapes_mix train.precision=bfloat16 threads=2 resume=true "$@"; }

# The whole training: from random weights, up to three predictions before the click that is learnt from.
train "out=$out/segmenter_1"
# Then long rounds, so that the network also learns to leave a mask that many clicks have not put right.
train "out=$out/segmenter_2" "init_from=$out/segmenter_1/checkpoints/step_0012000" train.steps=1500 train.validate_every=500 \
  optimizer.lr=0.0003 optimizer.warmup=50 rounds.max_rounds=8
echo "reproduce_nano: segmenter.path=$out/segmenter_2/best"
