#!/usr/bin/env python3
"""Small random models of the transformers library that return router logits, dumped as docs/analysis.md says, and what
numpy says of their routing.

    python3 tests/peer/transformers_trace.py tests/fixtures/routing/transformers

Wants torch, transformers and safetensors. The models' own choice of experts is not asked for: a forward hook on the gates
would be another place to go wrong. It follows from the logits by the rule that each family states in its configuration.
"""
import json
import os
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, Qwen2MoeConfig,
                          Qwen2MoeForCausalLM)

from routing_fixture import entropy, mutual_information, softmax, std_over_topics

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0)


def models():
    yield "mixtral", MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2)), True
    yield "olmoe", OlmoeForCausalLM(OlmoeConfig(**SMALL, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False)), False
    yield "qwen-moe", Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SMALL, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24,
                       shared_expert_intermediate_size=24, norm_topk_prob=False, decoder_sparse_step=1)), False


def dump(model, texts, topics, renormalised, path):
    ids, offsets, logits = [], [0], []
    for tokens in texts:
        with torch.no_grad():
            out = model(torch.tensor([tokens]), output_router_logits=True)
        logits.append(torch.stack(out.router_logits, dim=1).float().numpy())
        ids += tokens
        offsets.append(len(ids))
    logits = np.ascontiguousarray(np.concatenate(logits))
    save_file({"logits": logits, "ids": np.array(ids), "offsets": np.array(offsets), "labels": np.array(topics)}, path,
              {"top_k": str(model.config.num_experts_per_tok), "gates": "softmax" if renormalised else "probabilities"})
    return logits, np.array(offsets)


def expected(logits, offsets, topics, k, renormalised):
    topic = np.repeat(topics, np.diff(offsets))
    layers = []
    for l in range(logits.shape[1]):
        p = softmax(logits[:, l].astype(np.float64))
        experts = np.argsort(-logits[:, l], axis=-1, kind="stable")[:, :k]
        gates = np.zeros_like(p)
        np.put_along_axis(gates, experts, np.take_along_axis(p, experts, -1), -1)
        if renormalised:
            gates /= gates.sum(1, keepdims=True)
        u = np.array([gates[topic == c].mean(0) for c in range(2)])
        top = np.sort(gates, 1)[:, ::-1]
        layers.append({"specialisation": std_over_topics(u), "mutual_information_bits": mutual_information(u),
                       "gate_margin": float((top[:, 0] - top[:, 1]).mean()),
                       "max_violation": float(gates.sum(0).max() / gates.sum(0).mean() - 1),
                       "router_entropy_bits": float(np.mean([entropy(row) for row in p]))})
    return layers


def main(folder):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    topics = [0, 1] * 6
    texts = [rng.integers(1 + 30 * c, 34 + 30 * c, rng.integers(4, 12)).tolist() for c in topics]
    numbers = {}
    for name, model, renormalised in models():
        logits, offsets = dump(model.eval(), texts, topics, renormalised, f"{folder}/{name}.safetensors")
        numbers[name] = {"experts": logits.shape[2], "slots": model.config.num_experts_per_tok,
                         "layers": expected(logits, offsets, topics, model.config.num_experts_per_tok, renormalised)}
    with open(folder + "/expected.json", "w") as f:
        json.dump(numbers, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
