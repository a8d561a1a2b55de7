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

void StepStatistics::reduce(Communicator& communicator) {
  if (communicator.size() == 1) return;
  for (auto& [name, e] : entries_) {
    if (e.reduction == StatisticReduction::kEach) {
      std::vector<Tensor> all;
      for (const Tensor& mine : e.values) {
        const Tensor gathered = empty(mine.context(), {communicator.size(), mine.numel()}, mine.dtype());
        communicator.all_gather(mine.raw(), gathered.raw(), mine.numel(), mine.dtype());
        for (int r = 0; r < communicator.size(); ++r) all.push_back(gathered.rows(r, r + 1).reshape(mine.shape()));
      }
      e.values = std::move(all);
    } else {
      const bool largest = e.reduction == StatisticReduction::kMax;
      e.values[0] = e.values[0].clone();  // a state, or what a router still holds
      communicator.all_reduce(e.values[0].raw(), e.values[0].numel(), e.values[0].dtype(),
                              largest ? Reduction::kMax : Reduction::kSum);
    }
    e.count *= communicator.size();
  }
}

void StepRoutings::reduce(Communicator& communicator) {
  for (StepStatistics& layer : layers_) layer.reduce(communicator);
}

void StepRoutings::add(const std::vector<Routing>& routings) {
  layers_.resize(std::max(layers_.size(), routings.size()));
  for (size_t l = 0; l < routings.size(); ++l) layers_[l].add(routings[l].statistics);
}

}  // namespace glia
