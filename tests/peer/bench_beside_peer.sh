#!/usr/bin/env bash
# One training step of ours beside the PyTorch peer's, on the same machine and data, one after the other: prints ratios.
#   tests/peer/bench_beside_peer.sh PEER.py CSV VOCAB [OUT_DIR] [STEPS]
# CSV: AG News style rows for the peer (test.csv will do). Ours trains on the folder that holds it.
set -euo pipefail
cd "$(dirname "$0")/../.."
peer=$1 csv=$2 vocab=$3 out=${4:-/tmp/bench_beside_peer} steps=${5:-50}
mkdir -p "$out"
for config in dense astrocyte-hierarchical; do
  ./tools/bench step --preset paper --config "$config" --data "$(dirname "$csv")" --vocab "$vocab" --steps "$steps" \
    --json "$out/$config.json" | tee "$out/$config.txt"
done
python3 "$peer" --csv "$csv" --vocab "$vocab" --styles compiled,packed,graphs --configs dense,hierarchical --steps "$steps" \
  | tee "$out/peer.jsonl"
python3 - "$out" <<'PYTHON'
import json, sys
out = sys.argv[1]
peers = [json.loads(line) for line in open(f"{out}/peer.jsonl") if '"style"' in line]
for config, theirs in (("dense", "dense"), ("astrocyte-hierarchical", "hierarchical")):
    ours = json.load(open(f"{out}/{config}.json"))
    print(f"{config}: ours {ours['step_ms']:.3f} ms, {ours['seq_per_s']:.0f} sequences/s")
    for p in peers:
        if p["config"] != theirs:
            continue
        if "error" in p:
            print(f"  {p['style']:<9} failed: {p['error']}")
        else:  # per sequence, so that the rows that each happened to draw matter less
            ratio = ours["seq_per_s"] / p["seq_per_s"]
            print(f"  {p['style']:<9} {p['step_ms']:.3f} ms, {p['seq_per_s']} sequences/s: ours is {ratio:.2f} times as fast")
PYTHON
