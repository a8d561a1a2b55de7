#!/usr/bin/env bash
# Several GPUs of one host, from a folder of programs (tests/device/pack.sh): checks that ranks compute what one computes, and times
# weak scaling beside PyTorch's. A line PASS, FAIL or SKIP a check and one table; the exit status is 1 where one failed.
#   CUDA_VISIBLE_DEVICES=0,1 tests/device/ranks.sh [FOLDER [.device/bundle] [SECONDS [130]]]
# As many ranks as CUDA_VISIBLE_DEVICES names, else two. Times come first. What does not begin within SECONDS is skipped by name, no
# part but the last takes more than 45 of them, and one that fails stops no other. Wants libnccl.so.2: GLIA_NCCL, the loader's path, or
# PyTorch's own. DEVICE=cpu tries the script itself, with threads for GPUs; PYTHON: a python3 that has PyTorch.
set -uo pipefail
cd "$(dirname "$0")/../.."
bundle=$(realpath "${1:-.device/bundle}") seconds=${2:-130} device=${DEVICE:-cuda} python=${PYTHON:-python3}
gpus=${CUDA_VISIBLE_DEVICES:-0,1}
ranks=$(tr ',' '\n' <<<"$gpus" | grep -c .)
[ "$ranks" -ge 2 ] || { echo "ranks: wants two GPUs or more, CUDA_VISIBLE_DEVICES names $gpus" >&2; exit 2; }
[ -x "$bundle/train" ] || { echo "ranks: wants the programs in $bundle: tests/device/pack.sh" >&2; exit 2; }
export LD_LIBRARY_PATH=$bundle:$bundle/lib:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}
# Multicast over NVLink is not for everyone's host, and two or four GPUs gain nothing by it.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
if [ "$device" != cpu ] && [ -z "${GLIA_NCCL:-}" ]; then
  found=$("$python" -c 'import sys; print(*sys.path, sep="\n")' | grep packages | xargs -I{} find {} -name libnccl.so.2 2>/dev/null | head -n 1)
  [ -n "$found" ] && export GLIA_NCCL=$found
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failures=0
left() { echo $((seconds - SECONDS)); }
most=45
run() { timeout -k 2 $(($(left) < most ? $(left) : most)) "$@"; }
# NAME COMMAND…: what it says is shown where it fails.
check() {
  local name=$1
  shift
  if [ "$(left)" -le 5 ]; then echo "SKIP $name: no time is left"; return; fi
  if "$@" >"$out/log" 2>&1; then echo "PASS $name"; return; fi
  if [ "$(left)" -le 0 ]; then echo "SKIP $name: cut off"; return; fi
  echo "FAIL $name"
  tail -n 4 "$out/log" | cut -c 1-300 | sed 's/^/  /'
  failures=$((failures + 1))
}

size=(--preset paper) batch=96 steps=60 pretraining=(--preset full) peer_size=()
if [ "$device" = cpu ]; then
  size=(--preset quick --layers 2 --hidden 32 --heads 2 --ffn 64 --threads 1) batch=16 steps=3
  pretraining=("${size[@]}" --tokens 512)
  peer_size=(--cpu --layers 2 --hidden 32 --heads 2 --ffn 64 --tokens 512 --length 32 --sequences 16)
fi
data=(--device "$device" --dataset synthetic --cache "$out/cache")
train() {
  local folder=$1
  shift
  run "$bundle/train" "${data[@]}" "${size[@]}" --synthetic-rows 2000 --synthetic-test-rows 400 --vocab-size 2000 --batch $batch \
    --max-steps 40 --log-every 20 --eval-every 20 --seeds 1 --progress off --no-estimate --no-report --fresh "$@" --out "$out/$folder"
}
# Two runs of configuration $3 …: the same weights, bit for bit; the last loss within $4 of itself.
same() { cmp "$out/$1/seed0/$3/model.safetensors" "$out/$2/seed0/$3/model.safetensors"; }
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

scaling() {
  local name=$1
  shift
  run "$bundle/bench" ranks --ranks "$ranks" "${data[@]}" --steps $steps --json "$out/$name.json" "$@"
}
# PyTorch has as many words as our classifier, and its texts are all as long as ours are in the mean.
peer() {
  local name=$1 alike
  shift
  alike=$(python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); r = o["runs"][0]
print("--vocabulary", o["vocabulary"], "--text-length", round(r["tokens_per_s"] * r["step_ms"] / 1e3 / int(sys.argv[2])))' \
    "$out/AHR, 8 experts.json" "$sequences" 2>/dev/null) || alike=""  # ours failed: the words and texts of its own
  # shellcheck disable=SC2086
  run "$python" tests/peer/ddp_step.py --ranks "$ranks" --steps $steps $alike "${peer_size[@]}" "$@" >"$out/$name.jsonl"
}
sequences=$([ "$device" = cpu ] && echo 16 || echo 192)
paper=("${size[@]}" --batch "$sequences" --synthetic-rows 20000)
check "weak scaling: pretraining" scaling "masked LM, dense" --pretraining "${pretraining[@]}" --config dense --synthetic-rows 20000
check "weak scaling: dense" scaling "classifier, dense" "${paper[@]}" --config dense
check "weak scaling: AHR" scaling "AHR, 8 experts" "${paper[@]}" --config astrocyte-hierarchical
check "weak scaling: PyTorch DDP, the same encoder and places" peer "PyTorch DDP"

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
  check "weak scaling: PyTorch DDP, compiled, pretraining" peer "PyTorch DDP, compiled 1" --compile --workloads pretraining
  check "weak scaling: PyTorch DDP, compiled, AHR" peer "PyTorch DDP, compiled 2" --compile --workloads ahr
fi
python3 - "$out" <<'PY'
import glob, json, os, sys
print(f"\n{'what':<40}{'ranks':>6}{'ms a step':>11}{'tokens/s':>12}{'of linear':>11}")
named = {"pretraining": "masked LM, dense", "dense": "classifier, dense", "ahr": "AHR, 8 experts"}
rows = []
for path in glob.glob(sys.argv[1] + "/*.json*"):
    text = open(path).read()
    if path.endswith(".jsonl"):
        rows += [(named[r["workload"]], "PyTorch DDP" + (", compiled" if r["compiled"] else ""), r)
                 for r in (json.loads(line) for line in text.splitlines() if line.startswith("{"))]
    else:
        rows += [(os.path.basename(path)[:-5], "", r) for r in json.loads(text)["runs"]]
for what, whose, r in sorted(rows, key=lambda row: (row[0], row[2]["ranks"], row[1])):
    print(f"{what + (': ' + whose if whose else ''):<40}{r['ranks']:>6}{r['step_ms']:>11.3f}{r['tokens_per_s']:>12.0f}"
          f"{100 * r['weak_scaling']:>10.1f}%")
PY
echo "$failures failed, $SECONDS s"
exit $((failures > 0))
