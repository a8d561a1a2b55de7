#!/usr/bin/env python3
"""Writes tests/fixtures/routing/: traces of a made-up router, and what numpy says of them.

    python3 tests/peer/routing_fixture.py tests/fixtures/routing

Everything is computed from the definitions (docs/analysis.md), token by token where that is the plainest, and not from
the sums that experiments/records/routing/routing_counts.cpp keeps.
"""
import itertools
import json
import struct
import sys

import numpy as np

N_SEQ, L, E, K, C, V = 60, 3, 5, 2, 3, 20


def save(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        kind = {"float32": "F32", "int32": "I32", "int64": "I64"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def entropy(p):
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def choose(logits):
    """[N, L, E] -> experts, gates: the K largest, softmax over them; ties to the lower expert."""
    experts = np.argsort(-logits, axis=-1, kind="stable")[..., :K].astype(np.int32)
    gates = softmax(np.take_along_axis(logits, experts, -1).astype(np.float64))
    return experts, gates


def std_over_topics(u):
    return float(np.mean(np.std(u, axis=0)))


def mutual_information(u):
    u = u / u.sum(1, keepdims=True)
    return entropy(u.mean(0)) - float(np.mean([entropy(row) for row in u]))


def layer(experts, gates, topic, first, ids):
    """All metrics of one layer, from its choices [N, K]."""
    n = len(experts)
    dense = np.zeros((n, E))
    member = np.zeros((n, E))
    for t in range(n):
        for e, g in zip(experts[t], gates[t]):
            if e >= 0:
                dense[t, e] += float(g)
                member[t, e] = 1
    routed = member.sum(1) > 0
    share = dense[routed] / dense[routed].sum(1, keepdims=True)
    u = np.array([dense[topic == c].mean(0) for c in range(C)])
    cls = np.array([dense[(topic == c) & first].mean(0) for c in range(C)])
    loads = dense.sum(0) / dense.sum()
    even = member[routed] / member[routed].sum(1, keepdims=True)
    together = np.array([[0.0 if i == j else (member[:, i] * member[:, j]).sum() / member[:, i].sum()
                          for j in range(E)] for i in range(E)])
    words = [x for x in range(V) if (ids == x).sum() >= 10]
    ascending = np.sort(loads)
    top = np.sort(np.where(experts >= 0, gates, 0), axis=1)[routed][:, ::-1]
    return {
        "specialisation": std_over_topics(u),
        "specialisation_cls": std_over_topics(cls),
        "mutual_information_bits": mutual_information(u),
        "entropy_bits": entropy(loads),
        "load_cv": float(loads.std(ddof=1) / loads.mean()),
        "effective_experts": float(np.exp(-(loads * np.log(loads)).sum())),
        "max_violation": float((loads.max() - loads.mean()) / loads.mean()),
        "gini": float(sum((2 * (i + 1) - E - 1) * x for i, x in enumerate(ascending)) / (E * loads.sum())),
        "coverage": np.cumsum(ascending[::-1]).tolist(),
        "gate_margin": float((top[:, 0] - top[:, 1]).mean()),
        "gate_entropy_bits": float(np.mean([entropy(s) for s in share])),
        "unrouted": float(1 - routed.mean()),
        "experts_a_token": float(member.sum(1).mean()),
        "specialisation_mass": std_over_topics(
            np.array([share[topic[routed] == c].mean(0) for c in range(C)])),
        "specialisation_choices": std_over_topics(
            np.array([even[topic[routed] == c].mean(0) for c in range(C)])),
        "topic_choices": [[float(member[topic == c][:, e].mean()) for e in range(E)] for c in range(C)],
        "topic_peak": float(np.mean([max(member[topic == c][:, e].mean() for c in range(C)) for e in range(E)])),
        "word_specialisation": float(np.mean([member[ids == x].mean(0).max() for x in words])),
        "co_activation": together.tolist(),
        "partner_peak": float(together.max(1).mean()),
        "chance": {"topic_peak": float(member.sum(1).mean() / E),
                   # Under even use an expert of a token with k of them has each other one by (k - 1) / (E - 1).
                   "partner_peak": float(np.mean([(k - 1) / (E - 1) for k in member.sum(1) for _ in range(int(k))])),
                   "gate_entropy_bits": float(np.log2(member.sum(1)[routed]).mean())},
    }


def matched(joint, total):
    return float(max(sum(joint[i, p[i]] for i in range(len(joint))) for p in itertools.permutations(range(len(joint))))
                 / total)


def pair(a, b):
    """Matched overlap of two lists of sets and the information that their first members share."""
    joint, total = np.zeros((E, E)), 0
    for x, y in zip(a, b):
        x, y = [e for e in x if e >= 0], [e for e in y if e >= 0]
        total += max(len(x), len(y))
        for e, f in itertools.product(x, y):
            joint[e, f] += 1
    return matched(joint, total), joint, total


def independent(a, b):
    """The matched overlap of the mean joint counts over all ways to pair the tokens of a with those of b."""
    counts = [np.array([(x == e).any(1).sum() for e in range(E)]) for x in (a, b)]
    sizes = [(x >= 0).sum(1) for x in (a, b)]
    return matched(np.outer(*counts) / len(a), np.maximum.outer(*sizes).sum() / len(a))


def information(a, b):
    joint = np.zeros((E, E))
    for x, y in zip(a, b):
        if x >= 0 and y >= 0:
            joint[x, y] += 1
    p = joint / joint.sum()
    mi = entropy(p.sum(0)) + entropy(p.sum(1)) - entropy(p.ravel())
    return float(2 * mi / (entropy(p.sum(0)) + entropy(p.sum(1))))


def probe(experts, gates, offsets, labels):
    x = np.zeros((len(labels), L * E))
    for s in range(len(labels)):
        for t in range(offsets[s], offsets[s + 1]):
            for l in range(L):
                for e, g in zip(experts[t, l], gates[t, l]):
                    if e >= 0:
                        x[s, l * E + e] += g / (offsets[s + 1] - offsets[s])
    y = np.eye(C)[labels]
    even = (np.arange(len(labels)) * 2654435761) % 2**32 < 2**31
    train, test = x[even] - x[even].mean(0), x[~even] - x[even].mean(0)
    ridge = 1e-2 * np.mean((train ** 2).sum(1))
    w = np.linalg.solve(train.T @ train + ridge * np.eye(L * E), train.T @ (y[even] - y[even].mean(0)))
    guess = (test @ w + y[even].mean(0)).argmax(1)
    return {"accuracy": float((guess == labels[~even]).mean()), "train": int(even.sum()),
            "chance": float(np.bincount(labels[~even]).max() / len(labels[~even]))}


def cka(y, z):
    y, z = y - y.mean(0), z - z.mean(0)
    return float((np.linalg.norm(y.T @ z) ** 2) / (np.linalg.norm(y.T @ y) * np.linalg.norm(z.T @ z)))


def main(folder):
    rng = np.random.default_rng(7)
    lengths = rng.integers(3, 12, N_SEQ)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = rng.integers(0, C, N_SEQ)
    n = int(offsets[-1])
    topic = np.repeat(labels, lengths)
    ids = rng.integers(0, V, n)
    first = np.zeros(n, bool)
    first[offsets[:-1]] = True
    # A router that looks at the topic a little, at the word more, and at noise.
    by_topic, by_word = rng.normal(size=(L, C, E)), rng.normal(size=(L, V, E))
    logits = (0.5 * by_topic[:, topic] + by_word[:, ids] + 0.7 * rng.normal(size=(L, n, E))).transpose(1, 0, 2)
    logits = logits.astype(np.float32)
    experts, gates = choose(logits)
    chosen = experts.copy()
    chosen[rng.random((n, L)) < 0.05] = -1           # tokens without an expert
    chosen[rng.random((n, L)) < 0.1, 1] = -1         # and with one alone
    kept = (gates * rng.uniform(0.5, 1.5, (n, L, 1))).astype(np.float32)  # gates that do not sum to 1
    other = chosen.copy()                            # another seed: other numbers, and a third of the tokens differ
    rename = np.array([3, 0, 4, 1, 2, -1])
    swap = rng.random((n, L)) < 0.33
    other[swap] = experts[rng.permutation(n)][swap]
    other = rename[other].astype(np.int32)
    names = {"topics": json.dumps(["World", "Sports", "Business"])}
    base = {"ids": ids.astype(np.int64), "offsets": offsets.astype(np.int64), "labels": labels.astype(np.int32)}
    def of(experts):                                 # nobody's gate is 0
        return np.where(experts < 0, np.float32(0), kept)

    save(folder + "/chosen.safetensors", {"experts": chosen, "gates": of(chosen), **base},
         {"n_experts": str(E), "title": "chosen", **names})
    save(folder + "/other.safetensors", {"experts": other, "gates": of(other), **base}, {"n_experts": str(E), "title": "other"})
    save(folder + "/logits.safetensors", {"logits": logits, **base}, {"top_k": str(K), **names})
    expected = {
        "chosen": {
            "layers": [layer(chosen[:, l], kept[:, l].astype(np.float64), topic, first, ids) for l in range(L)],
            "pairs": [{"layers": [a + 1, b + 1],
                       "matched_overlap": pair(chosen[:, a, :1], chosen[:, b, :1])[0],
                       "normalised_information": information(chosen[:, a, 0], chosen[:, b, 0])}
                      for a in range(L) for b in range(a + 1, L)],
            "probe": probe(chosen, kept.astype(np.float64), offsets, labels),
        },
        "logits": {
            "layers": [{**layer(experts[:, l], gates[:, l], topic, first, ids),
                        "router_entropy_bits": float(np.mean([entropy(p) for p in softmax(logits[:, l].astype(np.float64))]))}
                       for l in range(L)],
            "probe": probe(experts, gates, offsets, labels),
        },
        "agreement": [],
    }
    for l in range(L):
        overlap, joint, total = pair(chosen[:, l], other[:, l])
        single = pair(chosen[:, l, :1], other[:, l, :1])
        expected["agreement"].append({
            "saturation_first": float(np.trace(single[1]) / single[2]),
            "saturation": float(np.trace(joint) / total),
            "matched_overlap": overlap,
            "normalised_information": information(chosen[:, l, 0], other[:, l, 0]),
            # What independent choices with the same frequencies would share on average, before any matching.
            "independent": independent(chosen[:, l], other[:, l]),
        })
    with open(folder + "/expected.json", "w") as f:
        outputs = rng.normal(size=(3, 40, 6))
        outputs[2] = 2 * outputs[0] @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 5  # turned, scaled and shifted: alike
        expected["cka"] = {"outputs": outputs.tolist(), "similarity": [[cka(y, z) for z in outputs] for y in outputs]}
        json.dump(expected, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
