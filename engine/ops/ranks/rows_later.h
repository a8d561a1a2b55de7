// Rows of all ranks that are wanted later than they are asked for: so they can be under way meanwhile, or travel together with what else
// is sent then.
#pragma once
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace glia {

class RowsLater {
 public:
  using Send = std::function<void(const Tensor& all)>;
  using Use = std::function<void(const Tensor& all)>;

  // What is added from now on is sent at once, beside what follows. Without a `send`: by gather().
  void begin(Send send);
  // use() gets the rows of all ranks once they are there.     all [R T, H], of one shape on all ranks, of which this one's are written
  void add(const Tensor& all, Use use);
  // Asks for what is not under way; may be within a group of calls (together()).
  void gather();
  // Behind the group, and behind what was sent: hands all on, in the order in which they were added.
  void use();

 private:
  struct Waiting {
    Tensor all;
    Use use;
    bool sent;
  };
  Send send_;
  std::vector<Waiting> waiting_;
};

}  // namespace glia
