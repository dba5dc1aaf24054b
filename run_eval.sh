#!/usr/bin/env bash
# The main job: bash run_eval.sh [CHECKPOINT] [overrides...]; evaltools/eval.md explains it.
#
# CHECKPOINT is the folder of a multimodal LLM (docs/models.md), which then clicks (`policy=agent`); its config.json tells
# family, dialogue and picture size. Without it the small one that ships clicks (`mllm=nano`), and of its masks the one is
# returned whose IoU it predicts highest (`policy=greedy search.k=1`, the paper's Alg. 2 with K=1). The shipped segmenter
# `simpleclick_nano` answers, on the first 200 validation samples of refshapes. Overrides are those of scripts/evaluate.py.
# From the environment, each with further settings behind:
#   DATA="segagent_json data.annotations=F data.images=DIR"   SPLIT=testA   SEGMENTER="simpleclick segmenter.path=F"
#   PRESET=released   GPUS=4 (default: those that are visible; each does a part, and the parts are joined). Where there is
#   no GPU, it is the number of processes.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
settings=()
gpus="${GPUS:-1}"
checkpoint=""
case "${1:-}" in
  "" | -*) ;;
  *=*) [ -d "$1" ] && checkpoint="$1" ;;  # runs/lr=1e-5 is a folder, not an override
  *) checkpoint="$1" ;;
esac
if [ -z "$checkpoint" ]; then
  [ -n "${PRESET:-}" ] && fail "PRESET=$PRESET: needs a CHECKPOINT, since a preset is about the model that clicks"
  settings+=(policy=greedy search.k=1 reward=expected_iou mllm=nano batch_size=32)
else
  settings+=(policy=agent "mllm=$checkpoint")
  shift
  if [ -z "${GPUS:-}" ] && [ -n "${CUDA_VISIBLE_DEVICES+given}" ]; then  # given and empty: none
    gpus="$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)"
  elif [ -z "${GPUS:-}" ]; then
    gpus="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')"
  fi
fi
for argument in "$@"; do  # one device is one process
  case "$argument" in device=cpu | device=mps | device=*:*) [ -z "${GPUS:-}" ] && gpus=1 ;; esac
done
case "$gpus" in *[!0-9]*) fail "GPUS=$gpus: give a whole number" ;; esac

# results/run_eval.json is written anew each time; an `out` of one's own only with overwrite=true.
out="" report=report=true anew="" data=""
others=()
for argument in "$@"; do
  case "$argument" in
    out=*) out="${argument#out=}" ;;
    report=*) report="$argument" ;;
    *) others+=("$argument") ;;
  esac
  case "$argument" in
    resume=true | overwrite=true) anew="$argument" ;;
    data=*) data="$argument" ;;
  esac
done
[ -z "$out$anew" ] && anew=overwrite=true && settings+=("$anew")
[ -z "$out" ] && out="$ROOT/results/run_eval.json"

# What is not said is the embedded benchmark. Words after the first are further settings.
[ -n "${PRESET:-}" ] && settings+=("preset=$PRESET")
if [ -n "${DATA:-}" ]; then
  read -ra words <<<"$DATA"
  settings+=("data=${words[0]}" "${words[@]:1}")
elif [ -z "${PRESET:-}$data" ]; then
  settings+=(data=refshapes data.limit=200 data.split=val)
fi
[ -n "${SPLIT:-}" ] && settings+=("data.split=$SPLIT")
if [ -n "${SEGMENTER:-}" ]; then
  read -ra words <<<"$SEGMENTER"
  settings+=("segmenter=${words[0]}" "${words[@]:1}")
elif [ -z "${PRESET:-}" ]; then
  settings+=(segmenter=simpleclick_nano)
fi
[ -z "${PRESET:-}" ] && settings+=(rollout.max_clicks=7)
settings+=(${others[@]+"${others[@]}"})

if [ "$gpus" -le 1 ]; then
  exec "$PYTHON" "$ROOT/scripts/evaluate.py" "${settings[@]}" "$report" "out=\"$out\""
fi

# Samples do not depend on each other: one process per GPU, each with a block of them, and no communication.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  IFS=',' read -ra devices <<<"$CUDA_VISIBLE_DEVICES"
elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then  # set and empty: none
  devices=()
  for ((i = 0; i < gpus; i++)); do devices+=(""); done
else
  devices=($(seq 0 $((gpus - 1))))
fi
[ -z "$anew" ] && { [ -e "$out" ] || [ -e "${out%.json}.trajectories.jsonl" ]; } &&
  fail "$out: is there already; say resume=true to go on, or overwrite=true to begin anew"
[ "${#devices[@]}" -ge "$gpus" ] || fail "GPUS=$gpus, but CUDA_VISIBLE_DEVICES names ${#devices[@]}"
processes=()
parts=""
trap 'kill "${processes[@]}" 2>/dev/null; exit 130' INT TERM
for ((i = 0; i < gpus; i++)); do
  part="${out%.json}.part$i.json"
  parts="$parts${parts:+,}\"$part\""
  CUDA_VISIBLE_DEVICES="${devices[$i]}" "$PYTHON" "$ROOT/scripts/evaluate.py" "${settings[@]}" "shard=$i/$gpus" \
    "out=\"$part\"" report=false >/dev/null &
  processes+=($!)
done
status=0
for process in "${processes[@]}"; do
  wait "$process"
  code=$?
  # 1: done, with samples skipped and reported.
  [ "$code" -gt 1 ] && status="$code"
done
[ "$status" -eq 0 ] || fail "a part failed (see above); what the parts hold is whole: go on with resume=true"
exec "$PYTHON" "$ROOT/scripts/join.py" "out=\"$out\"" "parts=[$parts]" "$report" overwrite=true
