#!/usr/bin/env python3
"""Writes tests/fixtures/torch_model.json: what PyTorch computes for two small models, for tests/nn/torch_test.cpp.

A dense BERT and one with astrocyte-hierarchical routing, packed sequences, float64, no dropout. Weights and batches come from a
formula over integers that both sides know (`uniform` below), so the file holds results only: logits, the parts of the loss and
every gradient of the first step, then loss and gradient norm of ten AdamW steps (clipping, warm-up, weight decay) and the
weights after them.  Float64, so that agreement is to many digits and a float32 run can be held to its own rounding.

  python3 tests/peer/torch_fixture.py > tests/fixtures/torch_model.json      (any PyTorch >= 1.13; no GPU needed)
"""
import json

import torch
import torch.nn.functional as F

LAYERS, HIDDEN, HEADS, FFN, VOCABULARY, POSITIONS, TYPES, CLASSES = 2, 8, 2, 16, 30, 12, 2, 3
EXPERTS, TOP_K, ALPHA, BETA = 4, 2, 0.1, 0.2
BATCH, STEPS, RATE, WARMUP, TOTAL, CLIP, DECAY = 4, 10, 0.01, 3, 20, 0.5, 0.01
MASK = 0xFFFFFFFF


def mixed(x):
    x = (x * 2654435761) & MASK
    x ^= x >> 15
    x = (x * 2246822519) & MASK
    return x ^ (x >> 13)


def salt(name):  # 32-bit FNV-1a
    h = 2166136261
    for c in name.encode():
        h = ((h ^ c) * 16777619) & MASK
    return h


def uniform(name, i):  # in [-1, 1), exact in float64
    return mixed((salt(name) + i) & MASK) / 2147483648.0 - 1.0


def below(name, i, n):
    return mixed((salt(name) + i) & MASK) % n


def declared(router):
    """Our parameters' names and shapes."""
    d = {"embeddings.word.weight": (VOCABULARY, HIDDEN), "embeddings.position.weight": (POSITIONS, HIDDEN),
         "embeddings.type.weight": (TYPES, HIDDEN), "embeddings.norm.weight": (HIDDEN,), "embeddings.norm.bias": (HIDDEN,)}

    def linear(name, o, i):
        d[name + ".weight"], d[name + ".bias"] = (o, i), (o,)

    for l in range(LAYERS):
        n = f"encoder.layer.{l}."
        linear(n + "attention.qkv", 3 * HIDDEN, HIDDEN)
        linear(n + "attention.output", HIDDEN, HIDDEN)
        d[n + "attention.norm.weight"] = d[n + "attention.norm.bias"] = (HIDDEN,)
        if router:
            linear(n + "moe.router.token", EXPERTS, HIDDEN)
            linear(n + "moe.router.context", EXPERTS, HIDDEN)
            d[n + "moe.experts.up.weight"], d[n + "moe.experts.up.bias"] = (EXPERTS, FFN, HIDDEN), (EXPERTS, FFN)
            d[n + "moe.experts.down.weight"], d[n + "moe.experts.down.bias"] = (EXPERTS, HIDDEN, FFN), (EXPERTS, HIDDEN)
        else:
            linear(n + "ffn.up", FFN, HIDDEN)
            linear(n + "ffn.down", HIDDEN, FFN)
        d[n + "norm.weight"] = d[n + "norm.bias"] = (HIDDEN,)
    linear("pooler", HIDDEN, HIDDEN)
    linear("classifier", CLASSES, HIDDEN)
    return d


def is_plain(name):  # no weight decay
    return name.endswith(".bias") or ".norm." in name


def weights(router):
    out = {}
    for name, shape in declared(router).items():
        n = 1
        for s in shape:
            n *= s
        base = 1.0 if name.endswith("norm.weight") else 0.0
        size = 0.125 if is_plain(name) else 0.5
        flat = torch.tensor([base + size * uniform(name, i) for i in range(n)], dtype=torch.float64)
        out[name] = flat.reshape(shape).clone().requires_grad_(True)
    return out


def batch(step):
    lengths = [2 + below("length", step * BATCH + b, 6) for b in range(BATCH)]
    ids = [[below("ids", (step * BATCH + b) * POSITIONS + p, VOCABULARY) for p in range(n)] for b, n in enumerate(lengths)]
    return ids, torch.tensor([below("label", step * BATCH + b, CLASSES) for b in range(BATCH)])


