"""Times training steps of the PyTorch peer's model on a CPU, as stock PyTorch does it there: float32, padded to the longest row
of each batch, a loop over experts, fused AdamW. For comparison with `tools/bench step --device cpu --preset small`.

    OMP_NUM_THREADS=2 taskset -c 0,1 python3 tests/peer/cpu_step.py PATH/pytorch_peer.py --csv test.csv --vocab vocab.txt
"""
import argparse
import importlib.util
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F


def batches(ids, ys, batch, count):
    for i in range(count):
        rows = ids[i * batch:(i + 1) * batch]
        longest = max(map(len, rows))
        mask = torch.tensor([[j < len(r) for j in range(longest)] for r in rows])
        yield dict(ids=torch.tensor([r + [0] * (longest - len(r)) for r in rows]), pos=torch.arange(longest).expand(batch, -1),
                   mask=mask[:, None, None, :], real=mask.reshape(-1).float(), y=torch.tensor(ys[i * batch:(i + 1) * batch]))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("peer")
    a.add_argument("--csv", required=True)
    a.add_argument("--vocab", required=True)
    a.add_argument("--configs", default="hierarchical,dense")
    a.add_argument("--compile", action="store_true")
    for name, value in dict(batch=32, seq=128, layers=4, hidden=128, heads=4, ffn=512, experts=8, topk=2, warmup=5, steps=30).items():
        a.add_argument("--" + name, type=int, default=value)
    c = a.parse_args()
    spec = importlib.util.spec_from_file_location("peer", c.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    ids, ys = peer.encode(peer.read_rows(c.csv, 4000), c.vocab, c.seq)
    for kind in c.configs.split(","):
        torch.manual_seed(0)
        model = peer.Model(c, kind, peer.LoopExperts, False).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=True)
        forward = torch.compile(model, dynamic=True) if c.compile else model
        times = []
        for batch in batches(ids, ys, c.batch, c.warmup + c.steps):
            begin = time.perf_counter()
            logits, auxiliary, _ = forward(batch)
            (F.cross_entropy(logits, batch["y"]) + auxiliary).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            times.append(1e3 * (time.perf_counter() - begin))
        times = times[c.warmup:]
        print(json.dumps(dict(config=kind, threads=torch.get_num_threads(), compiled=c.compile, batch=c.batch,
                              step_ms=round(statistics.median(times), 2), min=round(min(times), 2), max=round(max(times), 2))), flush=True)


if __name__ == "__main__":
    main()
