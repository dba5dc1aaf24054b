#!/usr/bin/env bash
# From nothing to the weights that ship: bash scripts/reproduce_nano.sh [OUT]   (default: runs/nano)
#
# So far the click segmenter; the policy follows. Killed and started again, it goes on where it was.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
out="${1:-runs/nano}"
"$PYTHON" scripts/train_segmenter.py network=simpleclick_nano data=refshapes_mix train.precision=bfloat16 threads=2 \
  "out=$out/segmenter" resume=true
echo "reproduce_nano: segmenter.path=$out/segmenter/best"
