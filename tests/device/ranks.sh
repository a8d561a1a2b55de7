#!/usr/bin/env bash
# Several GPUs of one host, from a folder of programs (tests/device/pack.sh): checks that ranks compute what one computes, and times
# weak scaling beside PyTorch's. A line PASS, FAIL or SKIP a check and one table; the exit status is 1 where one failed.
#   CUDA_VISIBLE_DEVICES=0,1 tests/device/ranks.sh [FOLDER [.device/bundle] [SECONDS [130]]]
# As many ranks as CUDA_VISIBLE_DEVICES names, else two. Times come first. What does not begin within SECONDS is skipped by name, no
# part but the last takes more than 75 of them, and one that fails stops no other. Wants libnccl.so.2: GLIA_NCCL, the loader's path, or
# PyTorch's own. DEVICE=cpu tries the script itself, with threads for GPUs; PYTHON: a python3 that has PyTorch.
set -uo pipefail
cd "$(dirname "$0")/../.."
bundle=$(realpath "${1:-.device/bundle}") seconds=${2:-130} device=${DEVICE:-cuda} python=${PYTHON:-python3}
gpus=${CUDA_VISIBLE_DEVICES:-0,1}
ranks=$(tr ',' '\n' <<<"$gpus" | grep -c .)
[ "$ranks" -ge 2 ] || { echo "ranks: wants two GPUs or more, CUDA_VISIBLE_DEVICES names $gpus" >&2; exit 2; }
. tests/device/several_gpus.sh

# The last losses of two runs of configuration $3 are within $4 of each other.
close() {
  python3 - "$out/$1/seed0/$3/metrics.jsonl" "$out/$2/seed0/$3/metrics.jsonl" "$4" <<'PY'
import json, sys
a, b = ([r["loss"] for r in map(json.loads, open(path)) if "loss" in r and "lr" in r][-1] for path in sys.argv[1:3])
print(a, b)
sys.exit(not abs(a - b) <= float(sys.argv[3]) * abs(a))
PY
}
# An error of one line that says $1.
refused() {
  local wanted=$1
  shift
  "$@" >"$out/said" 2>&1 && return 1
  cat "$out/said"
  [ "$(wc -l <"$out/said")" = 1 ] && grep -q "$wanted" "$out/said"
}

check "weak scaling: pretraining" scaling "masked LM, dense" "$ranks" --pretraining "${pretraining[@]}" --config dense --synthetic-rows 20000
check "weak scaling: dense" scaling "classifier, dense" "$ranks" "${paper[@]}" --config dense
check "weak scaling: AHR" scaling "AHR, 8 experts" "$ranks" "${paper[@]}" --config astrocyte-hierarchical
if [ -n "$launcher" ]; then
  check "weak scaling: AHR, processes" scaling_of_processes "AHR, processes" "$ranks" "${paper[@]}" --config astrocyte-hierarchical
else echo "SKIP weak scaling of processes: no mpirun here, or no libglia_mpi.so in $bundle"; fi
check "weak scaling: PyTorch DDP, the same encoder and places" peer "PyTorch DDP" "$ranks"

for c in dense astrocyte-hierarchical; do
  float32=(--config $c --precision float32 --gradients float32)
  check "$c: one rank" train one "${float32[@]}"
  check "$c: $ranks ranks" train several "${float32[@]}" --ranks "$ranks"
  check "$c: the float32 loss of both is the same to 1e-4" close one several $c 1e-4
done
# Bfloat16 gradients are reduced during backward.
check "$c: eager steps, bfloat16" train eager --config $c --ranks "$ranks" --no-graphs
check "$c: replayed steps, bfloat16" train replayed --config $c --ranks "$ranks"
check "$c: the same bytes" same eager replayed $c
if [ "$ranks" = 2 ] && [ "$device" != cpu ]; then  # two numbers have one sum, whoever adds them
  NCCL_CTA_POLICY=0 check "$c: sums by NCCL's kernels, every update by both" train kernels --config $c --ranks 2
  check "$c: copy engines and shared updates: the same bytes" same replayed kernels $c
fi

exact=(--config astrocyte-hierarchical --reduction exact --chunks 4 --max-steps 6 --eval-every 6 --log-every 2)
check "exact sums on $ranks GPUs" train exact "${exact[@]}"
CUDA_VISIBLE_DEVICES=${gpus%%,*} check "exact sums on one GPU" train exact1 "${exact[@]}"
check "exact sums: the same bytes on both" same exact exact1 astrocyte-hierarchical
if [ "$device" != cpu ]; then
  check "more ranks than GPUs are one line" refused "at most as many as there are GPUs here" train x --ranks 64
  GLIA_NCCL=/nowhere/libnccl.so.2 check "no NCCL is one line" refused "expected NCCL" train x --ranks "$ranks"
fi
most=100  # compiling takes what is left
if [ "$device" != cpu ]; then
  check "weak scaling: PyTorch DDP, compiled, pretraining" peer "PyTorch DDP, compiled 1" "$ranks" --compile --workloads pretraining
  check "weak scaling: PyTorch DDP, compiled, AHR" peer "PyTorch DDP, compiled 2" "$ranks" --compile --workloads ahr
fi
table
echo "$failures failed, $SECONDS s"
exit $((failures > 0))
