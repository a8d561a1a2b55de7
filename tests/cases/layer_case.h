// What rows for layers are made of: a small model, a batch of two sequences, and a case of a module's parameters.
#pragma once
#include "engine/ops/rows/rows.h"
#include "nn/bert_config.h"
#include "nn/parameters.h"
#include "nn/pass.h"
#include "tests/cases/op_cases.h"

namespace glia {

using Vars = std::vector<Var>;
using Forward = std::function<Var(const Pass&, const Vars&)>;  // the variables before the parameters
using Make = std::function<Forward(ParameterSet&)>;            // declares parameters

BertConfig small_bert();

// Two sequences of 4 and 5 rows; a tail of 2.
constexpr int64_t kTokens = 11;
Tensor ids(Context& context);  // int32 [kTokens]

// Numbers that are no inputs, the same in every dtype and on every device.
Tensor constants(Context& context, const Shape& shape, DType dtype);

inline bool all_move(const Parameter&) { return true; }

// `moves`: which parameters are inputs; the others are constants.
OpCase layer_case(const std::string& name, std::vector<CaseInput> inputs, const Make& make,
                  bool (*moves)(const Parameter&) = all_move);

}  // namespace glia
