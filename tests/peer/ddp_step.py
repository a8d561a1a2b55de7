#!/usr/bin/env python3
"""PyTorch DistributedDataParallel beside ./tools/bench ranks --pretraining: one masked-LM step of the paper's encoder on one GPU
and on several of one host, as much for each. Prints a JSON line a number of GPUs.

  python3 tests/peer/ddp_step.py [--ranks 2] [--tokens 65536] [--steps 50] [--compile]

As fast as stock PyTorch goes without kernels of its own: bfloat16 autocast, full-length sequences (so that nothing is padding),
the fused attention, a head on the masked rows alone, fused AdamW, gradients as views of DDP's buckets.
"""
import argparse
import json
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F


class Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, ffn: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, ffn), nn.Linear(ffn, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden, 1e-12), nn.LayerNorm(hidden, 1e-12)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        b, n, h = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        x = self.norm1(x + self.drop(self.out(a.transpose(1, 2).reshape(b, n, h))))
        return self.norm2(x + self.drop(self.down(F.gelu(self.up(x)))))


class MaskedLm(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.words, self.positions = nn.Embedding(o.vocabulary, o.hidden), nn.Embedding(512, o.hidden)
        self.norm, self.drop = nn.LayerNorm(o.hidden, 1e-12), nn.Dropout(0.1)
        self.layers = nn.ModuleList(Layer(o.hidden, o.heads, o.ffn) for _ in range(o.layers))
        self.dense, self.head_norm = nn.Linear(o.hidden, o.hidden), nn.LayerNorm(o.hidden, 1e-12)
        self.bias = nn.Parameter(torch.zeros(o.vocabulary))

    def forward(self, ids, read, targets):
        x = self.drop(self.norm(self.words(ids) + self.positions.weight[:ids.shape[1]]))
        for layer in self.layers:
            x = layer(x)
        x = self.head_norm(F.gelu(self.dense(x.flatten(0, 1)[read])))
        return F.cross_entropy(F.linear(x, self.words.weight, self.bias).float(), targets)


def step_ms(rank: int, ranks: int, o, meeting: str, out: str) -> None:
    torch.cuda.set_device(rank)
    torch.manual_seed(rank)
    dist.init_process_group("nccl", init_method=f"file://{meeting}", rank=rank, world_size=ranks,
                            device_id=torch.device("cuda", rank))
    model = MaskedLm(o).cuda()
    parameters = sum(p.numel() for p in model.parameters())
    if o.compile:
        model = torch.compile(model)
    if ranks > 1:
        model = nn.parallel.DistributedDataParallel(model, device_ids=[rank], gradient_as_bucket_view=True, static_graph=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    count = o.tokens // o.length
    masked = int(0.15 * o.tokens) // 64 * 64
    ids = torch.randint(o.vocabulary, (count, o.length), device="cuda")
    targets = torch.randint(o.vocabulary, (masked,), device="cuda")

    def step():
        read = torch.randperm(o.tokens, device="cuda")[:masked]
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(ids, read, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=ranks == 1)

    for _ in range(15):
        step()
    torch.cuda.synchronize()
    dist.barrier()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(o.steps):
        step()
    end.record()
    torch.cuda.synchronize()
    ms = torch.tensor([begin.elapsed_time(end) / o.steps], device="cuda")
    dist.all_reduce(ms, dist.ReduceOp.MAX)
    if rank == 0:
        with open(out, "w") as f:
            json.dump({"peer": "torch " + torch.__version__, "compiled": o.compile, "ranks": ranks, "step_ms": ms.item(),
                       "tokens_per_s": 1e3 * ranks * o.tokens / ms.item(), "parameters": parameters}, f)
    dist.destroy_process_group()


def main() -> None:
    p = argparse.ArgumentParser()
    for name, value in dict(ranks=2, tokens=65536, steps=50, length=128, layers=4, hidden=512, heads=8, ffn=2048,
                            vocabulary=30522).items():
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--compile", action="store_true")
    o = p.parse_args()
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    one = None
    for ranks in (1, o.ranks):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.json")
            mp.spawn(step_ms, (ranks, o, os.path.join(folder, "meeting"), out), nprocs=ranks)
            result = json.load(open(out))
        one = one or result
        result["weak_scaling"] = result["tokens_per_s"] / (ranks * one["tokens_per_s"])
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
