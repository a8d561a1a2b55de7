#include "moe/step_statistics.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/ranks/pack.h"

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

// What is reduced alike travels together. May be called within a group of the communicator's calls: nothing reads here what they give.
void StepRoutings::reduce(Communicator& ranks) {
  if (ranks.size() == 1) return;
  constexpr int64_t kAlign = 8;  // elements, 16 bytes at least: as wide as what anybody reads at once
  enum class How { kSum, kMax, kGather };
  std::map<std::pair<How, DType>, std::vector<StepStatistics::Entry*>> alike;
  for (StepStatistics& layer : layers_)
    for (auto& [name, e] : layer.entries_) {
      const How how = e.reduction == StatisticReduction::kEach  ? How::kGather
                      : e.reduction == StatisticReduction::kMax ? How::kMax
                                                                : How::kSum;
      alike[{how, e.values[0].dtype()}].push_back(&e);
    }
  for (const auto& [kind, entries] : alike) {
    const auto [how, dtype] = kind;
    std::vector<Tensor> mine;
    for (const StepStatistics::Entry* e : entries) mine.insert(mine.end(), e->values.begin(), e->values.end());
    const int64_t size = packed_size(mine, kAlign), copies = how == How::kGather ? ranks.size() : 1;
    // Of a copy: a value may be a state, or what a router still holds.
    const Tensor all = empty(mine[0].context(), {copies, size}, dtype);
    const auto of = [&](int r) { return all.rows(r, r + 1).reshape({size}); };
    const Tensor own = of(how == How::kGather ? ranks.rank() : 0);
    pack_into(own, mine, kAlign);
    if (how == How::kGather) ranks.all_gather(own.raw(), all.raw(), size, dtype);
    else ranks.all_reduce(own.raw(), size, dtype, how == How::kMax ? Reduction::kMax : Reduction::kSum);
    std::vector<std::vector<Tensor>> each;  // of a copy
    for (int r = 0; r < copies; ++r) each.push_back(unpack(of(r), mine, kAlign));
    size_t at = 0;
    for (StepStatistics::Entry* e : entries) {
      const size_t count = e->values.size();
      e->values.clear();
      for (size_t i = 0; i < count; ++i, ++at)
        for (const std::vector<Tensor>& copy : each) e->values.push_back(copy[at]);
      e->count *= ranks.size();
    }
  }
}

void StepRoutings::add(const std::vector<Routing>& routings) {
  layers_.resize(std::max(layers_.size(), routings.size()));
  for (size_t l = 0; l < routings.size(); ++l) layers_[l].add(routings[l].statistics);
}

}  // namespace glia
