#!/usr/bin/env python3
"""Checks our tokenizer against a dump of tokenizer_compare.py, without Hugging Face: each code point inside a word, uncased and
cased, with a vocabulary of characters.

    tests/peer/check_dump.py DUMP [TOKENIZE]        default ./tools/tokenize"""
import lzma
import os
import subprocess
import sys
import tempfile

opener = lzma.open if sys.argv[1].endswith(".xz") else open
program = sys.argv[2] if len(sys.argv) > 2 else "./tools/tokenize"
plain = lambda code: ([[code]] * 2, ".")
heard = {}
for line in opener(sys.argv[1], "rt", encoding="utf-8"):
    fields = line.rstrip("\n").split("\t")
    if len(fields) == 8:
        heard[int(fields[0], 16)] = ([[int(x, 16) for x in f.split()] for f in fields[1:3]], fields[6])

tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c != 10]
for c in codes:
    if (c < 0x30000 or 0xE0000 <= c < 0xE1000 or c % 0x800 == 0) and not chr(c).isspace() and c > 32:
        tokens += [chr(c), "##" + chr(c)]
ids = {t: str(i) for i, t in enumerate(tokens)}
bad = 0
with tempfile.TemporaryDirectory() as folder:
    vocab, text = os.path.join(folder, "vocab.txt"), os.path.join(folder, "text.txt")
    open(vocab, "w", encoding="utf-8", newline="\n").write("\n".join(tokens) + "\n")
    open(text, "w", encoding="utf-8", newline="\n").write("".join(f"x{chr(c)}y\n" for c in codes))
    for mode in (0, 1):
        command = [program, "--vocab", vocab, "--file", text, "--format", "ids"] + ["--lowercase=off"] * mode
        ours = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\n")
        for code, line in zip(codes, ours):
            words = [[]]
            for c in [ord("x")] + heard.get(code, plain(code))[0][mode] + [ord("y")]:
                kind = heard.get(c, plain(c))[1]
                if kind == ".":
                    words[-1].append(chr(c))
                else:
                    words += [[chr(c)], []] if kind == "P" else [[]]
            wanted = []
            for word in filter(None, words):
                pieces = [ids.get(("##" if i else "") + c) for i, c in enumerate(word)]
                wanted += pieces if None not in pieces else [ids["[UNK]"]]
            if line.split() != wanted:
                bad += 1
                if bad <= 20:
                    print(f"U+{code:04X} {'cased' if mode else 'uncased'}: ours {line}, wanted {' '.join(wanted)}")
print(f"check_dump: {2 * len(codes)} cases, {bad} differ")
sys.exit(1 if bad else 0)
