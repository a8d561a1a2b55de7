#!/usr/bin/env python3
"""PyTorch DistributedDataParallel beside ./tools/bench ranks: steps of the paper's encoder on one GPU and on several of one host,
as much for each. Prints a JSON line a workload and number of GPUs.

  python3 tests/peer/ddp_step.py [--ranks 2] [--workloads pretraining,dense,ahr] [--steps 50] [--compile] [--cpu]

pretraining: masked LM on --tokens places of --length; dense, ahr: a classifier of --sequences texts of --text-length, whose last
layer's FFN or experts see first rows alone, as ours. As fast as stock PyTorch goes without kernels of its own: bfloat16 autocast,
sequences of one length (so that nothing is padding), the fused attention, grouped products of experts without a host's wait, a
masked-LM head on the masked rows alone, fused AdamW, gradients as views of DDP's buckets. --cpu tries the script itself with gloo.
"""
import argparse
import json
import os
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F


class Dense(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.up, self.down = nn.Linear(o.hidden, o.ffn), nn.Linear(o.ffn, o.hidden)

    def forward(self, x, first):
        return self.down(F.gelu(self.up(x))), 0.0


class Experts(nn.Module):
    """Top-k of logits that have a bias from the sequence's first row; rows are sorted by expert and multiplied in groups."""

    def __init__(self, o):
        super().__init__()
        self.experts, self.k = o.experts, o.top_k
        self.own, self.context = nn.Linear(o.hidden, o.experts), nn.Linear(o.hidden, o.experts)
        self.up = nn.Parameter(0.02 * torch.randn(o.experts, o.hidden, o.ffn))
        self.down = nn.Parameter(0.02 * torch.randn(o.experts, o.ffn, o.hidden))
        self.up_bias, self.down_bias = (nn.Parameter(torch.zeros(o.experts, n)) for n in (o.ffn, o.hidden))

    def products(self, x, w, bias, of, ends):
        if x.is_cuda:
            return torch._grouped_mm(x.bfloat16(), w.bfloat16(), ends) + bias[of].bfloat16()
        return torch.cat([part @ w[e] for e, part in enumerate(x.tensor_split(ends[:-1].long()))]) + bias[of]

    def forward(self, x, first):
        p = (self.own(x) + self.context(first)).float().softmax(-1)
        gates, chosen = p.topk(self.k, -1)
        gates = gates / gates.sum(-1, keepdim=True)
        flat = chosen.reshape(-1)
        order = flat.argsort(stable=True)
        of, token = flat[order], order // self.k
        ends = (flat[:, None] == torch.arange(self.experts, device=x.device)).sum(0).cumsum(0).to(torch.int32)
        y = self.products(x[token], self.up, self.up_bias, of, ends)
        y = self.products(F.gelu(y), self.down, self.down_bias, of, ends) * gates.reshape(-1)[order, None]
        mean = torch.zeros_like(p).scatter(-1, chosen, gates).mean(0)
        losses = 0.01 * mean.var() / (mean.mean() ** 2 + 1e-8) + 0.01 * mean.square().sum()
        return torch.zeros_like(x).index_add_(0, token, y.to(x.dtype)), losses


class Layer(nn.Module):
    def __init__(self, o, ffn):
        super().__init__()
        self.heads, h = o.heads, o.hidden
        self.qkv, self.out, self.ffn = nn.Linear(h, 3 * h), nn.Linear(h, h), ffn(o)
        self.norm1, self.norm2 = nn.LayerNorm(h, 1e-12), nn.LayerNorm(h, 1e-12)
        self.drop = nn.Dropout(0.1)

    def forward(self, x, first_rows_alone):
        b, n, h = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        x = self.norm1(x + self.drop(self.out(a.transpose(1, 2).reshape(b, n, h))))
        first = x[:, :1]
        if first_rows_alone:
            x = first
        y, losses = self.ffn(x.flatten(0, 1), first.expand_as(x).flatten(0, 1))
        return self.norm2(x + self.drop(y.view_as(x).to(x.dtype))), losses


class Model(nn.Module):
    def __init__(self, o, workload):
        super().__init__()
        self.classifies = workload != "pretraining"
        self.words, self.positions = nn.Embedding(o.vocabulary, o.hidden), nn.Embedding(512, o.hidden)
        self.norm, self.drop = nn.LayerNorm(o.hidden, 1e-12), nn.Dropout(0.1)
        self.layers = nn.ModuleList(Layer(o, Experts if workload == "ahr" else Dense) for _ in range(o.layers))
        self.dense = nn.Linear(o.hidden, o.hidden)
        if self.classifies:
            self.classes = nn.Linear(o.hidden, 4)
        else:
            self.head_norm, self.bias = nn.LayerNorm(o.hidden, 1e-12), nn.Parameter(torch.zeros(o.vocabulary))

    def forward(self, ids, read, targets):
        x = self.drop(self.norm(self.words(ids) + self.positions.weight[:ids.shape[1]]))
        losses = 0.0
        for i, layer in enumerate(self.layers):
            x, own = layer(x, self.classifies and i + 1 == len(self.layers))
            losses = losses + own / len(self.layers)
        if self.classifies:
            return F.cross_entropy(self.classes(self.drop(torch.tanh(self.dense(x[:, 0])))).float(), targets) + losses
        x = self.head_norm(F.gelu(self.dense(x.flatten(0, 1)[read])))
        return F.cross_entropy(F.linear(x, self.words.weight, self.bias).float(), targets)


def step_of(model, o, workload, device, one):
    """A function that does one step on random words, and how many tokens that is."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    classifies = workload != "pretraining"
    length = o.text_length if classifies else o.length
    count = o.sequences if classifies else o.tokens // length
    tokens = count * length
    masked = int(0.15 * tokens) // 64 * 64
    ids = torch.randint(o.vocabulary, (count, length), device=device)
    targets = torch.randint(4 if classifies else o.vocabulary, (count if classifies else masked,), device=device)

    def step():
        read = None if classifies else torch.randperm(tokens, device=device)[:masked]
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(ids, read, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=one)

    return step, tokens


def time_of(o, workload, rank, ranks, device):
    torch.manual_seed(rank)
    model = Model(o, workload).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    if o.compile:
        model = torch.compile(model)
    if ranks > 1:
        model = nn.parallel.DistributedDataParallel(model, device_ids=None if o.cpu else [rank], gradient_as_bucket_view=True,
                                                    static_graph=True)
    step, tokens = step_of(model, o, workload, device, ranks == 1)
    wait = (lambda: None) if o.cpu else torch.cuda.synchronize
    for _ in range(15 if not o.cpu else 1):
        step()
    wait()
    dist.barrier()
    begin = time.perf_counter()
    for _ in range(o.steps):
        step()
    wait()
    ms = torch.tensor([1e3 * (time.perf_counter() - begin) / o.steps], device=device)
    dist.all_reduce(ms, dist.ReduceOp.MAX)
    return {"peer": "torch " + torch.__version__, "workload": workload, "compiled": o.compile, "ranks": ranks,
            "step_ms": ms.item(), "tokens": ranks * tokens, "tokens_per_s": 1e3 * ranks * tokens / ms.item(),
            "parameters": parameters}


def work(rank: int, ranks: int, o, meeting: str, out: str) -> None:
    device = torch.device("cpu") if o.cpu else torch.device("cuda", rank)
    if not o.cpu:
        torch.cuda.set_device(rank)
    dist.init_process_group("gloo" if o.cpu else "nccl", init_method=f"file://{meeting}", rank=rank, world_size=ranks,
                            **({} if o.cpu else {"device_id": device}))
    for workload in o.workloads.split(","):
        try:
            result = time_of(o, workload, rank, ranks, device)
        except Exception as error:  # what this PyTorch cannot do fails on all ranks alike; the next workload is tried
            print(f"ddp_step: {workload}, {ranks} ranks: {error}", file=sys.stderr, flush=True)
            continue
        if rank == 0:
            with open(out, "a") as f:
                f.write(json.dumps(result) + "\n")
    dist.destroy_process_group()


def main() -> None:
    p = argparse.ArgumentParser()
    for name, value in dict(ranks=2, tokens=65536, steps=50, length=128, sequences=192, text_length=50, layers=4, hidden=512,
                            heads=8, ffn=2048, experts=8, top_k=2, vocabulary=30522).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    p.add_argument("--workloads", default="pretraining,dense,ahr")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--cpu", action="store_true")
    o = p.parse_args()
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    one = {}
    for ranks in (1, o.ranks):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.jsonl")
            try:
                mp.spawn(work, (ranks, o, os.path.join(folder, "meeting"), out), nprocs=ranks)
            finally:  # what was measured before something failed
                for line in open(out) if os.path.exists(out) else ():
                    result = json.loads(line)
                    base = one.setdefault(result["workload"], result)
                    result["weak_scaling"] = result["tokens_per_s"] / (result["ranks"] * base["tokens_per_s"])
                    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
