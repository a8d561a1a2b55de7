#!/usr/bin/env python3
"""A causal language model in PyTorch on the text, split and held-out pieces of ./experiments/pretrain --task causal_lm: the same size,
data and number of steps, for its held-out loss and its speed.

  ./experiments/pretrain --task causal_lm ... --dump DUMP
  python3 tests/peer/causal_lm.py DUMP [--steps N] [--seed S] [--layers 4 ...] [--experts 8] [--compile] [--graph] [--time STEPS]
  python3 tests/peer/causal_lm.py DUMP --steps N --plain                    without what a decoder has from BERT: type row, norm of the embeddings
  python3 tests/peer/causal_lm.py DUMP --generate 200                       tokens/s of cached greedy generation
  python3 tests/peer/causal_lm.py DUMP --device cpu --replay START --beside RUN   the first steps from our weights on our batches, in float64
  python3 tests/peer/causal_lm.py DUMP --device cpu --steps 200 --layers 2 …  float32 and a mask over whole batches: what it learns alone

As fast as stock PyTorch goes without kernels of its own: bfloat16 autocast (or with --pure, for times alone, weights, gradients and moments
all in bfloat16, which learns worse and moves less), packed sequences with the library's flash attention over
cumulative lengths (or, for times alone, --attention dense: full blocks and scaled_dot_product_attention), a tied head over the rows that have
a target, fused AdamW, torch.compile and a captured graph of the whole step on request. Prints JSON lines.
"""
import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class Batch:
    """ids [T], places [T] within their sequences, cu [B + 1], rows [R] with a target, targets [R] (-100: none)."""

    def __init__(self, ids, cu, rows, targets, device):
        self.ids, self.cu = ids.to(device), cu.to(device, torch.int32)
        seq = torch.searchsorted(cu, torch.arange(len(ids)), right=True) - 1
        self.places = (torch.arange(len(ids)) - cu[seq]).to(device)
        if device.type == "cpu":  # [T, T]: a row sees the rows of its sequence up to itself
            self.seen = (seq[:, None] == seq[None, :]).tril()
        self.rows, self.targets = rows.to(device), targets.to(device)

    def copy_from(self, other):
        for name in vars(self):
            getattr(self, name).copy_(getattr(other, name))


