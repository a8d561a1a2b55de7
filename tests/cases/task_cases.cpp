// Rows of the table for losses over a vocabulary.
#include "engine/ops/loss/vocabulary_loss.h"
#include "tests/cases/op_cases.h"

namespace glia {

void add_task_cases(std::vector<OpCase>& cases) {
  const auto targets = [](Context& c) { return from_vector<int32_t>(c, {3, -1, 0, 12, 3, -1}, {6}); };
  for (const int64_t words : {13, 130})
    cases.push_back({words == 13 ? "vocabulary_loss" : "vocabulary_loss/130",
                     {{{6, 8}}, {{words, 8}}, {{words}}},
                     [targets](Context& c, const std::vector<Var>& v) {
                       return vocabulary_loss(v[0], v[1], v[2], targets(c)).loss;
                     },
                     false});
}

}  // namespace glia
