#!/usr/bin/env python3
"""Prints what tests/device/several_gpus.sh measured into a folder, ours and PyTorch's, and beside ours what the cost model of
docs/scaling.md says by the step of one rank:

  step(R) = C + (2 (R − 1) / R (low / L + rest) + (R − 1) (words + rows)) / B + 2 (L + 6) l log2 R + c 2 (R − 1) / R low (1 − 1 / L) / B

and (R − 1) / R gathered / B; with rows 4 L l log2 R more.

C: the step of one rank. low: bytes of gradients that are summed beside backward, but for the last of L layers; c: the part of that
time which compute loses to it. rest: bytes that are summed behind it. words: bytes of tokens' gradients that each rank sends to all.

  python3 tests/device/scaling_table.py FOLDER      or      --predict: the figures of docs/scaling.md, without a measurement
"""
import glob
import json
import math
import os
import sys

LINK, LATENCY, LOST, LAYERS, MIB = 300e9, 5e-6, 0.25, 4, 2.0**20  # B in bytes/s of one GPU's NVLink as NCCL uses it, l, c, L
WORKLOADS = {"pretraining": "masked LM, dense", "dense": "classifier, dense", "ahr": "AHR, 8 experts"}


def predicted_ms(one_ms: float, ranks: int, low: float, rest: float, words: float, gathered: float = 0, rows: float = 0) -> float:
    """low, rest, words, gathered (parts of weights, behind the update), rows (to experts and back, seven calls a layer) in MiB."""
    if ranks == 1:
        return one_ms
    ring = 2 * (ranks - 1) / ranks
    behind = ring * (low / LAYERS + rest) + (ranks - 1) * (words + rows) + ring / 2 * gathered
    if rows:
        one_ms += 1e3 * 4 * LAYERS * LATENCY * math.log2(ranks)
    beside = ring * low * (1 - 1 / LAYERS)
    return one_ms + 1e3 * ((behind + LOST * beside) * MIB / LINK + 2 * (LAYERS + 6) * LATENCY * math.log2(ranks))


def rows_of(folder: str):
    for path in glob.glob(folder + "/*.json*"):
        text, name = open(path).read(), os.path.basename(path).rsplit(".", 2)[0]
        if path.endswith(".jsonl"):
            for r in (json.loads(line) for line in text.splitlines() if line.startswith("{")):
                yield WORKLOADS[r["workload"]], "PyTorch DDP" + (", compiled" if r["compiled"] else ""), r, None
            continue
        one, *several = json.loads(text)["runs"]
        yield name, "", one, None
        for r in several:
            sent = [r[k] for k in ("low_mib", "rest_mib", "words_mib", "gathered_mib", "rows_mib")]
            # The model is of links between GPUs.
            yield name, "", r, predicted_ms(one["step_ms"], r["ranks"], *sent) if "NCCL" in r["what"] else None


def print_measured(folder: str) -> None:
    print(f"\n{'what':<44}{'ranks':>6}{'ms a step':>11}{'tokens/s':>12}{'of linear':>11}{'model':>9}{'off by':>8}{'moments':>10}")
    seen = set()
    for what, whose, r, model in sorted(rows_of(folder), key=lambda row: (row[0], row[2]["ranks"], row[1])):
        if r["ranks"] == 1 and (what, whose) in seen:
            continue  # one rank is timed beside every number of them; the first is shown
        seen.add((what, whose))
        line = f"{what + (': ' + whose if whose else ''):<44}{r['ranks']:>6}{r['step_ms']:>11.3f}{r['tokens_per_s']:>12.0f}"
        line += f"{100 * r['weak_scaling']:>10.1f}%"
        line += f"{model:>9.3f}{100 * (r['step_ms'] / model - 1):>7.0f}%" if model else " " * 17
        print(line + (f"{r['moments_mib']:>7.0f} MiB" if "moments_mib" in r else ""))


def print_predicted() -> None:
    """Of one GPU's steps as BENCHMARKS.md has them, with the bytes of the paper's encoder (30,522 words)."""
    # ms of one rank, MiB: low (half of what is summed part by part), rest, words, gathered, rows; float32 weights whose update is divided.
    cases = [("masked LM, dense, 65,536 places a GPU", 11.95, 24, 62, 0, 0, 0, 0), ("AHR, 8 experts, 192 sequences a GPU", 3.76, 138, 2, 10, 0, 0, 0),
             ("AHR, moments shared out", 3.76, 69, 62, 0, 200, 0, 340), ("AHR, experts divided", 3.76, 10, 2, 10, 0, 124, 256),
             ("64 experts, 192 sequences a GPU", 9.41, 1032, 4, 10, 0, 0, 0), ("64 experts, moments shared out", 9.41, 516, 64, 0, 1094, 0, 2130),
             ("64 experts, divided", 9.41, 10, 4, 10, 0, 124, 2048)]
    print(f"{'what':<40}" + "".join(f"{n:>16}" for n in ("1 GPU", "2", "4", "8")))
    for name, one, low, rest, words, gathered, rows, updated in cases:
        steps = []
        for n in (1, 2, 4, 8):
            # A rank that updates its part alone saves the rest of AdamW's 26 bytes a weight, at 3 TB/s.
            saved = 1e3 * 26 * updated * MIB / 4 / 3e12 * (1 - 1 / n)
            steps.append(predicted_ms(one, n, low, rest, words, gathered, rows) - saved)
        print(f"{name:<40}" + "".join(f"{s:>8.2f} {100 * one / s:>5.1f} %" for s in steps))


if __name__ == "__main__":
    print_predicted() if sys.argv[1:] == ["--predict"] else print_measured(sys.argv[1])
