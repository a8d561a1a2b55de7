// Rows that are gathered from all ranks later than they are asked for, so that they can travel together with what else is sent then.
#pragma once
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace glia {

class RowsLater {
 public:
  using Use = std::function<void(const Tensor& all)>;

  // use() gets the rows of all ranks, [R T, H], once they are there.     own [T, H], of one shape on all ranks
  void add(const Tensor& own, Use use);
  // Asks for all of them; may be within a group of calls (together()).
  void gather();
  // Behind the group: hands them on, in the order in which they were added.
  void use();
  void clear() { waiting_.clear(); }

 private:
  struct Waiting {
    Tensor own, all;
    Use use;
  };
  std::vector<Waiting> waiting_;
};

}  // namespace glia
