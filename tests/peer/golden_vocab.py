#!/usr/bin/env python3
"""Makes tests/fixtures/data/golden_vocab.txt: pieces that tools/train_vocab learns from our synthetic corpus, and characters of many
scripts, so that most normalisations show in the ids.

    ./tools/train_vocab --dataset synthetic --synthetic-rows 2000 --vocab-size 700 --out /tmp/v.txt
    tests/peer/golden_vocab.py /tmp/v.txt > tests/fixtures/data/golden_vocab.txt"""
import sys

sys.stdout.reconfigure(encoding="utf-8", newline="\n")
tokens = [line.rstrip("\n") for line in open(sys.argv[1], encoding="utf-8")]
ranges = [(0x21, 0x7F), (0xA1, 0x180), (0x250, 0x2B0), (0x300, 0x370), (0x370, 0x530), (0x5D0, 0x5EB), (0x620, 0x64B), (0x900, 0x950),
          (0xE01, 0xE30), (0x1100, 0x1113), (0x1161, 0x1176), (0x11A8, 0x11C3), (0x1680, 0x1690), (0x2010, 0x2050), (0x2200, 0x2220),
          (0x3001, 0x3010), (0x3041, 0x3060), (0x4E00, 0x4E20), (0xA7C0, 0xA7E0), (0xFF01, 0xFF20), (0x10D50, 0x10D80), (0x1D157, 0x1D170)]
for first, last in ranges:
    for code in range(first, last):
        if not chr(code).isspace():
            tokens += [chr(code), "##" + chr(code)]
tokens += ["字", "##字", "\U0002b820", "\ue000", "\uf8ff", "\u0378", "##\u0378", "\u09be", "##\u09be", "👍", "##🏽"]
for token in dict.fromkeys(tokens):
    print(token)
