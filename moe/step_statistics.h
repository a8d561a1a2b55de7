// What a step's routings have to tell the routers' after_step(): the statistics of every layer, over the micro-batches.
#pragma once
#include <map>

#include "nn/feed_forward.h"

namespace glia {

// Of one layer. Values stay on the device.
class StepStatistics {
 public:
  void add(const std::vector<Statistic>& statistics);
  // Reduced as the statistic says; for one that is kept value by value use each(). Unknown names are errors.
  Tensor operator[](const std::string& name) const;
  const std::vector<Tensor>& each(const std::string& name) const { return entry(name).values; }

 private:
  friend class StepRoutings;
  struct Entry {
    StatisticReduction reduction = StatisticReduction::kSum;
    int64_t count = 0;           // of micro-batches
    std::vector<Tensor> values;  // one, reduced as far as it goes; with kEach all
  };
  const Entry& entry(const std::string& name) const;
  std::map<std::string, Entry> entries_;
};

// Of all layers. add() the routings of each forward pass of the step.
class StepRoutings {
 public:
  void add(const std::vector<Routing>& routings);
  // Over the ranks as over micro-batches; nothing with one rank. Within a group of calls too (together()).
  void reduce(Communicator& ranks);
  const std::vector<StepStatistics>& layers() const { return layers_; }

 private:
  std::vector<StepStatistics> layers_;
};

}  // namespace glia
