#!/usr/bin/env python3
"""Compares our tokenizer with Hugging Face `tokenizers` (BertWordPieceTokenizer), id by id.

    tests/peer/tokenizer_compare.py --bin .device/tokenizer/tokenize --data .device/tokenizer --out $OUT

--data holds vocab.txt and any *.csv.xz (AG News) and *.txt.xz (corpora, one document a line). Writes to --out:
hf_dump.tsv.xz (what Hugging Face does to every code point: the input of unicode_differences.py), golden.jsonl (the expected
ids for tests/fixtures/data/golden.jsonl) and report.txt. Prints disagreements line by line and code point by code point;
the last line is "tokenizer_compare: N disagreements"."""
import argparse
import csv
import io
import json
import lzma
import os
import random
import subprocess
import sys
import time

import tokenizers
from tokenizers import BertWordPieceTokenizer, normalizers, pre_tokenizers

parser = argparse.ArgumentParser()
parser.add_argument("--bin", required=True)
parser.add_argument("--bench", help="the program that times our tokenizer (see build_tokenizer.sh)")
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--lines", type=int, default=160000, help="generated Unicode lines")
parser.add_argument("--codes", type=int, default=0x110000, help="code points below this one (for a quick trial)")
parser.add_argument("--golden-vocab", default="tests/fixtures/data/golden_vocab.txt")
args = parser.parse_args()
os.makedirs(args.out, exist_ok=True)
report = open(os.path.join(args.out, "report.txt"), "w", encoding="utf-8")
disagreements = 0


def say(text):
    print(text, flush=True)
    report.write(text + "\n")
    report.flush()


def is_scalar(code):
    return not 0xD800 <= code < 0xE000


# --- what Hugging Face does to each code point ------------------------------------------------------------------------

# One mark of each canonical combining class, to find the class of others by.
PROBES = {1: 0x334, 7: 0x93C, 8: 0x3099, 9: 0x94D, 10: 0x5B0, 11: 0x5B1, 12: 0x5B2, 13: 0x5B3, 14: 0x5B4, 15: 0x5B5,
          16: 0x5B6, 17: 0x5B7, 18: 0x5B8, 19: 0x5B9, 20: 0x5BB, 21: 0x5BC, 22: 0x5BD, 23: 0x5BF, 24: 0x5C1, 25: 0x5C2,
          26: 0xFB1E, 27: 0x64B, 28: 0x64C, 29: 0x64D, 30: 0x64E, 31: 0x64F, 32: 0x650, 33: 0x651, 34: 0x652, 35: 0x670,
          36: 0x711, 84: 0xC55, 91: 0xC56, 103: 0xE38, 107: 0xE48, 118: 0xEB8, 122: 0xEC8, 129: 0xF71, 130: 0xF72,
          132: 0xF74, 202: 0x321, 214: 0x1DCE, 216: 0x31B, 218: 0x302A, 220: 0x316, 222: 0x59A, 224: 0x302E,
          226: 0x1D16D, 228: 0x5AE, 230: 0x300, 232: 0x315, 233: 0x35C, 234: 0x35D, 240: 0x345}


def dump():
    lower = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    cased = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=False)
    strip = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    low, nfd, split = normalizers.Lowercase(), normalizers.NFD(), pre_tokenizers.BertPreTokenizer()

    def combining_class(c):
        for value, probe in PROBES.items():
            if probe == ord(c):
                return value
        if nfd.normalize_str(c) != c:
            return 0
        swaps = lambda probe: nfd.normalize_str("a" + chr(probe) + c) == "a" + c + chr(probe)
        if not swaps(0x345):  # its own class is 240 or 0
            return 240 if nfd.normalize_str("a" + c + "\u0300") == "a\u0300" + c else 0
        last = 0
        for value, probe in PROBES.items():
            if swaps(probe):
                return last
            last = value
        return last

    def codes(text):
        return " ".join("%x" % ord(c) for c in text)

    n = 0
    with lzma.open(os.path.join(args.out, "hf_dump.tsv.xz"), "wt", encoding="utf-8", preset=1) as out:
        out.write(f"# tokenizers {tokenizers.__version__}\n")
        for code in filter(is_scalar, range(args.codes)):
            c = chr(code)
            framed = "a" + c + "b"
            forms = [x.normalize_str(framed)[1:-1] for x in (lower, cased, nfd, strip, low)]
            parts = len(split.pre_tokenize_str(framed))
            kind = ".SP"[parts - 1] if parts <= 3 else "?"
            ccc = combining_class(c)
            if forms != [c] * 5 or kind != "." or ccc:
                out.write("\t".join(["%x" % code] + [codes(f) for f in forms] + [kind, str(ccc)]) + "\n")
                n += 1
    say(f"dump: {n} code points are not plain")


