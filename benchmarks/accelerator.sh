#!/usr/bin/env bash
# Uses a few minutes on one GPU without any preparation on the day.
#
#   bash benchmarks/accelerator.sh measure            # about 5 minutes: device, step, forward, PyTorch
#   bash benchmarks/accelerator.sh train SECONDS      # trains, leaves its state in parts
#   bash benchmarks/accelerator.sh decay SECONDS      # goes on from these parts and decays the rate
#
# benchmarks/accelerator_pack.sh made the folder accelerator/ before. Results go to $OUT (default:
# accelerator/out): logs, and the state of training as state/part.* of at most 15 MiB each. For the
# next command, put these parts into accelerator/state/. MODEL holds further flags, such as
# "--config.model.features=24 --config.model.heads=4 --config.model.hidden=864"; then training starts
# from scratch, unless INIT names weights of that size. BATCH is a multiple of 20 (default 480).
set -euo pipefail
cd "$(dirname "$0")/.."

stage="${1:?usage: benchmarks/accelerator.sh measure|train|decay [SECONDS]}"
seconds="${2:-480}"
out="${OUT:-$PWD/accelerator/out}"
work="${WORK:-/tmp/ipt_accelerator}"
batch="${BATCH:-480}"
workers="${WORKERS:-16}"
read -ra model <<<"${MODEL:-}"
init="${INIT-accelerator/weights}"
[ "${#model[@]}" = 0 ] || [ -n "${INIT:-}" ] || init=""
mkdir -p "$out/state" "$work"
export PYTHONUNBUFFERED=1
if compgen -G "accelerator/wheels/*.whl" >/dev/null && ! python3 -c 'import grain' 2>/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$work/site" accelerator/wheels/*.whl
fi
export PYTHONPATH="$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}"
ipt() { python3 -m ipt_jax "$@"; }

measure() {
  { nvidia-smi || true; } >"$out/device.txt" 2>&1
  ipt doctor >"$out/doctor.txt" 2>&1 || true
  for command in "step --config=configs/pretrain_imagenet.py:1 --config.batch_size=264" "forward" \
    ${MEASURE_MORE:+"$MEASURE_MORE"}; do
    read -ra words <<<"$command"
    ipt bench "${words[@]}" --json "$out/bench_${words[0]}.json" >"$out/bench_${words[0]}.log" 2>&1 ||
      echo "ipt bench ${words[0]} failed: see bench_${words[0]}.log"
  done
  read -ra words <<<"--device ${DEVICE:-cuda} ${TORCH_FLAGS:-}"
  python3 benchmarks/torch_step.py "${words[@]}" >"$out/torch_step.log" 2>&1 ||
    echo "torch_step failed: see torch_step.log"
  tail -n 1 "$out"/bench_*.log "$out/torch_step.log"
}

unpack() {
  [ -d "$work/crops" ] || tar -xf accelerator/crops.tar -C "$work"
  if [ ! -d "$work/run" ] && compgen -G "accelerator/state/part.*" >/dev/null; then
    cat accelerator/state/part.* | tar -x -C "$work"
  fi
}

# The state is a plain tar: orbax has compressed the arrays already.
pack() {
  rm -f "$out"/state/part.*
  newest="$(find "$work/$1/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' -printf '%f\n' | sort -n | tail -n 1)"
  tar -c -C "$work" "$1/config.json" "$1/metrics.jsonl" "$1/checkpoints/$newest" |
    split -b 15M -d - "$out/state/part."
  cp "$work/$1/metrics.jsonl" "$out/$1_metrics.jsonl"
  echo "step $newest of $1: $(find "$out/state" -name "part.*" | wc -l) parts"
}

# A run is told to stop by SIGTERM, on which it saves and ends; 40 s are left for that and the parts.
pretrain() {
  local limit="$1" name="$2"
  shift 2
  timeout --signal=TERM --kill-after=60 "$limit" python3 -m ipt_jax pretrain \
    --config=configs/pretrain_small.py --workdir="$work/$name" --config.data.dir="$work/crops" \
    --config.batch_size="$batch" --config.data.workers="$workers" --config.data.crops=4 \
    --config.model.dtype="${DTYPE:-bfloat16}" --config.seed=2 --config.checkpoint.every=100000 \
    --config.checkpoint.keep=1 --config.checkpoint.keep_every=0 --config.evaluate.every=0 \
    --config.optim.learning_rate="${RATE:-2e-3}" "${model[@]}" "$@" 2>&1 | tee -a "$out/$name.log" | tail -n 2 || true
}

train() {
  unpack
  local from=()
  [ -z "$init" ] || from=(--config.init_from="$init"
    "--config.finetune.new=denoise=denoise30,jpeg=denoise30,photo2=sr2,deblur=denoise30")
  pretrain "$((seconds - 40))" run --config.steps=10000000 "${from[@]}"
  pack run
}

# Steps a second come from the last line of the log, so that the decay ends within its time.
decay() {
  unpack
  local step rate steps
  step="$(find "$work/run/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' -printf '%f\n' | sort -n | tail -n 1)"
  rate="$(python3 -c 'import json, sys
lines = [json.loads(x) for x in open(sys.argv[1]) if "samples_per_s" in x]
print(lines[-1]["samples_per_s"])' "$work/run/metrics.jsonl")"
  steps="$(python3 -c "print(max(10, int(($seconds - 120) * $rate / $batch)))")"
  pretrain "$((seconds - 40))" decayed --config.branch_from="$work/run@$step" --config.steps="$((step + steps))" \
    --config.optim.decay_start="$step" --config.optim.decay_steps="$steps"
  ipt export --weights "$work/decayed" --format folder --dtype float16 --out "$out/weights" --overwrite
  cp "$work/decayed/metrics.jsonl" "$out/decayed_metrics.jsonl"
}

"$stage"