class Text:
    """Pieces [CLS] words [SEP] of at most `longest` places, end to end, in a new order each epoch: as data/batches/pieces.h."""

    def __init__(self, dump, facts, seed):
        kind = np.uint16 if facts["tokens"].endswith("u16") else np.int32
        self.ids = np.fromfile(dump / facts["tokens"], kind)
        self.offsets = np.fromfile(dump / "training.i64", np.int64)
        self.facts, self.rng = facts, np.random.default_rng(seed)
        body = facts["longest"] - 2
        self.room = facts["places"] // max(1, body // 4) + 64

    def pieces(self):
        body = self.facts["longest"] - 2
        while True:
            all_pieces = []
            for begin, end in zip(self.offsets[:-1], self.offsets[1:]):
                first = end - begin if end - begin <= body else self.rng.integers(max(1, body // 4), body + 1)
                at, length = begin, first
                while at < end:
                    n = min(length, end - at)
                    all_pieces.append((at, at + n, at + n == end))
                    at, length = at + n, body
            for i in self.rng.permutation(len(all_pieces)):
                yield all_pieces[i]

    def border(self, piece):
        """Tokens of a piece's prompt: up to the first mark that ends a sentence in its first half, else that half."""
        if not self.facts.get("prompts"):
            return 1
        half = len(piece) // 2
        return next((t + 1 for t in range(1, half) if piece[t] in self.facts["enders"]), half)

    def batches(self, device):
        places, pieces, rest = self.facts["places"], self.pieces(), None
        while True:
            ids, cu, rows, targets = np.zeros(places, np.int64), [0], [], []
            while places - cu[-1] > 2 and len(cu) <= self.room:
                begin, end, last = rest or next(pieces)
                rest, at = None, cu[-1]
                n = min(end - begin, places - at - 2)
                if n < end - begin:
                    rest, last = (begin + n, end, last), False
                ids[at], ids[at + 1:at + 1 + n], ids[at + 1 + n] = self.facts["cls"], self.ids[begin:begin + n], self.facts["sep"]
                told = n + 1 if last else n          # [SEP] where the document ends there
                first = self.border(ids[at:at + n + 2]) - 1   # the prompt is not told
                rows.append(np.arange(at + first, at + told))
                targets.append(ids[at + 1 + first:at + 1 + told])
                cu.append(at + n + 2)
            rows, targets = np.concatenate(rows), np.concatenate(targets)
            left = places - len(rows)                # every batch has the same shapes
            rows, targets = np.pad(rows, (0, left)), np.pad(targets, (0, left), constant_values=-100)
            cu = np.pad(np.array(cu), (0, self.room + 2 - len(cu)), constant_values=places)  # places that are left: a text of their own
            yield Batch(*(torch.from_numpy(x) for x in (ids, cu, rows, targets)), device)


def kept_batches(path, count, device):
    words = np.fromfile(path, np.int32).astype(np.int64)
    at = 0
    for _ in range(count):
        tokens, sequences, asked = (int(n) for n in words[at:at + 3])
        parts, at = [], at + 3
        for n in (tokens, sequences + 1, asked, asked):
            parts.append(torch.from_numpy(words[at:at + n].copy()))
            at += n
        yield Batch(*parts, device)


class Experts(nn.Module):
    """Top-k experts behind the astrocytes' context: l = W x + b + W_a x_first + b_a, a softmax over the k largest."""

    def __init__(self, o):
        super().__init__()
        self.k, self.balance = o.top_k, o.balance
        self.router, self.context = nn.Linear(o.hidden, o.experts), nn.Linear(o.hidden, o.experts) if o.context else None
        self.up = nn.Parameter(torch.randn(o.experts, o.hidden, o.ffn) * 0.02)
        self.down = nn.Parameter(torch.randn(o.experts, o.ffn, o.hidden) * 0.02)

    def of_groups(self, rows, ends):
        if rows.is_cuda:
            h = F.gelu(torch._grouped_mm(rows.bfloat16(), self.up.bfloat16(), offs=ends))
            return torch._grouped_mm(h, self.down.bfloat16(), offs=ends)
        groups = rows.tensor_split(ends[:-1].tolist())
        return torch.cat([F.gelu(r @ up) @ down for r, up, down in zip(groups, self.up, self.down)])

    def forward(self, x, batch):
        logits = self.router(x).float()
        if self.context is not None:
            seq = torch.bucketize(torch.arange(len(x), device=x.device), batch.cu[1:], right=True).clamp(max=len(batch.cu) - 2)
            logits = logits + self.context(x[batch.cu[:-1].long().clamp(max=len(x) - 1)])[seq].float()
        top, chosen = logits.topk(self.k, -1)
        gates = top.softmax(-1)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        counts = (flat[:, None] == torch.arange(len(self.up), device=x.device)).sum(0)  # bincount would wait for the device
        ends = counts.cumsum(0).to(torch.int32)
        y = self.of_groups(x[order // self.k], ends)
        y = y * gates.flatten()[order, None].to(y.dtype)
        out = torch.zeros_like(x, dtype=y.dtype).index_add_(0, order // self.k, y)
        load = torch.zeros(len(self.up), device=x.device).index_add_(0, flat, gates.flatten().float())
        return out, self.balance * load.var() / load.mean() ** 2


class Dense(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.up, self.down = nn.Linear(o.hidden, o.ffn), nn.Linear(o.ffn, o.hidden)

    def forward(self, x, batch):
        return self.down(F.gelu(self.up(x))), 0.0


class Layer(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        self.qkv, self.out = nn.Linear(o.hidden, 3 * o.hidden), nn.Linear(o.hidden, o.hidden)
        self.ffn = Experts(o) if o.experts else Dense(o)
        self.norm1, self.norm2 = nn.LayerNorm(o.hidden, 1e-12), nn.LayerNorm(o.hidden, 1e-12)
        self.drop = nn.Dropout(o.dropout)

    def attend(self, x, batch):
        o, p = self.o, self.o.dropout if self.training else 0.0
        q, k, v = self.qkv(x).view(len(x), 3, o.heads, o.hidden // o.heads).unbind(1)
        if o.attention == "packed":
            a = torch.ops.aten._flash_attention_forward(q, k, v, batch.cu, batch.cu, o.longest, o.longest, p, True, False)[0]
        elif o.attention == "masked":
            q, k, v = (t.transpose(0, 1) for t in (q, k, v))
            a = F.scaled_dot_product_attention(q, k, v, batch.seen, p).transpose(0, 1)
        else:
            q, k, v = (t.view(-1, o.longest, o.heads, o.hidden // o.heads).transpose(1, 2) for t in (q, k, v))
            a = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True).transpose(1, 2)
        return self.drop(self.out(a.reshape(len(x), o.hidden)))

    def forward(self, x, batch):
        if self.o.norm == "pre":
            x = x + self.attend(self.norm1(x), batch)
            y, loss = self.ffn(self.norm2(x), batch)
            return x + self.drop(y), loss
        x = self.norm1(x + self.attend(x, batch))
        y, loss = self.ffn(x, batch)
        return self.norm2(x + self.drop(y)), loss


class Decoder(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.words, self.positions = nn.Embedding(o.vocabulary, o.hidden), nn.Embedding(512, o.hidden)
        # BERT's types, of which all tokens have the first one
        self.kind = nn.Parameter(torch.zeros(1, o.hidden), requires_grad=False) if o.plain else nn.Parameter(torch.empty(1, o.hidden))
        self.plain = o.plain
        self.norm, self.drop = nn.LayerNorm(o.hidden, 1e-12), nn.Dropout(o.dropout)
        self.layers, self.pre = nn.ModuleList(Layer(o) for _ in range(o.layers)), o.norm == "pre"
        self.bias = nn.Parameter(torch.zeros(o.vocabulary))
        for p in self.parameters():
            if p.dim() == 2 and p.requires_grad:
                nn.init.normal_(p, std=0.02)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.zeros_(m.bias)

    def hidden(self, batch):
        x, losses = self.words(batch.ids) + self.positions(batch.places) + self.kind, 0.0
        x = self.drop(x if self.pre or self.plain else self.norm(x))
        for layer in self.layers:
            x, loss = layer(x, batch)
            losses = losses + loss
        return self.norm(x) if self.pre else x, losses / len(self.layers)

    def forward(self, batch):
        x, losses = self.hidden(batch)
        logits = F.linear(x[batch.rows], self.words.weight, self.bias)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(logits, batch.targets), losses


def precision(o):
    """bfloat16 autocast on a GPU, float32 on a CPU."""
    return torch.autocast(o.device, torch.bfloat16, enabled=o.device == "cuda" and not o.pure)


def measure(model, batches, o):
    model.eval()
    loss, count = 0.0, 0
    with torch.no_grad(), precision(o):
        for b in batches:
            loss += model(b)[0].item() * len(b.targets)
            count += len(b.targets)
    model.train()
    return loss / count


def optimiser_of(model, o):
    learnt = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    norms = [p for n, p in learnt if p.dim() < 2 or "norm" in n]
    small = {id(p) for p in norms}
    groups = [{"params": norms, "weight_decay": 0.0}, {"params": [p for _, p in learnt if id(p) not in small]}]
    return torch.optim.AdamW(groups, lr=torch.tensor(o.lr, device=o.device), betas=(0.9, 0.98), eps=1e-6,
                             weight_decay=o.weight_decay, fused=True, capturable=o.device == "cuda")


def set_rate(optimiser, step, o):
    warm = o.warmup * o.steps
    for group in optimiser.param_groups:
        group["lr"].fill_(o.lr * (step / warm if step < warm else (o.steps - step) / (o.steps - warm)))


def warmed_up(step, model, optimiser, o):
    """The step after some that are undone, as a graph on request."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(4):
            step()
    torch.cuda.synchronize()
    run = step
    if o.graph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            step()
        run = graph.replay
    model.load_state_dict(state)
    for group in optimiser.param_groups:
        for p in group["params"]:
            for value in optimiser.state[p].values():
                value.zero_()
    return run


def train(o, dump, facts):
    torch.manual_seed(o.seed)
    device = torch.device(o.device)
    model = Decoder(o).to(device, torch.bfloat16 if o.pure else torch.float32)
    optimiser, stream = optimiser_of(model, o), Text(dump, facts, o.seed).batches(device)
    batch, forward = next(stream), torch.compile(model, dynamic=False) if o.compile else model

    def step():
        optimiser.zero_grad(set_to_none=True)  # in a graph too: its gradients are written where it was captured, never summed
        with precision(o):
            ce, extra = forward(batch)
        (ce + extra).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimiser.step()
        return ce.detach()

    run = warmed_up(step, model, optimiser, o) if o.device == "cuda" else step
    if o.time:
        times = []
        for i in range(o.time + 10):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        ms = statistics.median(times[10:])
        return {"ms": ms, "tokens_per_second": 1e3 * o.places / ms, "peak_bytes": torch.cuda.max_memory_allocated()}
    begin = time.time()
    for i in range(o.steps):
        batch.copy_from(next(stream))
        set_rate(optimiser, i, o)
        run()
    if o.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.time() - begin
    loss = measure(model, kept_batches(dump / "batches.i32", facts["held_out_batches"], device), o)
    return {"seed": o.seed, "steps": o.steps, "held_out_loss": loss, "perplexity": math.exp(loss), "seconds": seconds}


def our_names(model):
    """Our names of the decoder's parameters."""
    norm = "encoder.norm" if model.pre else "embeddings.norm"
    yield from (("embeddings.word.weight", model.words.weight), ("embeddings.position.weight", model.positions.weight),
                ("embeddings.type.weight", model.kind), (norm + ".weight", model.norm.weight), (norm + ".bias", model.norm.bias),
                ("lm.bias", model.bias))
    for i, layer in enumerate(model.layers):
        for name, part in (("attention.qkv", layer.qkv), ("attention.output", layer.out), ("attention.norm", layer.norm1),
                           ("ffn.up", layer.ffn.up), ("ffn.down", layer.ffn.down), ("norm", layer.norm2)):
            yield f"encoder.layer.{i}.{name}.weight", part.weight
            yield f"encoder.layer.{i}.{name}.bias", part.bias


def replay(o, dump, facts):
    """Steps on the batches that our trainer has, from the weights it has: losses and norms of gradients beside ours."""
    raw = (o.replay / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    tensors = json.loads(raw[8:begin])
    model = Decoder(o).double()
    with torch.no_grad():
        for name, to in our_names(model):
            tensor = tensors.pop(name)
            values = np.frombuffer(raw, np.float32, math.prod(tensor["shape"]), begin + tensor["data_offsets"][0])
            to.copy_(torch.from_numpy(values.reshape(tensor["shape"])[:len(to)].copy()))  # of the types' rows the first one
    tensors.pop("__metadata__", None)
    if tensors:
        raise SystemExit(f"{o.replay}: the peer lacks {sorted(tensors)[0]}")
    lines = (json.loads(line) for line in (o.beside / "metrics.jsonl").open())
    ours = {x["step"]: x for x in lines if x["kind"] == "train"}
    optimiser, apart = optimiser_of(model, o), 0.0
    for i, batch in enumerate(kept_batches(dump / "first.i32", facts["first_batches"], torch.device("cpu"))):
        optimiser.zero_grad()
        loss = model(batch)[0]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_rate(optimiser, i, o)
        optimiser.step()
        here = ours[i + 1]
        apart = max(apart, abs(here["loss"] / loss.item() - 1), abs(here["grad_norm"] / norm.item() - 1))
    return {"steps": facts["first_batches"], "last_loss": loss.item(), "our_last_loss": here["loss"], "largest_relative_difference": apart}


def generate(o):
    """Greedy generation with a cache of keys and values, one text: the plain loop and a compiled one."""
    torch.manual_seed(o.seed)
    model = Decoder(o).cuda().bfloat16().eval()
    head = o.hidden // o.heads
    keys = torch.zeros(o.layers, o.longest, 2, o.heads, head, device="cuda", dtype=torch.bfloat16)

    torch._dynamo.mark_static_address(keys)  # so that the compiled loop is a graph although it writes there

    def word(token, at, mask):
        x = model.words(token) + model.positions(at) + model.kind
        x = x if model.pre else model.norm(x)
        for n, layer in enumerate(model.layers):
            q, k, v = layer.qkv(layer.norm1(x) if model.pre else x).view(3, o.heads, head).unbind(0)
            keys[n].index_copy_(0, at, torch.stack([k, v])[None])
            k, v = keys[n].unbind(1)
            a = F.scaled_dot_product_attention(q[None, :, None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], mask)
            a = layer.out(a.reshape(1, o.hidden))
            x = x + a if model.pre else layer.norm1(x + a)
            y = layer.ffn(layer.norm2(x) if model.pre else x, None)[0]
            x = x + y if model.pre else layer.norm2(x + y)
        x = model.norm(x) if model.pre else x
        return F.linear(x, model.words.weight, model.bias).argmax(-1)

    result = {}
    for name, one in (("eager", word), ("compiled", torch.compile(word, mode="reduce-overhead", dynamic=False))):
        with torch.no_grad():
            for repeat in range(2):
                token, times = torch.tensor([5], device="cuda"), time.time()
                for i in range(min(o.generate, o.longest)):
                    mask = (torch.arange(o.longest, device="cuda") <= i)[None, None, None]
                    token = one(token, torch.tensor([i], device="cuda"), mask).clone()
                    token.item()
                seconds = time.time() - times
            result[name + "_tokens_per_second"] = min(o.generate, o.longest) / seconds
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dump", type=Path)
    for name, value in (("layers", 4), ("hidden", 512), ("heads", 8), ("ffn", 2048), ("experts", 0), ("top-k", 2), ("steps", 1000),
                        ("seed", 42), ("time", 0), ("generate", 0)):
        p.add_argument("--" + name, type=int, default=value)
    for name, value in (("dropout", 0.0), ("lr", 1e-3), ("weight-decay", 0.01), ("warmup", 0.05), ("balance", 0.01)):
        p.add_argument("--" + name, type=float, default=value)
    p.add_argument("--replay", type=Path, help="a folder of pretrain --steps 1 --warmup 1, whose one step has rate 0")
    p.add_argument("--beside", type=Path, help="with --replay: a folder of pretrain --log-every 1 with the peer's --steps")
    p.add_argument("--norm", choices=("post", "pre"), default="post")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--attention", choices=("packed", "dense", "masked"), default="packed")
    for name in ("compile", "graph", "context", "pure", "plain"):
        p.add_argument("--" + name, action="store_true")
    o = p.parse_args()
    facts = json.loads((o.dump / "dump.json").read_text())
    o.vocabulary, o.longest, o.places = facts["vocabulary"], facts["longest"], facts["places"]
    if o.device == "cpu":
        o.attention = "masked"
        if o.time or o.generate or o.graph:
            p.error("--time, --generate, --graph: want --device cuda")
    if o.pure and not o.time:
        p.error("--pure: wants --time, since it learns worse")
    if o.replay and (o.device != "cpu" or o.experts or o.plain or not o.beside):
        p.error("--replay: wants --beside and --device cpu, and neither --experts nor --plain")
    result = generate(o) if o.generate else replay(o, o.dump, facts) if o.replay else train(o, o.dump, facts)
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name() if o.device == "cuda" else "cpu", "attention": o.attention,
                      "experts": o.experts, "compile": o.compile, "graph": o.graph, "pure": o.pure, **result}), flush=True)


if __name__ == "__main__":
    main()