# --- texts ----------------------------------------------------------------------------------------------------------

def ag_news():
    for name in ("train", "test"):
        path = os.path.join(args.data, name + ".csv.xz")
        if os.path.exists(path):
            for row in csv.reader(io.TextIOWrapper(lzma.open(path), encoding="utf-8", newline="")):
                yield (row[1] + " " + row[2]).strip().replace("\n", " ")


def corpus(name):
    with lzma.open(os.path.join(args.data, name), "rt", encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            yield line.rstrip("\n")


MARKS = [0x300, 0x301, 0x316, 0x323, 0x334, 0x345, 0x34F, 0x315, 0x35C, 0x591, 0x5B0, 0x64B, 0x93C, 0x94D, 0x9BC, 0xF71,
         0xF72, 0xF74, 0x1D165, 0x1D16D, 0x1D166, 0x302A, 0x302E, 0x302F, 0x3099, 0x1A60, 0x1B44, 0x1BF2, 0x1715, 0x1734,
         0x111C0, 0x7FD, 0x898, 0x8D3, 0x11839, 0x16FF0, 0x1E08F, 0x20D0, 0xA806, 0xA82C, 0x10A0D, 0x110B9, 0x1133B, 0x11A34,
         0x9BE, 0xDCF, 0x1D16E, 0x1D172, 0x1CF7, 0x1B35, 0x11357, 0x114BA]
BLOCKS = [b for b in list(range(0, 0x3400, 0x80)) + list(range(0xA000, 0x10000, 0x80)) + list(range(0x10000, 0x20000, 0x80)) +
          list(range(0x3400, 0xA000, 0x800)) + list(range(0x20000, 0x110000, 0x4000)) if is_scalar(b)]
SPECIALS = ["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "[cls]", "[[SEP]", "[MASK", "UNK]", "[CLS]]", "[ CLS ]"]


def unicode_lines(count, words, seed):
    """Lines of eight kinds: one block; everything; words; marks; words of about 100 characters; special tokens; upper-case words
    with odd separators; Hangul, Han, Cyrillic, Greek and compatibility forms."""
    rng = random.Random(seed)

    def char():
        while True:
            r = rng.random()
            if r < 0.5:
                code = rng.choice(BLOCKS) + rng.randrange(0x80)
            elif r < 0.75:
                code = rng.choice(MARKS)
            elif r < 0.9:
                code = rng.randrange(32, 127)
            else:
                code = rng.randrange(0x110000)
            if is_scalar(code) and code < 0x110000 and code != 10:
                return chr(code)

    separators = [" ", "-", ". ", "\t", "\r", "\x0b", "\x85", "\xa0", "\u200b", "\u2028", "\u3000", "\x1c", "\ufffd", "\x00"]
    for i in range(count):
        kind = i % 8
        if kind == 0:
            block = BLOCKS[(i // 8) % len(BLOCKS)]
            text = "".join(chr(block + rng.randrange(0x80)) for _ in range(rng.randrange(1, 40)))
        elif kind == 1:
            text = "".join(char() for _ in range(rng.randrange(1, 60)))
        elif kind == 2:
            text = " ".join(rng.choice(words) + rng.choice(["", "", "s", "ing", char()]) for _ in range(rng.randrange(1, 20)))
        elif kind == 3:
            text = "".join(rng.choice("ab中é") + "".join(chr(rng.choice(MARKS)) + rng.choice(["", "", "", "\x01", "\u200d"])
                                                        for _ in range(rng.randrange(6))) for _ in range(rng.randrange(1, 12)))
        elif kind == 4:
            text = rng.choice(["x", "ab", "é", "中", "й", char()]) * rng.randrange(45, 110) + char() + rng.choice(words)
        elif kind == 5:
            text = char().join(rng.choice(SPECIALS + [rng.choice(words)] * 4) for _ in range(rng.randrange(1, 10)))
        elif kind == 6:
            text = "".join(rng.choice(words).upper() + rng.choice(separators + [char()]) for _ in range(rng.randrange(1, 20)))
        else:
            pick = lambda: rng.choice([rng.randrange(0xAC00, 0xD7A4), rng.randrange(0x4E00, 0xA000), rng.randrange(0x400, 0x500),
                                       rng.randrange(0x370, 0x400), rng.randrange(0xF900, 0xFB00), rng.randrange(0x1F00, 0x2000), 32])
            text = "".join(chr(pick()) for _ in range(rng.randrange(1, 40)))
        yield text.replace("\n", " ")


def code_lines():
    """Each code point alone, inside a word, and under marks."""
    for code in filter(is_scalar, range(args.codes)):
        if code != 10:
            c = chr(code)
            yield f"{c} x{c}y a\u0323{c}\u0301"


# --- comparison -----------------------------------------------------------------------------------------------------

def read_vocab(path):
    return {line.rstrip(): i for i, line in enumerate(open(path, encoding="utf-8", newline="\n"))}


def character_vocab(path):
    """A vocabulary of characters, so that nothing hides behind [UNK]."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for code in filter(is_scalar, range(args.codes)):
        c = chr(code)
        if (code < 0x30000 or 0xE0000 <= code < 0xE1000 or code % 0x800 == 0) and not c.isspace() and code > 32:
            tokens += [c, "##" + c]
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        out.write("\n".join(tokens) + "\n")
    return {t: i for i, t in enumerate(tokens)}


def show(text):
    return " ".join("%04X" % ord(c) for c in text[:24]) + (" …" if len(text) > 24 else "")


def compare(name, lines, vocab, vocab_path, lowercase, special=False):
    global disagreements
    theirs = BertWordPieceTokenizer(vocab, lowercase=lowercase)
    if special:
        theirs.enable_truncation(128)
    text_path, ids_path = os.path.join(args.out, "lines.tmp"), os.path.join(args.out, "ids.tmp")
    total = pieces = bad = 0
    suspects = {}
    with open(text_path, "w", encoding="utf-8", newline="\n") as out:
        for line in lines:
            out.write(line + "\n")
    start = time.time()
    command = [args.bin, "--vocab", vocab_path, "--file", text_path, "--format", "ids"]
    command += ([] if lowercase else ["--lowercase=off"]) + (["--special"] if special else [])
    with open(ids_path, "wb") as out:
        subprocess.run(command, stdout=out, check=True)
    ours_seconds, their_seconds = time.time() - start, 0.0
    with open(text_path, encoding="utf-8", newline="\n") as texts, open(ids_path, encoding="ascii") as ids:
        while True:
            batch = [line[:-1] for _, line in zip(range(4000), texts)]
            if not batch:
                break
            start = time.time()
            encoded = theirs.encode_batch(batch, add_special_tokens=special)
            their_seconds += time.time() - start
            for text, e in zip(batch, encoded):
                ours, wanted = ids.readline().rstrip("\n"), " ".join(map(str, e.ids))
                total += 1
                pieces += len(e.ids)
                if ours == wanted:
                    continue
                bad += 1
                if bad <= 10:
                    say(f"  differs: {show(text)}\n    ours   {ours[:160]}\n    theirs {wanted[:160]}")
                for c in set(text):
                    suspects[c] = suspects.get(c, 0) + 1
        assert ids.readline() == "", "our program wrote more lines than it was given"
    say(f"{name}, {'uncased' if lowercase else 'cased'}: {total} lines, {pieces} pieces, {bad} differ "
        f"(ours {ours_seconds:.1f} s, theirs {their_seconds:.1f} s)")
    if bad:
        common = sorted(suspects, key=suspects.get, reverse=True)[:60]
        say("  code points in the lines that differ: " + " ".join("%04X×%d" % (ord(c), suspects[c]) for c in common))
    disagreements += bad
    os.remove(text_path)
    os.remove(ids_path)


def golden():
    """A few hundred lines with their ids, for a test that needs no peer. Vocabulary and lines are our own."""
    if not os.path.exists(args.golden_vocab):
        say(f"golden: no {args.golden_vocab}")
        return
    vocab = read_vocab(args.golden_vocab)
    words = [t for t in vocab if t.isascii() and t.isalpha() and len(t) > 2]
    lines = ["", " ", "Hello, World!", "don't stop-me now...", "Café ÀÉÎÕÜ ŒÆ ß ẞ ſ K Å", "İstanbul ıI ΑΣ σς Σ", "中文 字abc字 \uf900\U0002f800",
             "[CLS] a [SEP]b[MASK][PAD] [UNK] [cls] [[SEP]]", "a\u0000b\ufffdc\u200bd\u00ade", "x" * 100, "x" * 101, "é" * 100, "é" * 101,
             "e\u0301" * 100, "a\u0323\u0301b\u0301\u0323", "\u1e69 s\u0323\u0307 s\u0307\u0323", "한국어 각 \u1100\u1161\u11a8", "①②½¼ ﬁ ﬀ ＡＢＣ！",
             "\u037e \u1fef \u2260 \u226e", "tab\tline\rx\x0by\x85z\xa0w\u2028v\u3000u", "👍🏽 👩‍👩‍👧 🇩🇪", "\u0e01\u0e33\u0e49 \u0915\u094d\u0937", "שָׁלוֹם مَرْحَبًا",
             "\U0001d165\U0001d16d\U0001d166 a\u1939\u193b", "\ue000 \uf8ff \U000f0000 \U0010fffd \u0378 \U000e0001 \ufdd0 \uffff"]
    lines += list(unicode_lines(240, words, 20240607))
    cps = [c for c in list(range(0x80, 0x3100)) + list(range(0xA640, 0xABFF)) + list(range(0xF900, 0x10000)) + list(range(0x10000, 0x1F000)) if is_scalar(c)]
    lines += ["".join(map(chr, cps[i::300][:150])) for i in range(0, 300, 3)]
    both = [BertWordPieceTokenizer(vocab, lowercase=True), BertWordPieceTokenizer(vocab, lowercase=False)]
    with open(os.path.join(args.out, "golden.jsonl"), "w", encoding="ascii", newline="\n") as out:
        for line in lines:
            ids = [t.encode(line, add_special_tokens=False).ids for t in both]
            record = {"text": line, "uncased": ids[0]}
            if ids[1] != ids[0]:
                record["cased"] = ids[1]
            out.write(json.dumps(record, separators=(",", ":")) + "\n")
    say(f"golden: {len(lines)} lines")


def timing(vocab_path):
    """Both on one core, in this process's machine, on the AG News texts."""
    texts = list(ag_news())
    if not texts:
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    theirs = BertWordPieceTokenizer(read_vocab(vocab_path), lowercase=True)
    start = time.time()
    pieces = sum(len(e.ids) for i in range(0, len(texts), 2000) for e in theirs.encode_batch(texts[i:i + 2000], add_special_tokens=False))
    seconds = time.time() - start
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    say(f"speed, Hugging Face on one thread: {pieces / seconds / 1e6:.2f} M pieces/s")
    if args.bench:
        path = os.path.join(args.out, "speed.tmp")
        with open(path, "w", encoding="utf-8", newline="\n") as out:
            out.write("\n".join(texts) + "\n")
        result = subprocess.run([args.bench, "--vocab", vocab_path, "--file", path], capture_output=True, text=True)
        say(result.stdout + result.stderr)
        os.remove(path)


say(f"tokenizers {tokenizers.__version__}, Python {sys.version.split()[0]}")
bert_path = os.path.join(args.data, "vocab.txt")
bert = read_vocab(bert_path)
words = [w for w in bert if not w.startswith("##") and not w.startswith("[unused")]
golden()
timing(bert_path)
compare("AG News", ag_news(), bert, bert_path, True)
compare("AG News, [CLS] … [SEP] cut at 128", ag_news(), bert, bert_path, True, special=True)
character_path = os.path.join(args.out, "characters.tmp")
characters = character_vocab(character_path)
say(f"character vocabulary: {len(characters)} tokens")
for lowercase in (True, False):
    compare("generated lines, BERT's vocabulary", unicode_lines(args.lines, words, 1), bert, bert_path, lowercase)
    compare("generated lines, character vocabulary", unicode_lines(args.lines, words, 2), characters, character_path, lowercase)
    compare("every code point, character vocabulary", code_lines(), characters, character_path, lowercase)
os.remove(character_path)
dump()
for name in sorted(n for n in os.listdir(args.data) if n.endswith(".txt.xz")):
    compare(name, corpus(name), bert, bert_path, True)
say(f"tokenizer_compare: {disagreements} disagreements")
sys.exit(1 if disagreements else 0)
