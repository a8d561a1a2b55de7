#include "moe/step_statistics.h"

#include "engine/ops/elementwise/elementwise.h"

namespace glia {
namespace {

Tensor larger(const Tensor& a, const Tensor& b) {  // a + max(b − a, 0)
  return add(a, relu(sub(b, a))).value();
}

}  // namespace

void StepStatistics::add(const std::vector<Statistic>& statistics) {
  for (const Statistic& s : statistics) {
    Entry& e = entries_[s.name];
    ++e.count;
    if (e.values.empty() || s.reduction == StatisticReduction::kEach) {
      e.reduction = s.reduction;
      e.values.push_back(s.value);
      continue;
    }
    CHECK(e.reduction == s.reduction && e.values[0].shape() == s.value.shape(),
          "statistic '{}': wants {} in every micro-batch, got {}", s.name, e.values[0].shape(), s.value.shape());
    Tensor& to = e.values[0];
    to = s.reduction == StatisticReduction::kMax ? larger(to, s.value) : glia::add(to, s.value).value();
  }
}

const StepStatistics::Entry& StepStatistics::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  CHECK(found != entries_.end(), "statistic '{}': no routing of this step has it", name);
  return found->second;
}

Tensor StepStatistics::operator[](const std::string& name) const {
  const Entry& e = entry(name);
  CHECK(e.reduction != StatisticReduction::kEach, "statistic '{}' is not one value; each() gives all", name);
  if (e.reduction != StatisticReduction::kMean || e.count == 1) return e.values[0];
  return scale(e.values[0], 1.0 / static_cast<double>(e.count)).value();
}

void StepRoutings::add(const std::vector<Routing>& routings) {
  layers_.resize(std::max(layers_.size(), routings.size()));
  for (size_t l = 0; l < routings.size(); ++l) layers_[l].add(routings[l].statistics);
}

}  // namespace glia
