# Sourced by the scripts for several GPUs of one host (ranks.sh, scaling.sh), which have set: bundle (a folder of programs), seconds (in
# which all must begin), device (cuda or cpu), python (one that has PyTorch). Gives: check, train, same, scaling, peer, table.
[ -x "$bundle/train" ] || { echo "$0: wants the programs in $bundle: tests/device/pack.sh" >&2; exit 2; }
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
most=75
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
# Two runs of configuration $3 have the same weights, bit for bit.
same() { cmp "$out/$1/seed0/$3/model.safetensors" "$out/$2/seed0/$3/model.safetensors"; }
sequences=$([ "$device" = cpu ] && echo 16 || echo 192)
paper=("${size[@]}" --batch "$sequences" --synthetic-rows 20000)
# NAME RANKS FLAG…: a step of one rank and of RANKS, with as much for each.
scaling() {
  local name=$1 ranks=$2
  shift 2
  run "$bundle/bench" ranks --ranks "$ranks" "${data[@]}" --steps $steps --json "$out/$name.$ranks.json" "$@"
}
# The same with a process a rank, where there are mpirun and the library that it wants.
launcher=""
if command -v mpirun >/dev/null && [ -n "$(ls "$bundle"/libglia_mpi.so "$bundle"/lib/libglia_mpi.so 2>/dev/null)" ]; then
  launcher="mpirun --oversubscribe --bind-to none -n"
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
scaling_of_processes() {
  local name=$1 ranks=$2
  shift 2
  # shellcheck disable=SC2086
  run $launcher "$ranks" "$bundle/bench" ranks "${data[@]}" --steps $steps --json "$out/$name.$ranks.json" "$@"
}
# NAME RANKS FLAG…: PyTorch has as many words as our classifier, and its texts are all as long as ours are in the mean.
peer() {
  local name=$1 ranks=$2 alike
  shift 2
  alike=$(python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); r = o["runs"][0]
print("--vocabulary", o["vocabulary"], "--text-length", round(r["tokens_per_s"] * r["step_ms"] / 1e3 / int(sys.argv[2])))' \
    "$out/AHR, 8 experts.$ranks.json" "$sequences" 2>/dev/null) || alike=""  # ours failed: the words and texts of its own
  # shellcheck disable=SC2086
  run "$python" tests/peer/ddp_step.py --ranks "$ranks" --steps $steps $alike "${peer_size[@]}" "$@" >"$out/$name.$ranks.jsonl"
}
# What scaling and peer measured, and what the cost model of docs/scaling.md says of ours by the step of one rank.
table() { python3 tests/device/scaling_table.py "$out"; }
