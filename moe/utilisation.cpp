#include "moe/utilisation.h"

#include "engine/ops/loss/statistics.h"

namespace glia {

Utilisation::Utilisation(Context& context, int64_t layers, int64_t classes, int64_t n_experts)
    : sums_(zeros(context, {layers, 2, classes, n_experts + 1}, DType::kFloat64)) {}

void Utilisation::add(const std::vector<Routing>& routings, const Tensor& labels, const Sequences& sequences) {
  CHECK(static_cast<int64_t>(routings.size()) == sums_.size(0), "utilisation: wants {} layers, got {}",
        sums_.size(0), routings.size());
  const Shape one = sums_.shape().without(0);
  for (int64_t l = 0; l < sums_.size(0); ++l) {
    const Routing& r = routings[static_cast<size_t>(l)];
    CHECK(r.n_experts == sums_.size(3) - 1, "utilisation: layer {} has {} experts, not {}", l, r.n_experts,
          sums_.size(3) - 1);
    accumulate_utilisation(r.gates.value(), r.experts, labels, sequences, sums_.rows(l, l + 1).reshape(one));
  }
}

void Utilisation::reduce(Communicator& communicator) {
  communicator.all_reduce(sums_.raw(), sums_.numel(), sums_.dtype(), Reduction::kSum);
}

std::vector<Utilisation::Layer> Utilisation::read() const {
  const std::vector<double> sums = sums_.to_vector<double>();
  const int64_t layers = sums_.size(0), classes = sums_.size(2), experts = sums_.size(3) - 1;
  const auto table = [&](int64_t l, int64_t view) {
    Table t{classes, experts, std::vector<double>(static_cast<size_t>(classes * experts)), {}};
    for (int64_t c = 0; c < classes; ++c) {
      const double* row = sums.data() + ((l * 2 + view) * classes + c) * (experts + 1);
      t.rows.push_back(row[experts]);
      for (int64_t e = 0; e < experts; ++e)
        t.mean[static_cast<size_t>(c * experts + e)] = row[experts] > 0 ? row[e] / row[experts] : 0;
    }
    return t;
  };
  std::vector<Layer> all;
  for (int64_t l = 0; l < layers; ++l) all.push_back({table(l, 0), table(l, 1)});
  return all;
}

}  // namespace glia
