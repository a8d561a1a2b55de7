#!/usr/bin/env python3
"""Varlen flash attention of PyTorch at the shapes that tests/device/attention_harness times, forward and backward.

    python3 tests/peer/attention_varlen.py

Packed q, k, v with cumulative lengths, bfloat16, no padding. Medians of replayed graphs on rotated inputs, in µs, as the
harness measures ours. A case that this PyTorch cannot run says why.
"""
import statistics

import torch

SETS, ITEMS, REPEATS = 4, 16, 20


def time_graph(body):
    """Median µs of body(i), captured ITEMS times into a graph that is replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(SETS):
            body(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(ITEMS):
            body(i % SETS)
    times = []
    for i in range(REPEATS + 5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if i >= 5:
            times.append(begin.elapsed_time(end) * 1e3 / ITEMS)
    return statistics.median(times)


def time_case(name, lengths, heads, size, dropout, causal=False):
    longest, tokens = max(lengths), sum(lengths)
    offsets = torch.tensor([0] + lengths).cumsum(0).to(torch.int32).cuda()

    def draw():
        return torch.randn(tokens, heads, size, device="cuda", dtype=torch.bfloat16)

    inputs = [(draw(), draw(), draw(), draw()) for _ in range(SETS)]
    scale = size**-0.5

    def forward(i):
        q, k, v, _ = inputs[i]
        return torch.ops.aten._flash_attention_forward(
            q, k, v, offsets, offsets, longest, longest, dropout, causal, False, scale=scale
        )

    saved = []

    def backward(i):
        q, k, v, dout = inputs[i]
        out, lse, state, unused = saved[i][:4]
        return torch.ops.aten._flash_attention_backward(
            dout, q, k, v, out, lse, offsets, offsets, longest, longest, dropout, causal, state, unused, scale=scale
        )

    try:
        saved.extend(forward(i) for i in range(SETS))
        f, b = time_graph(forward), time_graph(backward)
        result = f"fwd {f:7.1f}  bwd {b:7.1f}  both {f + b:7.1f} µs"
    except RuntimeError as error:
        result = f"failed: {str(error).splitlines()[0]}"
    print(f"{name:<18} T={tokens:5d} {heads:2d} x {size:3d} p={dropout:.1f}{' causal' if causal else ''}  {result}", flush=True)


def main():
    torch.manual_seed(1)
    print(torch.__version__, torch.cuda.get_device_name())
    # AG News's lengths as the harness draws them: mean 52, deviation 20, in [10, 128].
    short = torch.normal(52.3, 20.0, (192,)).round().clamp(10, 128).int().tolist()
    short[17], short[101] = 128, 121
    time_case("AG News lengths", short, 8, 64, 0.1)
    time_case("AG News lengths", short, 12, 32, 0.1)
    for heads, size in ((8, 64), (12, 32), (8, 96), (8, 128)):
        for dropout in (0.0, 0.1):
            time_case("20 x 512", [512] * 20, heads, size, dropout)
    time_case("20 x 512", [512] * 20, 8, 64, 0.0, causal=True)
    time_case("10 x 1024", [1024] * 10, 8, 64, 0.1)


if __name__ == "__main__":
    main()
