// The shape of a BERT encoder; the defaults are google/bert_uncased_L-4_H-512_A-8 (docs/science.md 1).
#pragma once
#include <cstdint>

namespace glia {

struct BertConfig {
  int64_t layers = 4, hidden = 512, heads = 8, ffn = 2048;  // L, H, A, F
  int64_t vocabulary = 30522, positions = 512, types = 2;   // V
  int64_t classes = 4;                                      // C
  double dropout = 0.1;                                     // hidden and attention
  double layer_norm_eps = 1e-12;
  double init_std = 0.02;
  bool causal = false;  // a row sees itself and the rows before it: a decoder
  bool pre_norm =
      false;  // norms before attention and FFN and a last one in the head (GPT-2), instead of behind them
  bool rotary =
      false;  // places turn queries and keys (engine/ops/attention/rotary.h); else a row of each is learnt
};

}  // namespace glia
