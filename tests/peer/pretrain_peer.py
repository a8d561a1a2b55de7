#!/usr/bin/env python3
"""Masked-LM pretraining by PyTorch on the text, split and held-out masks of ./experiments/pretrain.

  ./experiments/pretrain … --dump DUMP
  python3 tests/peer/pretrain_peer.py PEER.py DUMP --out OUT --log LOG [--seconds 400] [--steps 0] [--lr 1e-3] …

PEER.py is a program with functions plan(), assemble(), mask_tokens() and pretrain(args), and a main() that parses flags. Its training
documents become ours, all of them, and its held-out batches ours too, word for word; whatever else it does stays its own.
"""
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch


def batches(dump: Path, facts: dict):
    """Held-out batches: ids, cumulative lengths, masked rows, what stood there."""
    words = np.fromfile(dump / "batches.i32", np.int32).astype(np.int64)
    at = 0

    def take(n: int) -> torch.Tensor:
        nonlocal at
        at += n
        return torch.from_numpy(words[at - n:at].copy())

    for _ in range(facts["held_out_batches"]):
        tokens, sequences, masked = (int(n) for n in take(3))
        ids, cu, rows, labels = take(tokens), take(sequences + 1), take(masked), take(masked)
        seq = torch.searchsorted(cu, torch.arange(tokens), right=True) - 1
        yield dict(ids=ids, pos=torch.arange(tokens) - cu[seq], seq=seq, cu=cu.to(torch.int32), rows=rows, labels=labels)
    assert at == len(words), "the dump holds more than its batches"


def main() -> None:
    peer_path, dump = Path(sys.argv[1]), Path(sys.argv[2])
    facts = json.loads((dump / "dump.json").read_text())
    spec = importlib.util.spec_from_file_location("peer", peer_path)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)

    tokens = np.fromfile(dump / facts["tokens"], np.uint16 if facts["tokens"].endswith("u16") else np.int32)
    training = np.fromfile(dump / "training.i64", np.int64)
    folder = Path(tempfile.mkdtemp())
    np.save(folder / "tokens.npy", tokens[:training[-1]])
    np.save(folder / "offsets.npy", training)
    np.save(folder / "source.npy", np.zeros(len(training) - 1, np.uint8))
    (folder / "meta.json").write_text(json.dumps({"sources": {peer.AG: {}}, "dump": facts}))

    own_plan, own_mask = peer.plan, peer.mask_tokens
    held_out = list(batches(dump, facts))

    def plan(off, docs, places, slots, seed, epochs=1 << 30):
        if epochs == 1:                                  # the held-out text: only how many batches there are is read
            return ((np.zeros(slots, np.int64), np.full(slots + 1, places, np.int64), 0) for _ in held_out)
        return own_plan(off, np.arange(len(off) - 1), places, slots, seed, epochs)

    waiting = iter(held_out)

    def mask_tokens(b, masked, vocab, g=None):
        if g is None:
            assert masked == facts["masked"], f"{masked} masked rows a step, ours has {facts['masked']}"
            return own_mask(b, masked, vocab)
        return {k: v.to(b["ids"].device) for k, v in next(waiting).items()}

    peer.plan, peer.mask_tokens = plan, mask_tokens
    sys.argv = [str(peer_path), "pretrain", "--tokens", str(folder), "--tokens-per-step", str(facts["places"]), *sys.argv[3:]]
    peer.main()


if __name__ == "__main__":
    main()