def forward(w, router, ids, labels):
    lengths = [len(s) for s in ids]
    starts = [sum(lengths[:b]) for b in range(len(ids))]
    word = torch.tensor([t for s in ids for t in s])
    place = torch.tensor([p for n in lengths for p in range(n)])
    owner = torch.tensor([b for b, n in enumerate(lengths) for _ in range(n)])

    def norm(x, name):
        return F.layer_norm(x, (HIDDEN,), w[name + ".weight"], w[name + ".bias"], 1e-12)

    def linear(x, name):
        return F.linear(x, w[name + ".weight"], w[name + ".bias"])

    x = norm(w["embeddings.word.weight"][word] + w["embeddings.position.weight"][place] + w["embeddings.type.weight"][0], "embeddings.norm")
    balance = energy = torch.zeros((), dtype=torch.float64)
    for l in range(LAYERS):
        n = f"encoder.layer.{l}."
        q, k, v = linear(x, n + "attention.qkv").chunk(3, -1)
        mixed_rows = []
        for start, length in zip(starts, lengths):
            r = slice(start, start + length)
            split = [t[r].reshape(length, HEADS, HIDDEN // HEADS).transpose(0, 1) for t in (q, k, v)]
            p = (split[0] @ split[1].transpose(1, 2) / (HIDDEN // HEADS) ** 0.5).softmax(-1)
            mixed_rows.append((p @ split[2]).transpose(0, 1).reshape(length, HIDDEN))
        h = norm(x + linear(torch.cat(mixed_rows), n + "attention.output"), n + "attention.norm")
        if router:
            cls = h[torch.tensor(starts)][owner]
            logits = linear(h, n + "moe.router.token") + linear(cls, n + "moe.router.context")
            top, chosen = logits.topk(TOP_K, -1)
            gates = torch.zeros_like(logits).scatter(1, chosen, top.softmax(-1))
            y = torch.zeros_like(h)
            for e in range(EXPERTS):
                up = F.linear(h, w[n + "moe.experts.up.weight"][e], w[n + "moe.experts.up.bias"][e])
                y = y + gates[:, e:e + 1] * F.linear(F.gelu(up), w[n + "moe.experts.down.weight"][e], w[n + "moe.experts.down.bias"][e])
            importance = gates.sum(0)
            balance = balance + importance.var() / (importance.mean() ** 2 + 1e-8) / LAYERS
            energy = energy + (importance / len(word)).square().sum() / LAYERS
        else:
            y = linear(F.gelu(linear(h, n + "ffn.up")), n + "ffn.down")
        x = norm(h + y, n + "norm")
    logits = linear(torch.tanh(linear(x[torch.tensor(starts)], "pooler")), "classifier")
    ce = F.cross_entropy(logits, labels)
    return logits, ce + ALPHA * balance + BETA * energy, [ce, balance, energy] if router else [ce]


def numbers(t):
    return [float("%.12g" % x) for x in t.detach().reshape(-1).tolist()]


def run(router):
    w = weights(router)
    groups = [dict(params=[p for n, p in w.items() if not is_plain(n)], weight_decay=DECAY),
              dict(params=[p for n, p in w.items() if is_plain(n)], weight_decay=0.0)]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: i / WARMUP if i < WARMUP else max(0.0, (TOTAL - i) / (TOTAL - WARMUP)))
    result = {"losses": [], "gradient_norms": []}
    for step in range(STEPS):
        optimiser.zero_grad(set_to_none=False)
        logits, loss, parts = forward(w, router, *batch(step))
        loss.backward()
        if step == 0:
            result["logits"] = numbers(logits)
            result["parts"] = [numbers(p)[0] for p in parts]
            result["gradients"] = {n: numbers(p.grad) for n, p in w.items()}
        result["losses"] += numbers(loss)
        result["gradient_norms"] += numbers(torch.nn.utils.clip_grad_norm_(list(w.values()), CLIP))
        optimiser.step()
        schedule.step()
    result["weights"] = {n: numbers(p) for n, p in w.items()}
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = json.dumps({"made_by": "tests/peer/torch_fixture.py", "torch": torch.__version__,
                       "none": run(False), "astrocyte-hierarchical": run(True)}, separators=(",", ":"))
    print(text.replace('],"', '],\n"').replace('{"losses"', '\n{"losses"'))  # a tensor a line
