#!/usr/bin/env bash
# Several GPUs of one host, from the bundle that tests/device/pack.sh made: checks that ranks compute what one computes, and times
# weak scaling beside PyTorch's. Prints PASS or FAIL a check; the exit status is the number of failures.
#   tests/device/ranks.sh [RANKS] [OUT]
# Wants libnccl.so.2: GLIA_NCCL, the loader's path, or PyTorch's own.
set -u
cd "$(dirname "$0")/../.."
ranks=${1:-2} out=${2:-/tmp/glia-ranks}
bundle=${GLIA_BUNDLE:-.device/bundle}
export LD_LIBRARY_PATH=$PWD/$bundle/lib:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}
# Multicast over NVLink is not for everyone's host, and two or four GPUs gain nothing by it.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
if [ -z "${GLIA_NCCL:-}" ]; then
  found=$(python3 -c 'import glob, os, nvidia.nccl as n; print(glob.glob(os.path.join(list(n.__path__)[0], "lib", "libnccl.so.2"))[0])' 2>/dev/null)
  [ -n "$found" ] && export GLIA_NCCL=$found
fi
mkdir -p "$out"
failures=0
check() { if eval "$2"; then echo "PASS $1"; else echo "FAIL $1"; failures=$((failures + 1)); fi; }
small="--device cuda --dataset synthetic --cache $out/cache --synthetic-rows 2000 --synthetic-test-rows 400 --vocab-size 2000 --preset paper
  --batch 96 --max-steps 60 --log-every 20 --eval-every 30 --progress off --no-estimate --no-report --seeds 1 --fresh"
train() { "$bundle/train" $small "$@" >"$out/log" 2>&1 || { cat "$out/log"; return 1; }; }
loss() { python3 -c 'import json, sys; print([json.loads(l)["loss"] for l in open(sys.argv[1]) if "\"loss\"" in l and "\"lr\"" in l][-1])' "$1/metrics.jsonl"; }
close() { python3 -c 'import sys; a, b, t = map(float, sys.argv[1:]); sys.exit(not abs(a - b) <= t * abs(a))' "$@"; }

for config in dense astrocyte-hierarchical; do
  train --config $config --precision float32 --gradients float32 --out "$out/one"
  train --config $config --precision float32 --gradients float32 --ranks "$ranks" --out "$out/several"
  train --config $config --precision float32 --gradients float32 --ranks "$ranks" --out "$out/again"
  train --config $config --precision float32 --gradients float32 --ranks "$ranks" --no-graphs --out "$out/eager"
  at=seed0/$config
  a=$(loss "$out/one/$at") b=$(loss "$out/several/$at")
  check "$config: float32 loss of $ranks ranks within 1e-4 of one rank's ($a, $b)" "close $a $b 1e-4"
  check "$config: a repeat has the same bytes" "cmp -s $out/several/$at/model.safetensors $out/again/$at/model.safetensors"
  check "$config: eager steps have the bytes of replayed ones" "cmp -s $out/several/$at/model.safetensors $out/eager/$at/model.safetensors"
  train --config $config --reduction exact --chunks 4 --max-steps 10 --eval-every 5 --log-every 5 --out "$out/exact1"
  CUDA_VISIBLE_DEVICES=0 train --config $config --reduction exact --chunks 4 --max-steps 10 --eval-every 5 --log-every 5 --out "$out/exact2"
  check "$config: exact sums have the bytes of one GPU on $ranks" "cmp -s $out/exact1/$at/model.safetensors $out/exact2/$at/model.safetensors"
done
check "more ranks than GPUs is one line" \
  "$bundle/train $small --ranks 64 --out $out/x 2>&1 | grep -q 'at most as many as there are GPUs here'"
check "no NCCL is one line" "GLIA_NCCL=/nowhere/libnccl.so.2 $bundle/train $small --ranks 2 --out $out/x 2>&1 | grep -q 'expected NCCL'"

echo "== weak scaling: ours"
for config in dense astrocyte-hierarchical; do
  "$bundle/bench" ranks --ranks "$ranks" --device cuda --preset paper --config $config --dataset synthetic --cache "$out/cache" \
    --synthetic-rows 40000 --steps 60 --json "$out/$config.json"
done
"$bundle/bench" ranks --pretraining --ranks "$ranks" --device cuda --preset full --config dense --dataset synthetic --cache "$out/cache" \
  --synthetic-rows 200000 --steps 60 --json "$out/pretraining.json"
echo "== weak scaling: PyTorch DDP, masked-LM step of the same encoder and places"
python3 tests/peer/ddp_step.py --ranks "$ranks" || failures=$((failures + 1))
python3 tests/peer/ddp_step.py --ranks "$ranks" --compile || failures=$((failures + 1))
exit $failures
