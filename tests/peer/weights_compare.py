#!/usr/bin/env python3
"""Logits of a BERT as Hugging Face's transformers compute them beside ours, float32 on the CPU.

  python3 tests/peer/weights_compare.py encoder FOLDER      an encoder under --init, its pooled output made visible by
                                                            a run of no steps' worth (--lr 1e-30) and exported
  python3 tests/peer/weights_compare.py exported RUN DIR    a run that tools/export wrote to DIR

Wants torch and transformers; programs built (make). Differences above 1e-5 are an error.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertTokenizer

TEXTS = [
    "The central bank raised interest rates by a quarter point on Tuesday.",
    "Researchers present a smaller battery that charges in minutes",
    "They won the final 3-2 after extra time, to the joy of 40,000 fans!",
    "Talks",
]
LIMIT = 1e-5


def ours(run: Path) -> torch.Tensor:
    """Log-probabilities by tools/route, [texts, classes]."""
    rows = []
    for text in TEXTS:
        out = subprocess.run(["./tools/route", str(run), "--json", text], check=True, capture_output=True, text=True)
        rows.append(list(json.loads(out.stdout)["probabilities"].values()))
    return torch.tensor(rows, dtype=torch.float64).log()


def theirs(model, tokenizer) -> torch.Tensor:
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            rows.append(model(**tokenizer(text, return_tensors="pt", truncation=True)).logits[0])
    return torch.log_softmax(torch.stack(rows).double(), -1)


def compare(run: Path, model, tokenizer, what: str) -> None:
    worst = (ours(run) - theirs(model.float().eval(), tokenizer)).abs().max().item()
    print(f"{what}: {len(TEXTS)} texts, largest difference of a logit {worst:.2e}")
    if not worst <= LIMIT:
        sys.exit(f"weights_compare: more than {LIMIT}")


def train(folder: Path, out: Path) -> Path:
    """A run whose encoder is the folder's: one step, whose learning rate changes no float32 weight."""
    command = ["./experiments/train", "--config", "dense", "--preset", "quick", "--init", folder, "--dataset", "synthetic",
               "--max-steps", "1", "--lr", "1e-30", "--weight-decay", "0", "--select", "last", "--synthetic-rows", "400",
               "--synthetic-test-rows", "40", "--max-length", "128", "--cache", "", "--estimate", "off", "--report", "off",
               "--progress", "off", "--out", out]
    if not (folder / "vocab.txt").exists():
        command += ["--vocab", sys.argv[3]]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return out / "seed0" / "dense"


def main() -> None:
    if sys.argv[1] == "exported":
        run, folder = Path(sys.argv[2]), Path(sys.argv[3])
        compare(run, AutoModelForSequenceClassification.from_pretrained(folder), BertTokenizer.from_pretrained(folder),
                "exported")
        return
    folder = Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as place:
        run, exported = train(folder, Path(place) / "out"), Path(place) / "exported"
        subprocess.run(["./tools/export", run, exported], check=True, stdout=subprocess.DEVNULL)
        tokenizer = BertTokenizer.from_pretrained(exported)
        model = AutoModelForSequenceClassification.from_pretrained(exported)
        compare(run, model, tokenizer, "exported")
        # The original's encoder and, where it has one, pooler under the exported classifier (and pooler).
        original = AutoModel.from_pretrained(folder, dtype=torch.float32)
        pooler = model.bert.pooler
        has_pooler = any("pooler" in line and line.startswith("copied") for line in (run / "weights.txt").open())
        model.bert = original
        if not has_pooler:
            model.bert.pooler = pooler
        compare(run, model, tokenizer, str(folder))


if __name__ == "__main__":
    main()
